//! MUL, IMUL, DIV, IDIV, MULX, ADCX, ADOX.

use super::alu::{alu, kind};
use super::int::Int;
use super::{operand_size, size_of};
use crate::core::Core;
use crate::cpu::flags::Flags;
use crate::cpu::{RAX, RDX};
use crate::exception::{self, Trap};
use crate::op::{Exit, Handler, Op, run};
use crate::sized;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The operand `n` of the instruction: memory where `MEM`.
#[inline(always)]
fn source<T: Int, const MEM: bool>(core: &mut Core, op: &Op, n: usize) -> Result<T, Trap> {
    if MEM { core.read_mem::<T, 1>(op) } else { Ok(T::reg(&core.cpu, op.regs[n])) }
}

/// Writes a double-width product or dividend: AX for bytes, else DX:AX.
fn set_pair<T: Int>(core: &mut Core, low: T, high: T) {
    if T::BITS == 8 {
        u16::set_reg(&mut core.cpu, RAX as u8, (low.zx() | high.zx() << 8) as u16);
    } else {
        T::set_reg(&mut core.cpu, RAX as u8, low);
        T::set_reg(&mut core.cpu, RDX as u8, high);
    }
}

fn pair<T: Int>(core: &Core) -> u128 {
    if T::BITS == 8 {
        u128::from(u16::reg(&core.cpu, RAX as u8))
    } else {
        let (low, high) = (T::reg(&core.cpu, RAX as u8), T::reg(&core.cpu, RDX as u8));
        u128::from(low.zx()) | u128::from(high.zx()) << T::BITS
    }
}

/// CF = OF = `overflow`; SF, ZF, AF and PF (undefined) from the low half, AF clear.
fn product_flags<T: Int>(core: &mut Core, low: T, overflow: bool) {
    core.cpu.flags =
        Flags { result: low.sx(), aux: u64::from(overflow) << 63, system: core.cpu.flags.system };
}

fn mul<T: Int, const SIGN: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = source::<T, MEM>(core, op, 0)?;
        let a = T::reg(&core.cpu, RAX as u8);
        let product = if SIGN {
            (i128::from(a.sx() as i64) * i128::from(b.sx() as i64)) as u128
        } else {
            u128::from(a.zx()) * u128::from(b.zx())
        };
        let (low, high) = (T::of(product as u64), T::of((product >> T::BITS) as u64));
        let extension = if SIGN { ((low.sx() as i64) >> 63) as u64 } else { 0 };
        set_pair(core, low, high);
        product_flags(core, low, high != T::of(extension));
        Ok(())
    })
}

/// IMUL with two (`IMM` false) or three operands.
fn imul<T: Int, const IMM: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = source::<T, MEM>(core, op, 1)?;
        let b = if IMM { T::of(op.imm) } else { T::reg(&core.cpu, op.regs[0]) };
        let (low, overflow) = if T::BITS == 64 {
            let (low, overflow) = (a.sx() as i64).overflowing_mul(b.sx() as i64);
            (T::of(low as u64), overflow)
        } else {
            let product = (a.sx() as i64).wrapping_mul(b.sx() as i64);
            let low = T::of(product as u64);
            (low, low.sx() as i64 != product)
        };
        T::set_reg(&mut core.cpu, op.regs[0], low);
        product_flags(core, low, overflow);
        Ok(())
    })
}

fn div<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let divisor = source::<T, MEM>(core, op, 0)?.zx();
        let dividend = pair::<T>(core);
        if divisor == 0 || dividend >> T::BITS >= u128::from(divisor) {
            return Err(core.fault(exception::DE));
        }
        let (q, r) = match u64::try_from(dividend) {
            Ok(small) => (small / divisor, small % divisor),
            Err(_) => {
                let d = u128::from(divisor);
                ((dividend / d) as u64, (dividend % d) as u64)
            }
        };
        set_pair(core, T::of(q), T::of(r));
        Ok(())
    })
}

fn idiv<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let divisor = i128::from(source::<T, MEM>(core, op, 0)?.sx() as i64);
        let unused = 128 - 2 * T::BITS;
        let dividend = (pair::<T>(core) << unused) as i128 >> unused;
        if divisor == 0 || (dividend == i128::MIN && divisor == -1) {
            return Err(core.fault(exception::DE));
        }
        let (q, r) = match (i64::try_from(dividend), i64::try_from(divisor)) {
            (Ok(n), Ok(d)) if d != -1 => (i128::from(n / d), i128::from(n % d)),
            _ => (dividend / divisor, dividend % divisor),
        };
        let low = T::of(q as u64);
        if i128::from(low.sx() as i64) != q {
            return Err(core.fault(exception::DE));
        }
        set_pair(core, low, T::of(r as u64));
        Ok(())
    })
}

fn mulx<T: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let a = source::<T, MEM>(core, op, 2)?;
        let product = u128::from(a.zx()) * u128::from(T::reg(&core.cpu, RDX as u8).zx());
        // With equal destinations the high half stays (SDM 2B, MULX).
        T::set_reg(&mut core.cpu, op.regs[1], T::of(product as u64));
        T::set_reg(&mut core.cpu, op.regs[0], T::of((product >> T::BITS) as u64));
        Ok(())
    })
}

/// ADCX and ADOX (`OVERFLOW`): an addition through one flag, the others untouched.
fn adx<T: Int, const OVERFLOW: bool, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let b = source::<T, MEM>(core, op, 1)?.zx();
        let a = T::reg(&core.cpu, op.regs[0]).zx();
        let flags = &core.cpu.flags;
        let carry = if OVERFLOW { flags.of() } else { flags.cf() };
        let sum = u128::from(a) + u128::from(b) + u128::from(carry);
        let out = sum >> T::BITS != 0;
        if OVERFLOW {
            let flip = u64::from(flags.of() != out) << 62;
            core.cpu.flags.aux ^= flip;
        } else {
            core.cpu.flags.set_cf(out);
        }
        T::set_reg(&mut core.cpu, op.regs[0], T::of(sum as u64));
        Ok(())
    })
}

/// CRC32 (SDM 2A): the polynomial 11EDC6F41h, bit-reflected; `S` is the source.
fn crc32<S: Int, const MEM: bool>(core: &mut Core, ops: &[Op]) -> Exit {
    run(core, ops, |core, op| {
        let data = source::<S, MEM>(core, op, 1)?.zx();
        let mut crc = u32::reg(&core.cpu, op.regs[0]);
        for byte in 0..S::SIZE {
            crc ^= ((data >> (8 * byte)) & 0xFF) as u32;
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
            }
        }
        // A 64-bit destination is cleared above.
        u32::set_reg(&mut core.cpu, op.regs[0], crc);
        Ok(())
    })
}

/// Keeps the use of `alu` for flags of comparisons in one place.
#[inline(always)]
pub fn compare<T: Int>(flags: &Flags, a: T, b: T) -> Flags {
    alu::<T, { kind::CMP }>(flags, a, b).1
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _address: u8) -> Option<Handler> {
    use Mnemonic as M;
    let size = operand_size(i);
    let memory = |n| i.op_kind(n) == OpKind::Memory;
    Some(match (i.mnemonic(), i.op_count()) {
        (M::Mul, _) if memory(0) => sized!(size, mul, false, true),
        (M::Mul, _) => sized!(size, mul, false, false),
        (M::Imul, 1) if memory(0) => sized!(size, mul, true, true),
        (M::Imul, 1) => sized!(size, mul, true, false),
        (M::Imul, 2) if memory(1) => sized!(size, imul, false, true),
        (M::Imul, 2) => sized!(size, imul, false, false),
        (M::Imul, _) if memory(1) => sized!(size, imul, true, true),
        (M::Imul, _) => sized!(size, imul, true, false),
        (M::Div, _) if memory(0) => sized!(size, div, true),
        (M::Div, _) => sized!(size, div, false),
        (M::Idiv, _) if memory(0) => sized!(size, idiv, true),
        (M::Idiv, _) => sized!(size, idiv, false),
        (M::Mulx, _) if memory(2) => sized!(size, mulx, true),
        (M::Mulx, _) => sized!(size, mulx, false),
        (M::Adcx, _) if memory(1) => sized!(size, adx, false, true),
        (M::Adcx, _) => sized!(size, adx, false, false),
        (M::Adox, _) if memory(1) => sized!(size, adx, true, true),
        (M::Adox, _) => sized!(size, adx, true, false),
        (M::Crc32, _) if memory(1) => sized!(size_of(i, 1), crc32, true),
        (M::Crc32, _) => sized!(size_of(i, 1), crc32, false),
        _ => return None,
    })
}
