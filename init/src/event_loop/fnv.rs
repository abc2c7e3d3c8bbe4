//! FNV-1a, for what has to be told apart and not to be kept from an attacker.

/// The hash of these bytes, 64 bits of it.
pub(super) fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}
