//! What is done to a seed: the cheap changes that find most of what there is to find.

use crate::sim::dice::Dice;

/// Longest input that is made.
const MOST: usize = 64 << 10;

const NUMBERS: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, u64::MAX];

fn at(dice: &mut Dice, length: usize) -> usize {
    usize::try_from(dice.below(length as u64)).unwrap_or(0)
}

/// A range that lies inside.
fn range(dice: &mut Dice, length: usize) -> std::ops::Range<usize> {
    let from = at(dice, length + 1);
    let most = (length - from).min(if dice.chance(800) { 16 } else { length });
    from..from + at(dice, most + 1)
}

/// A seed, changed in one to eight places.
pub fn mutate(dice: &mut Dice, seed: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=dice.below(8) {
        let place = at(dice, bytes.len() + 1);
        match dice.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = dice.pick(b"\0\n\r\t \"'[]{}=.:/\\,0-9$\x7f\x80\xc3\xff");
                }
            }
            2 => drop(bytes.drain(range(dice, bytes.len()))),
            3 => {
                let copy = bytes.get(range(dice, bytes.len())).unwrap_or_default().to_vec();
                drop(bytes.splice(place..place, copy));
            }
            4 => {
                let piece = other.get(range(dice, other.len())).unwrap_or_default().to_vec();
                drop(bytes.splice(place..place, piece));
            }
            5 => {
                let number = dice.pick(&NUMBERS).to_le_bytes();
                let width = dice.pick(&[1, 2, 4, 8]).min(bytes.len() - place);
                let number = number.get(..width).unwrap_or_default().to_vec();
                drop(bytes.splice(place..place + width, number));
            }
            6 if !words.is_empty() => {
                drop(bytes.splice(place..place, dice.pick(words).bytes()));
            }
            7 => bytes.truncate(place),
            _ => {
                let width = 4.min(bytes.len() - place);
                let random = dice.next().to_le_bytes();
                drop(
                    bytes
                        .splice(place..place + width, random.iter().take(width).copied().collect::<Vec<_>>()),
                );
            }
        }
    }
    bytes.truncate(MOST);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_input() {
        let make = |n: u64| mutate(&mut Dice::of(&[n]), b"some bytes", b"others", &["word"]);
        assert_eq!(make(1), make(1));
        let all: std::collections::BTreeSet<Vec<u8>> = (0..1000).map(make).collect();
        assert!(all.len() > 800, "only {} inputs of 1000 differ", all.len());
    }
}
