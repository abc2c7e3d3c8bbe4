//! Records as bytes: postcard's form of them, as [`postcard::to_allocvec`] gives it, made in one piece.
//!
//! Nearly all of a record are numbers of one byte. To append each to a vector that grows is most of what PID 1 does when it
//! writes down what it did; here a byte is stored into room that is there.

use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// Bytes that there is room for at first: most records are shorter.
const ROOM: usize = 256;

struct Room {
    bytes: Vec<u8>,
    used: usize,
}

impl Flavor for Room {
    type Output = Vec<u8>;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        for byte in data {
            if self.used == self.bytes.len() {
                self.bytes.resize(self.used.saturating_mul(2), 0);
            }
            if let Some(place) = self.bytes.get_mut(self.used) {
                *place = *byte;
                self.used += 1;
            }
        }
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Vec<u8>> {
        self.bytes.truncate(self.used);
        Ok(self.bytes)
    }
}

/// The bytes of a value.
///
/// # Errors
/// When the value cannot be told in postcard's form: a list whose length is not known before.
pub fn pack<T: Serialize + ?Sized>(value: &T) -> postcard::Result<Vec<u8>> {
    postcard::serialize_with_flavor(value, Room { bytes: vec![0; ROOM], used: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_postcard() {
        let long = "x".repeat(3 * ROOM);
        let values =
            [(0_u64, "", None), (u64::MAX, "service:x", Some(-1_i32)), (300, long.as_str(), Some(7))];
        for value in values {
            assert_eq!(pack(&value).unwrap(), postcard::to_allocvec(&value).unwrap());
        }
        assert_eq!(pack(&values[..]).unwrap(), postcard::to_allocvec(&values[..]).unwrap());
        assert_eq!(pack(&()).unwrap(), [0_u8; 0]);
    }
}
