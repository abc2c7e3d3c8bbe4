//! A small generator of its own: one seed, one history, whatever versions the dependencies have.

/// SplitMix64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dice(u64);

impl Dice {
    /// A generator that starts from this number.
    pub const fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A generator for one purpose: what is drawn elsewhere does not shift it, so that a history from which
    /// something was removed stays the same everywhere else.
    pub fn of(parts: &[u64]) -> Dice {
        let mut dice = Dice(0x9e37_79b9);
        for part in parts {
            dice.0 = dice.next() ^ *part;
        }
        Dice(dice.next())
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 for 0.
    pub const fn below(&mut self, n: u64) -> u64 {
        if n == 0 { 0 } else { self.next() % n }
    }

    /// True so many times in a thousand.
    pub const fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let len = u64::try_from(of.len()).unwrap_or(1);
        of[usize::try_from(self.below(len)).unwrap_or(0)]
    }

    /// A number that is mostly small: a delay of the world, in microseconds.
    pub const fn delay(&mut self) -> u64 {
        match self.below(10) {
            0..=3 => self.below(200),
            4..=7 => self.below(20_000),
            8 => self.below(400_000),
            _ => self.below(3_000_000),
        }
    }
}
