//! Operand values: a small seeded generator and the edges of integers and floating-point numbers.

/// SplitMix64: every case is a function of its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that begins at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True once in `times` calls.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A 64-bit integer: random, small, a power of two and its neighbours, or a sign boundary of
    /// some width.
    pub fn integer(&mut self) -> u64 {
        match self.below(10) {
            0..=3 => self.bits(),
            4 => self.below(256),
            5 => (self.below(256)).wrapping_neg(),
            6 => (1u64 << self.below(64)).wrapping_add(self.below(3)).wrapping_sub(1),
            7 => self.bits() >> self.below(64),
            8 => (self.bits() as i64 >> self.below(64)) as u64,
            _ => self.pick(&[
                0,
                1,
                u64::MAX,
                0x7F,
                0x80,
                0x7FFF,
                0x8000,
                0x7FFF_FFFF,
                0x8000_0000,
                0xFFFF_FFFF,
                0x1_0000_0000,
                i64::MAX as u64,
                i64::MIN as u64,
                0x8080_8080_8080_8080,
                0x7F7F_7F7F_7F7F_7F7F,
                0xFFFF_FFFF_0000_0000,
            ]),
        }
    }

    /// A single-precision number: edges of every class, numbers near each other, random bits.
    pub fn float32(&mut self) -> u32 {
        let sign = (self.bits() as u32) & 0x8000_0000;
        let fraction = (self.bits() as u32) & 0x007F_FFFF;
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7F80_0000,
            2 => 0x7FC0_0000 | fraction,
            3 => 0x7F80_0000 | fraction & 0x003F_FFFF | 1,
            4 => fraction,
            5 => self.pick(&[1, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x3F80_0000]),
            6 | 7 => (120 + self.below(16) as u32) << 23 | fraction,
            8 => (127 + self.below(34) as u32) << 23 | fraction & (fraction << 12),
            9 => (self.below(1000) as f32 / 4.0).to_bits(),
            _ => (self.below(255) as u32) << 23 | fraction,
        }
    }

    /// A double-precision number.
    pub fn float64(&mut self) -> u64 {
        let sign = self.bits() & (1 << 63);
        let fraction = self.bits() & ((1 << 52) - 1);
        sign | match self.below(12) {
            0 => 0,
            1 => 0x7FF << 52,
            2 => 0xFFF << 51 | fraction,
            3 => 0x7FF << 52 | fraction & ((1 << 51) - 1) | 1,
            4 => fraction,
            5 => self.pick(&[
                1,
                (1 << 52) - 1,
                1 << 52,
                0x7FEF_FFFF_FFFF_FFFF,
                0x3FF0_0000_0000_0000,
            ]),
            6 => (1015 + self.below(16)) << 52 | fraction,
            7 => (1023 + self.below(66)) << 52 | fraction & (fraction << 30),
            // Around the range of single precision, with the tail that decides its rounding.
            8 => (self.pick(&[873, 896, 897, 1023, 1150]) + self.below(4)) << 52 | fraction,
            9 => (self.below(100_000) as f64 / 8.0).to_bits(),
            _ => self.below(2047) << 52 | fraction,
        }
    }

    /// A double-extended number: 10 bytes, with unsupported encodings now and then.
    pub fn float80(&mut self) -> [u8; 10] {
        let sign = (self.bits() as u16) & 0x8000;
        let random = self.bits();
        let integer_bit = 1u64 << 63;
        let (exponent, significand) = match self.below(14) {
            0 => (0, 0),
            1 => (0x7FFF, integer_bit),
            2 => (0x7FFF, random | 3 << 62),
            3 => (0x7FFF, (random & !(1 << 62)) | integer_bit | 1),
            4 => (0, random & !integer_bit),
            5 => self.pick(&[
                (0, 1),
                (0, integer_bit),
                (1, integer_bit),
                (0x7FFE, u64::MAX),
                (0x3FFF, integer_bit),
                (0x7FFF, 0),
                (0x3FFF, 0x7FFF_FFFF_FFFF_FFFF),
                (0x3FFF, u64::MAX),
            ]),
            6 | 7 => (0x3FF0 + self.below(32) as u16, random | integer_bit),
            8 => (0x3FFF + self.below(70) as u16, random & (random << 32) | integer_bit),
            9 => {
                let near = self.pick(&[0x3F80, 0x3F6A, 0x407E, 0x3C01, 0x3BCD, 0x43FE]);
                (near + self.below(4) as u16, random | integer_bit)
            }
            10 => (0x3FFF, integer_bit | self.below(1 << 20) << 43),
            11 => (self.below(0x7FFF) as u16, random),
            _ => (self.below(0x7FFF) as u16, random | integer_bit),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }

    /// 128 bits that are numbers of some kind in every lane.
    pub fn vector(&mut self) -> u128 {
        match self.below(8) {
            0 | 1 => self.lanes(32, |rng| u64::from(rng.float32())),
            2 | 3 => self.lanes(64, Self::float64),
            4 => self.lanes(8, |rng| rng.pick(&[0, 1, 0x7F, 0x80, 0xFF, rng.0 & 0xFF])),
            5 => self.lanes(16, |rng| rng.integer() & 0xFFFF),
            6 => self.lanes(32, |rng| rng.integer() & 0xFFFF_FFFF),
            _ => self.lanes(64, Self::integer),
        }
    }

    /// 128 bits of lanes of `bits` each.
    pub fn lanes(&mut self, bits: u32, mut lane: impl FnMut(&mut Self) -> u64) -> u128 {
        (0..128 / bits).fold(0, |all, n| all | u128::from(lane(self)) << (n * bits))
    }
}
