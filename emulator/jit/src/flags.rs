//! The guest's status flags while translated code runs.
//!
//! They are in the host's flags, in a word of memory, or nowhere but reproducible from registers
//! (a [`Recipe`]). The word is as LAHF and SETO give it: bits 15:8: SF ZF - AF - PF - CF, bit 0 is
//! OF; where [`AF_CLEAR`] is set AF is 0 whatever bit 12 says, where [`OF_DERIVED`] is set OF is CF
//! xor SF. So three host instructions save flags whichever of them the host leaves undefined.

use crate::asm::alu::{ADD, CMP, SUB};
use crate::asm::reg::*;
use crate::asm::{Asm, Rm};
use crate::layout::{STATE, disp, place, word};
use emulator::cpu::flags::OF;

/// AF is 0.
pub const AF_CLEAR: u64 = 2;
/// OF is CF xor SF.
pub const OF_DERIVED: u64 = 4;
const LOW: u64 = 0xD5;

/// The word for status flags in their places of RFLAGS.
pub fn pack(status: u64) -> u64 {
    (status & LOW) << 8 | u64::from(status & OF != 0)
}

/// The status flags that a word stands for.
pub fn unpack(word: u64) -> u64 {
    let mut low = word >> 8 & LOW;
    if word & AF_CLEAR != 0 {
        low &= !(1 << 4);
    }
    let of = if word & OF_DERIVED != 0 { (low ^ low >> 7) & 1 } else { word & 1 };
    low | of << 11
}

/// Which of the flags after a host instruction are the guest's, and what the others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All.
    Arithmetic,
    /// OF is right (0), AF is 0.
    Logic,
    /// OF is right, AF is 0.
    ShiftOne,
    /// OF and AF are 0.
    ShiftRight,
    /// OF is CF xor SF, AF is 0.
    ShiftLeft,
}

impl Kind {
    /// Whether the host's OF is the guest's.
    pub fn has_overflow(self) -> bool {
        !matches!(self, Kind::ShiftRight | Kind::ShiftLeft)
    }

    /// Saves the host's flags to the word; they stay as they are. Uses RAX.
    pub fn save(self, a: &mut Asm) {
        const WORD: u8 = disp(word::FLAGS) as u8;
        const _: () = assert!(disp(word::FLAGS) == WORD as i8 as i32 && STATE == RBP);
        const DERIVED: u8 = (AF_CLEAR | OF_DERIVED) as u8;
        // lahf; seto al or mov al, imm8 or what makes up the word of them; mov [rbp+disp8], eax
        match self {
            Kind::Arithmetic => a.fixed([0x9F, 0x0F, 0x90, 0xC0, 0x89, 0x45, WORD]),
            Kind::ShiftOne => {
                // lea eax, [rax+AF_CLEAR]
                let or = [0x8D, 0x40, AF_CLEAR as u8];
                a.fixed([0x9F, 0x0F, 0x90, 0xC0, or[0], or[1], or[2], 0x89, 0x45, WORD]);
            }
            Kind::Logic | Kind::ShiftRight => {
                a.fixed([0x9F, 0xB0, AF_CLEAR as u8, 0x89, 0x45, WORD]);
            }
            Kind::ShiftLeft => a.fixed([0x9F, 0xB0, DERIVED, 0x89, 0x45, WORD]),
        }
    }
}

/// A second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A guest register.
    Register(u8),
    /// An immediate.
    Immediate(i32),
}

/// How flags can be had again from guest registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// As `cmp register, source`.
    Compare(u8, u8, Source),
    /// As `test register, source`.
    Test(u8, u8, Source),
    /// The register holds the sum of itself and the source.
    Added(u8, u8, Source),
    /// The register holds the difference.
    Subtracted(u8, u8, Source),
    /// The register was negated.
    Negated(u8, u8),
    /// As `xor register, register`.
    Zero,
}

impl Recipe {
    /// The guest registers that must stay for it to hold.
    pub fn registers(self) -> u32 {
        let source = |s| match s {
            Source::Register(r) => 1 << r,
            Source::Immediate(_) => 0,
        };
        match self {
            Recipe::Compare(_, r, s)
            | Recipe::Test(_, r, s)
            | Recipe::Added(_, r, s)
            | Recipe::Subtracted(_, r, s) => 1 << r | source(s),
            Recipe::Negated(_, r) => 1 << r,
            Recipe::Zero => 0,
        }
    }

    /// What the flags are like afterwards.
    pub fn kind(self) -> Kind {
        match self {
            Recipe::Test(..) | Recipe::Zero => Kind::Logic,
            _ => Kind::Arithmetic,
        }
    }

    /// Makes the host's flags again. Uses RDX.
    pub fn emit(self, a: &mut Asm) {
        match self {
            Recipe::Compare(size, r, s) => {
                let r = in_host(a, r);
                binary(a, CMP, size, r, s);
            }
            Recipe::Test(size, r, s) => {
                let r = in_host(a, r);
                match s {
                    Source::Register(s) => a.test(size, place(s.into()), r),
                    Source::Immediate(imm) => a.test_imm(size, Rm::Reg(r), imm),
                }
            }
            Recipe::Added(size, r, s) => {
                a.load(8, RDX, place(r.into()));
                binary(a, SUB, size, RDX, s);
                binary(a, ADD, size, RDX, s);
            }
            Recipe::Subtracted(size, r, s) => {
                a.load(8, RDX, place(r.into()));
                binary(a, ADD, size, RDX, s);
                binary(a, SUB, size, RDX, s);
            }
            Recipe::Negated(size, r) => {
                a.load(8, RDX, place(r.into()));
                a.unary(3, size, Rm::Reg(RDX));
                a.unary(3, size, Rm::Reg(RDX));
            }
            Recipe::Zero => a.alu_to(crate::asm::alu::XOR, 4, Rm::Reg(RDX), RDX),
        }
    }
}

/// The host register of a guest register, or RDX with its value.
fn in_host(a: &mut Asm, r: u8) -> u8 {
    match place(r.into()) {
        Rm::Reg(host) => host,
        memory => {
            a.load(8, RDX, memory);
            RDX
        }
    }
}

fn binary(a: &mut Asm, op: u8, size: u8, r: u8, s: Source) {
    match s {
        Source::Register(s) => a.alu_from(op, size, r, place(s.into())),
        Source::Immediate(imm) => a.alu_imm(op, size, Rm::Reg(r), imm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emulator::cpu::flags::STATUS;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic as M, Register};

    #[test]
    fn flags_are_saved_to_their_word() {
        use Kind::{Arithmetic, Logic, ShiftLeft, ShiftOne, ShiftRight};
        for kind in [Arithmetic, Logic, ShiftOne, ShiftRight, ShiftLeft] {
            let mut a = Asm::new(0);
            kind.save(&mut a);
            let code = Decoder::with_ip(64, &a.bytes, 0, DecoderOptions::NONE);
            let code: Vec<_> = code.into_iter().collect();
            let last = code.last().expect("some code");
            assert_eq!((last.memory_base(), last.op1_register()), (Register::RBP, Register::EAX));
            assert_eq!(last.memory_displacement64(), disp(word::FLAGS) as u64);
            let got: Vec<_> = code.iter().map(|i| i.mnemonic()).collect();
            let value = |marks: u64| code[1].immediate(1) == marks;
            match kind {
                Arithmetic => assert_eq!(got, [M::Lahf, M::Seto, M::Mov]),
                ShiftOne => {
                    assert_eq!(got, [M::Lahf, M::Seto, M::Lea, M::Mov]);
                    assert_eq!(code[2].memory_displacement64(), AF_CLEAR);
                }
                _ => {
                    assert_eq!(got, [M::Lahf, M::Mov, M::Mov]);
                    let derived = if kind == ShiftLeft { OF_DERIVED } else { 0 };
                    assert!(value(AF_CLEAR | derived), "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn words_keep_every_combination() {
        for n in 0..1 << 12 {
            let status = n & STATUS;
            assert_eq!(unpack(pack(status)), status);
            assert_eq!(unpack(pack(status) | AF_CLEAR), status & !0x10);
            let of = (status ^ status >> 7) & 1;
            assert_eq!(unpack(pack(status) | OF_DERIVED), status & !OF | of << 11);
        }
    }
}
