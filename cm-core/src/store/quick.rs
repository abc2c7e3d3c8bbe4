//! Hash maps for names that a worker has ten thousand of whenever it starts. Pure.
//!
//! The standard hasher withstands who chooses keys that collide. These keys are declared by who may have every file of the
//! machine changed, so that nothing is lost by one that takes a tenth of the time. Nobody iterates where order counts.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with names for keys.
pub type Names<V> = HashMap<String, V, BuildHasherDefault<Quick>>;

/// Eight bytes by one multiplication.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quick(u64);

/// Odd, and without a pattern: the golden ratio's digits.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Quick {
    const fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            // Fewer than eight: the last byte tells how many, so that zeros at the end count.
            let mut word = [0, 0, 0, 0, 0, 0, 0, rest.len().to_le_bytes()[0]];
            for (to, from) in word.iter_mut().zip(rest) {
                *to = *from;
            }
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn finish(&self) -> u64 {
        // A multiplication carries upwards only, and a table looks at the low bits.
        (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR).rotate_left(32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::BuildHasher;

    #[test]
    fn names_that_differ_little_spread() {
        let build = BuildHasherDefault::<Quick>::default();
        let of = |name: &str| build.hash_one(name);
        let names: Vec<String> = (0..10_000).map(|n| format!("/srv/managed/{}/{n}", n / 100)).collect();
        let all: BTreeSet<u64> = names.iter().map(|n| of(n)).collect();
        let low: BTreeSet<u64> = names.iter().map(|n| of(n) & 0x3fff).collect();
        let high: BTreeSet<u64> = names.iter().map(|n| of(n) >> 57).collect();
        assert_eq!((all.len(), high.len()), (10_000, 128));
        // Of 10,000 thrown into 16,384 places, some 7,480 are expected to be taken.
        assert!(low.len() > 7_000, "{} places taken", low.len());
        assert_ne!(of("a"), of("a\0"));
    }
}
