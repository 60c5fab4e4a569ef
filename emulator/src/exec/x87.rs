//! The x87 register stack, its exceptions, and the instructions' common shape (SDM 1 8).
//!
//! Contract: an instruction checks for a pending exception first (`begin`), reads its operands,
//! and stores through [`Core::x87_raise`], which says whether the result may be stored. An
//! unmasked exception is left pending in the status word; the next waiting instruction raises #MF.

use super::form;
use super::{x87_arith, x87_control, x87_move};
use crate::core::Core;
use crate::cpu::{CS, Fpu, cr0};
use crate::exception::{self, Trap};
use crate::mmu::By;
use crate::op::{Handler, Op};
use crate::softfloat::{EXCEPTIONS, Env, F80, INVALID, PRE_COMPUTATION, ROUNDED_UP};
use iced_x86::Instruction;

/// Stack fault.
pub const SF: u16 = 1 << 6;
/// Exception summary.
pub const ES: u16 = 1 << 7;
/// Condition code 0.
pub const C0: u16 = 1 << 8;
/// Condition code 1.
pub const C1: u16 = 1 << 9;
/// Condition code 2.
pub const C2: u16 = 1 << 10;
/// Condition code 3.
pub const C3: u16 = 1 << 14;
/// FPU busy: mirrors [`ES`].
pub const BUSY: u16 = 1 << 15;
/// The six exceptions, in the status and the control word.
pub const EXCEPTION_BITS: u16 = 0x3f;
/// TOP in its place.
pub const TOP: u16 = 7 << 11;
/// The real indefinite.
pub const INDEFINITE: F80 = F80 { sign_exp: 0xffff, frac: 3 << 62 };

impl Fpu {
    /// The number of the physical register that is ST(`i`).
    #[inline(always)]
    pub fn physical(&self, i: u8) -> usize {
        usize::from(((self.status >> 11) as u8 + i) & 7)
    }

    /// Whether ST(`i`) is empty.
    #[inline(always)]
    pub fn is_empty(&self, i: u8) -> bool {
        self.valid >> self.physical(i) & 1 == 0
    }

    /// What ST(`i`) holds, empty or not.
    #[inline(always)]
    pub fn st(&self, i: u8) -> F80 {
        let at = self.physical(i);
        F80 { sign_exp: self.sign_exponent[at], frac: self.significand[at] }
    }

    /// Fills ST(`i`).
    #[inline(always)]
    pub fn set_st(&mut self, i: u8, value: F80) {
        let at = self.physical(i);
        self.sign_exponent[at] = value.sign_exp;
        self.significand[at] = value.frac;
        self.valid |= 1 << at;
    }

    /// Moves TOP.
    #[inline(always)]
    pub fn rotate(&mut self, by: u16) {
        self.status = self.status & !TOP | self.status.wrapping_add(by << 11) & TOP;
    }

    /// Empties ST0 and makes the next register ST0.
    #[inline(always)]
    pub fn pop(&mut self) {
        self.valid &= !(1 << self.physical(0));
        self.rotate(1);
    }

    /// Makes a new ST0; the caller has seen that it is empty.
    #[inline(always)]
    pub fn push(&mut self, value: F80) {
        self.rotate(7);
        self.set_st(0, value);
    }

    /// The environment for arithmetic.
    #[inline(always)]
    pub fn env(&self) -> Env {
        Env::from_fcw(self.control)
    }

    /// Sets the exception summary from flags and masks.
    pub fn update_summary(&mut self) {
        self.status &= !(ES | BUSY);
        if self.status & !self.control & EXCEPTION_BITS != 0 {
            self.status |= ES | BUSY;
        }
    }

    /// The tag word in its full form: two bits for each physical register (SDM 1 8.1.7).
    pub fn tags(&self) -> u16 {
        use crate::softfloat::Class;
        (0..8).fold(0, |tags, i| {
            let value = F80 { sign_exp: self.sign_exponent[i], frac: self.significand[i] };
            let tag = match value.class() {
                _ if self.valid >> i & 1 == 0 => 3,
                Class::Normal => 0,
                Class::Zero => 1,
                _ => 2,
            };
            tags | tag << (2 * i)
        })
    }

    /// Takes the empty registers from a full tag word.
    pub fn set_tags(&mut self, tags: u16) {
        self.valid = (0..8).fold(0, |valid, i| valid | u8::from(tags >> (2 * i) & 3 != 3) << i);
    }

    /// As FNINIT leaves it: only registers' contents stay.
    pub fn init(&mut self) {
        *self = Self {
            significand: self.significand,
            sign_exponent: self.sign_exponent,
            control: 0x37f,
            status: 0,
            valid: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
            fop: 0,
        };
    }
}

impl Core {
    /// Checks that a waiting x87 instruction may run: #NM, then #MF for a pending exception.
    #[inline(always)]
    pub fn begin_x87(&mut self) -> Result<(), Trap> {
        self.check_fpu()?;
        if self.cpu.fpu.status & ES != 0 {
            return self.pending_x87();
        }
        Ok(())
    }

    /// An exception is pending: #MF, or without CR0.NE the PC's interrupt 13 (SDM 1 8.7).
    #[cold]
    #[inline(never)]
    pub fn pending_x87(&mut self) -> Result<(), Trap> {
        if self.cpu.cr0 & cr0::NE != 0 {
            return Err(self.fault(exception::MF));
        }
        // FERR# has been asserted; the handler clears the exception before it goes on, so the
        // instruction that waits runs as with IGNNE#.
        Ok(())
    }

    /// Notes the addresses of a non-control instruction.
    #[inline(always)]
    pub fn note_x87(&mut self, op: &Op) {
        self.cpu.fpu.fip = self.op_rip(op);
    }

    /// Notes the address of a memory operand.
    #[inline(always)]
    pub fn note_x87_data(&mut self, op: &Op) {
        self.cpu.fpu.fdp = self.offset(op) & op.address_mask();
    }

    /// Records the exceptions and the rounding of an instruction. Returns whether its result may
    /// be stored: no exception that precedes the result is unmasked.
    #[inline(always)]
    pub fn x87_raise(&mut self, op: &Op, env: &Env) -> bool {
        self.cpu.fpu.status &= !C1;
        if env.flags == 0 {
            return true;
        }
        let flags = env.reported() & (EXCEPTIONS | ROUNDED_UP);
        self.cpu.fpu.status |= flags as u16;
        if env.unmasked() == 0 {
            return true;
        }
        self.x87_unmasked(op);
        env.unmasked() & PRE_COMPUTATION == 0
    }

    /// An unmasked exception: it is pending from here on.
    #[cold]
    #[inline(never)]
    pub fn x87_unmasked(&mut self, op: &Op) {
        self.cpu.fpu.status |= ES | BUSY;
        self.cpu.fpu.fop = self.x87_opcode(op);
        if self.cpu.cr0 & cr0::NE == 0 {
            let now = self.now(op);
            self.board.set_ferr(now, true);
        }
    }

    /// The eleven opcode bits of an instruction: its first byte without the escape, and ModRM.
    fn x87_opcode(&mut self, op: &Op) -> u16 {
        let start = self.op_rip(op).wrapping_add(self.seg_base[CS]);
        let mut bytes = [0; 15];
        let bytes = &mut bytes[..usize::from(op.len).min(15)];
        if self.read_linear(start, bytes, By::Program).is_err() {
            return 0;
        }
        let escape = bytes.iter().position(|byte| byte & 0xf8 == 0xd8);
        let opcode = escape.and_then(|at| Some((bytes[at], *bytes.get(at + 1)?)));
        opcode.map_or(0, |(first, second)| u16::from(first & 7) << 8 | u16::from(second))
    }

    /// A register that should be full is empty, or the other way round. Returns whether the
    /// masked response, the indefinite, may be stored.
    #[cold]
    #[inline(never)]
    pub fn x87_stack_fault(&mut self, op: &Op, overflow: bool) -> bool {
        let fpu = &mut self.cpu.fpu;
        fpu.status &= !C1;
        fpu.status |= SF | INVALID as u16 | if overflow { C1 } else { 0 };
        if fpu.control & INVALID as u16 != 0 {
            return true;
        }
        self.x87_unmasked(op);
        false
    }

    /// Pushes what `load` gives, unless ST7 is full.
    #[inline(always)]
    pub fn x87_push(&mut self, op: &Op, load: impl FnOnce(&mut Env) -> F80) {
        if !self.cpu.fpu.is_empty(7) {
            if self.x87_stack_fault(op, true) {
                self.cpu.fpu.push(INDEFINITE);
            }
            return;
        }
        let mut env = self.cpu.fpu.env();
        let value = load(&mut env);
        if self.x87_raise(op, &env) {
            self.cpu.fpu.push(value);
        }
    }
}

/// The function for an x87 instruction.
pub fn handler(i: &Instruction, address: u8) -> Option<Handler> {
    let form = form(i)?;
    x87_arith::handler(i, form, address)
        .or_else(|| x87_move::handler(i, form, address))
        .or_else(|| x87_control::handler(i, address))
}
