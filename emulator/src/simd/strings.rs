//! The string comparisons of SSE4.2: PCMPESTRI, PCMPESTRM, PCMPISTRI and PCMPISTRM
//! (SDM 1 12.3, SDM 2B 4.1).

/// What a comparison gives before it is turned into an index or a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// IntRes2: a bit for each element.
    pub bits: u16,
    /// Elements in a register: 8 or 16.
    pub elements: u8,
    /// ZF: the second string ends within its register.
    pub zero: bool,
    /// SF: the first string ends within its register.
    pub sign: bool,
}

impl Comparison {
    /// CF.
    pub fn carry(&self) -> bool {
        self.bits != 0
    }

    /// OF.
    pub fn overflow(&self) -> bool {
        self.bits & 1 != 0
    }

    /// The index in ECX: of the least or, with bit 6 of the immediate, the most significant one.
    pub fn index(&self, imm: u8) -> u32 {
        if self.bits == 0 {
            u32::from(self.elements)
        } else if imm & 0x40 != 0 {
            15 - self.bits.leading_zeros()
        } else {
            self.bits.trailing_zeros()
        }
    }

    /// The mask in XMM0: bits or, with bit 6 of the immediate, elements of ones.
    pub fn mask(&self, imm: u8) -> u128 {
        if imm & 0x40 == 0 {
            return u128::from(self.bits);
        }
        let width = 128 / u32::from(self.elements);
        (0..u32::from(self.elements))
            .filter(|i| self.bits >> i & 1 != 0)
            .fold(0, |mask, i| mask | ((1 << width) - 1) << (width * i))
    }
}

/// The elements of a register, and how many of them are valid.
struct Elements {
    values: [i32; 16],
    valid: usize,
}

impl Elements {
    fn new(register: u128, imm: u8) -> Self {
        let mut values = [0; 16];
        for (i, value) in values.iter_mut().take(count(imm)).enumerate() {
            *value = match imm & 3 {
                0 => i32::from((register >> (8 * i)) as u8),
                1 => i32::from((register >> (16 * i)) as u16),
                2 => i32::from((register >> (8 * i)) as i8),
                _ => i32::from((register >> (16 * i)) as i16),
            };
        }
        Self { values, valid: count(imm) }
    }

    /// Ends at the first zero element.
    fn implicit(mut self) -> Self {
        self.valid = self.values[..self.valid].iter().position(|v| *v == 0).unwrap_or(self.valid);
        self
    }

    /// Ends at the magnitude of a length register.
    fn explicit(mut self, length: i64) -> Self {
        self.valid = length.unsigned_abs().min(self.valid as u64) as usize;
        self
    }
}

fn count(imm: u8) -> usize {
    if imm & 1 != 0 { 8 } else { 16 }
}

/// Compares null-terminated strings (PCMPISTRI, PCMPISTRM).
pub fn implicit_length(a: u128, b: u128, imm: u8) -> Comparison {
    compare(&Elements::new(a, imm).implicit(), &Elements::new(b, imm).implicit(), imm)
}

/// Compares strings with lengths (PCMPESTRI, PCMPESTRM).
pub fn explicit_length(a: u128, a_length: i64, b: u128, b_length: i64, imm: u8) -> Comparison {
    let (a, b) = (Elements::new(a, imm), Elements::new(b, imm));
    compare(&a.explicit(a_length), &b.explicit(b_length), imm)
}

fn compare(a: &Elements, b: &Elements, imm: u8) -> Comparison {
    let elements = count(imm);
    let mut bits = 0u16;
    for j in 0..elements {
        let holds = match imm >> 2 & 3 {
            0 => j < b.valid && a.values[..a.valid].contains(&b.values[j]),
            1 => j < b.valid && in_ranges(a, b.values[j]),
            2 => match (j < a.valid, j < b.valid) {
                (true, true) => a.values[j] == b.values[j],
                (a_valid, b_valid) => a_valid == b_valid,
            },
            _ => found_at(a, b, j, elements),
        };
        bits |= u16::from(holds) << j;
    }
    let all = if elements == 16 { u16::MAX } else { 0xff };
    let bits = match imm >> 4 & 3 {
        1 => bits ^ all,
        // Only the valid elements of the second string are negated.
        3 => bits ^ ((1u32 << b.valid) - 1) as u16,
        _ => bits,
    };
    Comparison {
        bits,
        elements: elements as u8,
        zero: b.valid < elements,
        sign: a.valid < elements,
    }
}

/// Whether a value lies in one of the ranges that the pairs of elements of `a` bound. An odd last
/// element bounds nothing.
fn in_ranges(a: &Elements, value: i32) -> bool {
    a.values[..a.valid].chunks_exact(2).any(|range| range[0] <= value && value <= range[1])
}

/// Whether `a` is found in `b` at `from`, as far as the register reaches.
fn found_at(a: &Elements, b: &Elements, from: usize, elements: usize) -> bool {
    (0..elements - from)
        .all(|i| i >= a.valid || from + i < b.valid && a.values[i] == b.values[from + i])
}
