//! Internet checksums (RFC 1071).

/// The ones' complement sum of big-endian words, folded to 16 bits; an odd last byte counts as the
/// high half of a word.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    fold(partial(bytes))
}

/// The unfolded sum.
pub(super) fn partial(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(4);
    let mut total = 0u64;
    for chunk in &mut chunks {
        total += u64::from(u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]));
    }
    let mut last = [0; 4];
    let rest = chunks.remainder();
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_be_bytes(last))
}

/// Folds an unfolded sum to 16 bits.
pub(super) fn fold(mut total: u64) -> u16 {
    while total > 0xFFFF {
        total = (total >> 16) + (total & 0xFFFF);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        // RFC 1071 section 3.
        assert_eq!(sum(&[0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7]), 0xDDF2);
        assert_eq!(sum(&[0xAB]), 0xAB00);
        assert_eq!(sum(&[0xFF, 0xFF, 0x12, 0x34, 0x56]), 0x6834);
        assert_eq!(sum(&[]), 0);
        let bytes = [0xFF; 16_384];
        assert_eq!(sum(&bytes), 0xFFFF);
    }
}
