//! RFLAGS with lazily computed status flags.
//!
//! Contract: `result` and `aux` encode the six status flags; `system` holds the others. Two
//! encodings can mean the same flags: state is compared and saved through [`Flags::get`].

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Carry.
pub const CF: u64 = 1;
/// Parity.
pub const PF: u64 = 1 << 2;
/// Auxiliary carry.
pub const AF: u64 = 1 << 4;
/// Zero.
pub const ZF: u64 = 1 << 6;
/// Sign.
pub const SF: u64 = 1 << 7;
/// Trap.
pub const TF: u64 = 1 << 8;
/// Interrupt enable.
pub const IF: u64 = 1 << 9;
/// Direction.
pub const DF: u64 = 1 << 10;
/// Overflow.
pub const OF: u64 = 1 << 11;
/// I/O privilege level.
pub const IOPL: u64 = 3 << 12;
/// Nested task.
pub const NT: u64 = 1 << 14;
/// Resume.
pub const RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const VM: u64 = 1 << 17;
/// Alignment check or SMAP override.
pub const AC: u64 = 1 << 18;
/// Virtual interrupt.
pub const VIF: u64 = 1 << 19;
/// Virtual interrupt pending.
pub const VIP: u64 = 1 << 20;
/// CPUID toggle.
pub const ID: u64 = 1 << 21;
/// The six status flags.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
/// Every flag that can be set.
pub const ALL: u64 = STATUS | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;

/// RFLAGS.
///
/// ZF is `result == 0`; SF is bit 63 of `result` xor bit 0 of `aux`; PF is the parity of the low
/// byte of `result` xor byte 1 of `aux`; CF is bit 63 of `aux`; OF is bit 63 xor bit 62 of `aux`;
/// AF is bit 3 of `aux`.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    /// Sign-extended result of the last flag-setting operation.
    pub result: u64,
    /// Carries and corrections.
    pub aux: u64,
    /// All flags but the status flags, bit 1 included.
    pub system: u64,
}

impl Flags {
    /// Flags after reset: 2.
    pub fn new() -> Self {
        let mut flags = Self { result: 0, aux: 0, system: 2 };
        flags.set_status(0);
        flags
    }

    /// Carry flag.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        (self.aux as i64) < 0
    }

    /// Zero flag.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }

    /// Sign flag.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        ((self.result >> 63) ^ self.aux) & 1 != 0
    }

    /// Overflow flag.
    #[inline(always)]
    pub fn of(&self) -> bool {
        ((self.aux ^ (self.aux << 1)) as i64) < 0
    }

    /// Parity flag.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        (self.result as u8 ^ (self.aux >> 8) as u8).count_ones() & 1 == 0
    }

    /// Auxiliary carry flag.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.aux & 8 != 0
    }

    /// The status flags in their places.
    pub fn status(&self) -> u64 {
        u64::from(self.cf())
            | u64::from(self.pf()) << 2
            | u64::from(self.af()) << 4
            | u64::from(self.zf()) << 6
            | u64::from(self.sf()) << 7
            | u64::from(self.of()) << 11
    }

    /// RFLAGS as PUSHF sees it (RF and VM included).
    pub fn get(&self) -> u64 {
        self.system | self.status()
    }

    /// Sets the six status flags from their places in `flags`.
    pub fn set_status(&mut self, flags: u64) {
        self.result = u64::from(flags & ZF == 0);
        let cf = flags & CF;
        let of = (flags >> 11) & 1;
        // result is 0 (even parity, PF = 1) or 1 (odd, PF = 0)
        let parity = ((flags >> 2) & 1) ^ u64::from(self.result == 0);
        self.aux =
            cf << 63 | (cf ^ of) << 62 | ((flags >> 7) & 1) | parity << 8 | ((flags >> 4) & 1) << 3;
    }

    /// Replaces the whole register; undefined bits are dropped, bit 1 is set.
    pub fn set(&mut self, flags: u64) {
        self.set_status(flags);
        self.system = (flags & ALL & !STATUS) | 2;
    }

    /// Sets CF alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        let flip = (u64::from(cf) << 63) ^ (self.aux & (1 << 63));
        self.aux ^= flip | flip >> 1;
    }
}

impl Default for Flags {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Flags {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}
impl Eq for Flags {}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.get().serialize(s)
    }
}
impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut flags = Self::new();
        flags.set(u64::deserialize(d)?);
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_of_flags_is_kept() {
        let mut flags = Flags::new();
        for n in 0..64u64 {
            let want = (n & 1)
                | (n & 2) << 1
                | (n & 4) << 2
                | (n & 8) << 3
                | (n & 16) << 3
                | (n & 32) << 6;
            flags.set(want | IF);
            assert_eq!(flags.get(), want | IF | 2);
            for cf in [false, true] {
                let mut f = flags;
                f.set_cf(cf);
                assert_eq!(f.get(), (want & !CF) | u64::from(cf) | IF | 2);
            }
        }
    }
}
