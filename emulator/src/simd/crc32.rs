//! The CRC32 instruction: CRC-32C, polynomial 11EDC6F41h, bit-reflected (SDM 2A CRC32).

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// Goes on with `crc` over the low `bytes` bytes of `data`.
pub fn crc32(crc: u32, data: u64, bytes: u32) -> u32 {
    (0..bytes).fold(crc, |crc, i| {
        let index = (crc ^ (data >> (8 * i)) as u32) & 0xff;
        crc >> 8 ^ TABLE[index as usize]
    })
}
