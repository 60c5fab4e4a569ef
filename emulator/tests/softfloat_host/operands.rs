//! Operands that are likely to hit the special cases, from a fixed seed.

use emulator::softfloat::F80;

/// A xorshift generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 33) % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A significand: random, sparse, or dense in ones.
    fn fraction(&mut self) -> u64 {
        let bits = self.bits();
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => u64::MAX << self.below(64),
            3 => u64::MAX >> self.below(64),
            4 => 1 << self.below(64),
            5 => bits << self.below(64),
            _ => bits,
        }
    }

    /// A biased exponent for a field of `width` bits.
    fn exponent(&mut self, width: u32) -> u64 {
        let top = (1u64 << width) - 1;
        let bias = top >> 1;
        match self.below(10) {
            0 => self.below(3),
            1 => top - self.below(3),
            2 | 3 => self.bits() & top,
            4 => bias + self.below(66),
            _ => bias - 4 + self.below(8),
        }
    }

    pub fn f80(&mut self) -> F80 {
        let exponent = self.exponent(15) as u16;
        let sign = (self.bits() >> 63) as u16;
        let integer = u64::from(exponent != 0 && self.below(40) != 0 || self.below(20) == 0);
        let frac = self.fraction() & !(1 << 63) | integer << 63;
        F80 { sign_exp: sign << 15 | exponent, frac }
    }

    /// A finite, normal number with its exponent in a range.
    pub fn f80_between(&mut self, low: i32, high: i32) -> F80 {
        let exponent = (16383 + low) as u16 + self.below((high - low + 1) as u64) as u16;
        let sign = (self.bits() >> 63) as u16;
        F80 { sign_exp: sign << 15 | exponent, frac: self.fraction() | 1 << 63 }
    }

    pub fn f64(&mut self) -> u64 {
        let exponent = self.exponent(11);
        self.bits() >> 63 << 63 | exponent << 52 | self.fraction() >> 12
    }

    pub fn f32(&mut self) -> u32 {
        let exponent = self.exponent(8) as u32;
        ((self.bits() >> 63) as u32) << 31 | exponent << 23 | (self.fraction() >> 41) as u32
    }

    /// An integer of any size.
    pub fn int(&mut self) -> i64 {
        let bits = self.bits() as i64;
        bits >> self.below(64)
    }

    /// A control word of any rounding and precision; exceptions are masked but now and then.
    pub fn fcw(&mut self) -> u16 {
        let precision = self.pick(&[0u16, 2, 3, 3]);
        let masks = if self.below(3) == 0 { self.below(64) as u16 } else { 0x3f };
        (self.below(4) as u16) << 10 | precision << 8 | 0x40 | masks
    }

    /// An MXCSR with all exceptions masked and any rounding, FZ, DAZ and sticky flags.
    pub fn mxcsr(&mut self) -> u32 {
        let sticky = self.pick(&[0u32, 0, 0x20, 0x3f]);
        let daz = self.pick(&[0u32, 0, 0x40]);
        let ftz = self.pick(&[0u32, 0, 0x8000]);
        let rounding = self.pick(&[0, 0, 0, 1, 2, 3]);
        0x1f80 | rounding << 13 | daz | ftz | sticky
    }
}
