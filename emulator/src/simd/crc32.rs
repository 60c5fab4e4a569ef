//! The CRC32 instruction: CRC-32C, polynomial 11EDC6F41h, bit-reflected (SDM 2A CRC32).

/// For each byte what it contributes to the checksum, 0 to 7 bytes before the end.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut ahead = 1;
    while ahead < 8 {
        let mut i = 0;
        while i < 256 {
            let crc = tables[ahead - 1][i];
            tables[ahead][i] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            i += 1;
        }
        ahead += 1;
    }
    tables
};

/// Goes on with `crc` over the low `bytes` bytes (1, 2, 4 or 8) of `data`.
#[inline]
pub fn crc32(crc: u32, data: u64, bytes: u32) -> u32 {
    let mixed = data ^ u64::from(crc);
    let [a, b, c, d, e, f, g, h] = mixed.to_le_bytes().map(usize::from);
    let t = &TABLES;
    match bytes {
        8 => t[7][a] ^ t[6][b] ^ t[5][c] ^ t[4][d] ^ t[3][e] ^ t[2][f] ^ t[1][g] ^ t[0][h],
        4 => t[3][a] ^ t[2][b] ^ t[1][c] ^ t[0][d],
        2 => t[1][a] ^ t[0][b] ^ crc >> 16,
        _ => t[0][a] ^ crc >> 8,
    }
}
