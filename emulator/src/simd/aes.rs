//! AES rounds (FIPS 197, SDM 2A AESENC and kin) and carry-less multiplication (PCLMULQDQ).

/// The S-box, computed from its definition: the inverse in GF(2^8), then an affine map.
const SBOX: [u8; 256] = {
    let mut sbox = [0; 256];
    // Walk the powers of 3, a generator, and at the same time those of its inverse.
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p = p ^ double(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        if q & 0x80 != 0 {
            q ^= 9;
        }
        let affine = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4);
        sbox[p as usize] = affine ^ 0x63;
        if p == 1 {
            break;
        }
    }
    sbox[0] = 0x63;
    sbox
};

const INVERSE_SBOX: [u8; 256] = {
    let mut inverse = [0; 256];
    let mut i = 0;
    while i < 256 {
        inverse[SBOX[i] as usize] = i as u8;
        i += 1;
    }
    inverse
};

/// Times x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn double(x: u8) -> u8 {
    x << 1 ^ if x & 0x80 != 0 { 0x1b } else { 0 }
}

const fn times(x: u8, y: u8) -> u8 {
    let (mut x, mut y, mut product) = (x, y, 0);
    while y != 0 {
        if y & 1 != 0 {
            product ^= x;
        }
        x = double(x);
        y >>= 1;
    }
    product
}

/// For each byte the column that it contributes to MixColumns, its S-box applied before.
const fn column_table(sbox: Option<&[u8; 256]>, factors: [u8; 4]) -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let x = match sbox {
            Some(sbox) => sbox[i],
            None => i as u8,
        };
        table[i] = u32::from_le_bytes([
            times(x, factors[0]),
            times(x, factors[1]),
            times(x, factors[2]),
            times(x, factors[3]),
        ]);
        i += 1;
    }
    table
}

/// SubBytes and MixColumns.
static ENCRYPT: [u32; 256] = column_table(Some(&SBOX), [2, 1, 1, 3]);
/// InvSubBytes and InvMixColumns.
static DECRYPT: [u32; 256] = column_table(Some(&INVERSE_SBOX), [14, 9, 13, 11]);
/// InvMixColumns.
static UNMIX: [u32; 256] = column_table(None, [14, 9, 13, 11]);

/// One round by table: byte `row` of column `c` comes from column `c + step * row`.
fn round(state: u128, table: &[u32; 256], step: usize) -> u128 {
    let bytes = state.to_le_bytes();
    let mut out = 0;
    for column in 0..4 {
        let mut mixed = 0u32;
        for row in 0..4 {
            let from = bytes[(column + step * row) % 4 * 4 + row];
            mixed ^= table[usize::from(from)].rotate_left(8 * row as u32);
        }
        out |= u128::from(mixed) << (32 * column);
    }
    out
}

/// The last round: no MixColumns.
fn last_round(state: u128, sbox: &[u8; 256], step: usize) -> u128 {
    let bytes = state.to_le_bytes();
    u128::from_le_bytes(core::array::from_fn(|i| {
        let (column, row) = (i / 4, i % 4);
        sbox[usize::from(bytes[(column + step * row) % 4 * 4 + row])]
    }))
}

/// One round of encryption.
pub fn aesenc(state: u128, key: u128) -> u128 {
    round(state, &ENCRYPT, 1) ^ key
}

/// The last round of encryption.
pub fn aesenclast(state: u128, key: u128) -> u128 {
    last_round(state, &SBOX, 1) ^ key
}

/// One round of decryption, for the equivalent inverse cipher.
pub fn aesdec(state: u128, key: u128) -> u128 {
    round(state, &DECRYPT, 3) ^ key
}

/// The last round of decryption.
pub fn aesdeclast(state: u128, key: u128) -> u128 {
    last_round(state, &INVERSE_SBOX, 3) ^ key
}

/// InvMixColumns of a round key.
pub fn aesimc(key: u128) -> u128 {
    round(key, &UNMIX, 0)
}

/// Helps to generate round keys.
pub fn aeskeygenassist(key: u128, constant: u8) -> u128 {
    let sub = |i: u32| {
        let word = (key >> (32 * i)) as u32;
        u32::from_le_bytes(word.to_le_bytes().map(|byte| SBOX[usize::from(byte)]))
    };
    let (x1, x3) = (sub(1), sub(3));
    let turned = |x: u32| x.rotate_right(8) ^ u32::from(constant);
    u128::from(x1)
        | u128::from(turned(x1)) << 32
        | u128::from(x3) << 64
        | u128::from(turned(x3)) << 96
}

/// The product of two quadwords as polynomials over GF(2), the immediate choosing which.
pub fn pclmulqdq(a: u128, b: u128, imm: u8) -> u128 {
    let a = (a >> (64 * (imm & 1))) as u64;
    let b = (b >> (64 * (imm >> 4 & 1))) as u64;
    // Four bits at a time by a table of the multiples of a.
    let mut multiples = [0u128; 16];
    for i in 1..16 {
        multiples[i] = multiples[i / 2] << 1 ^ if i & 1 != 0 { u128::from(a) } else { 0 };
    }
    (0..16).rev().fold(0, |product, i| product << 4 ^ multiples[(b >> (4 * i) & 15) as usize])
}
