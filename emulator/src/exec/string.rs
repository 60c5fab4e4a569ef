//! String instructions with and without REP, INS and OUTS.
//!
//! Contract: each iteration of a repeated instruction counts as one instruction and leaves RSI,
//! RDI and RCX up to date, so that it can be interrupted at any. Runs within a page of RAM are
//! copied or filled in bulk.

use super::int::Int;
use super::{Context, size_of};
use crate::core::Core;
use crate::cpu::flags::{DF, Flags, RF};
use crate::cpu::{ES, FLAT, RAX, RCX, RDI, RDX, RSI};
use crate::exception::Trap;
use crate::op::{Exit, Handler, Op, REP, REPNE, leave, run, trap};
use crate::sized;
use iced_x86::{Instruction, Mnemonic, OpKind};

const MOVS: u8 = 0;
const CMPS: u8 = 1;
const STOS: u8 = 2;
const LODS: u8 = 3;
const SCAS: u8 = 4;
const INS: u8 = 5;
const OUTS: u8 = 6;

/// Adds to an index or count register at the address size.
#[inline(always)]
fn advance(core: &mut Core, op: &Op, reg: usize, by: u64) {
    let r = &mut core.cpu.regs[reg];
    *r = match op.address_bits {
        64 => r.wrapping_add(by),
        32 => r.wrapping_add(by) & 0xFFFF_FFFF,
        _ => (*r & !0xFFFF) | (r.wrapping_add(by) & 0xFFFF),
    };
}

/// Linear address of DS:RSI (or the override).
#[inline(always)]
fn source(core: &mut Core, op: &Op, size: u64) -> Result<u64, Trap> {
    let offset = core.cpu.regs[RSI] & op.address_mask();
    address(core, usize::from(op.seg), offset, size, false)
}

/// Linear address of ES:RDI.
#[inline(always)]
fn destination(core: &mut Core, op: &Op, size: u64, write: bool) -> Result<u64, Trap> {
    let offset = core.cpu.regs[RDI] & op.address_mask();
    let seg = if core.mode.flat { FLAT } else { ES };
    address(core, seg, offset, size, write)
}

#[inline(always)]
fn address(core: &mut Core, seg: usize, offset: u64, size: u64, write: bool) -> Result<u64, Trap> {
    if core.mode.bits == 64 {
        return Ok(core.seg_base[seg & 7].wrapping_add(offset));
    }
    core.linear(seg, offset, size, write)
}

/// One iteration.
#[inline(always)]
fn once<T: Int, const K: u8>(core: &mut Core, op: &Op) -> Result<(), Trap> {
    let step = if core.cpu.flags.system & DF != 0 { T::SIZE.wrapping_neg() } else { T::SIZE };
    match K {
        MOVS => {
            let from = source(core, op, T::SIZE)?;
            let v = T::load(core, op, from)?;
            let to = destination(core, op, T::SIZE, true)?;
            T::store(core, op, to, v)?;
        }
        CMPS => {
            let to = destination(core, op, T::SIZE, false)?;
            let b = T::load(core, op, to)?;
            let from = source(core, op, T::SIZE)?;
            let a = T::load(core, op, from)?;
            core.cpu.flags = compare::<T>(&core.cpu.flags, a, b);
        }
        STOS => {
            let to = destination(core, op, T::SIZE, true)?;
            let v = T::reg(&core.cpu, RAX as u8);
            T::store(core, op, to, v)?;
        }
        LODS => {
            let from = source(core, op, T::SIZE)?;
            let v = T::load(core, op, from)?;
            T::set_reg(&mut core.cpu, RAX as u8, v);
        }
        SCAS => {
            let to = destination(core, op, T::SIZE, false)?;
            let b = T::load(core, op, to)?;
            let a = T::reg(&core.cpu, RAX as u8);
            core.cpu.flags = compare::<T>(&core.cpu.flags, a, b);
        }
        INS => {
            let port = core.cpu.regs[RDX] as u16;
            core.check_port(port, T::SIZE as u16)?;
            let to = destination(core, op, T::SIZE, true)?;
            core.probe_write(op, to, T::SIZE)?;
            let v = core.port_in(op, port, T::SIZE as u8);
            T::store(core, op, to, T::of(v.into()))?;
        }
        _ => {
            let port = core.cpu.regs[RDX] as u16;
            core.check_port(port, T::SIZE as u16)?;
            let from = source(core, op, T::SIZE)?;
            let v = T::load(core, op, from)?;
            core.port_out(op, port, T::SIZE as u8, v.zx() as u32);
        }
    }
    if matches!(K, MOVS | CMPS | LODS | OUTS) {
        advance(core, op, RSI, step);
    }
    if matches!(K, MOVS | CMPS | STOS | SCAS | INS) {
        advance(core, op, RDI, step);
    }
    Ok(())
}

fn compare<T: Int>(flags: &Flags, a: T, b: T) -> Flags {
    super::muldiv::compare(flags, a, b)
}

fn single<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    if K == INS || K == OUTS {
        let op = &ops[0];
        if once::<T, K>(core, op).is_err() {
            return trap(core, op);
        }
        let rip = core.next_rip(op);
        return leave(core, op, rip, Exit::Event);
    }
    run(core, ops, once::<T, K>)
}

/// Up to `most` iterations of MOVS or STOS at once, if both ends lie in RAM that the TLB knows.
/// Returns how many were done.
fn bulk<T: Int, const K: u8>(core: &mut Core, op: &Op, most: u64) -> u64 {
    if core.cpu.flags.system & DF != 0 {
        return 0;
    }
    let mask = op.address_mask();
    let to_offset = core.cpu.regs[RDI] & mask;
    let Ok(to) = destination(core, op, T::SIZE, true) else { return 0 };
    let mut n = most.min((4096 - (to & 0xFFF)) / T::SIZE);
    n = n.min((mask - to_offset) / T::SIZE);
    let mut from = 0;
    if K == MOVS {
        let Ok(la) = source(core, op, T::SIZE) else { return 0 };
        from = la;
        n = n.min((4096 - (from & 0xFFF)) / T::SIZE);
        n = n.min((mask - (core.cpu.regs[RSI] & mask)) / T::SIZE);
    }
    if n < 2 {
        return 0;
    }
    let len = (n * T::SIZE) as usize;
    if core.mode.bits != 64 {
        let fits = destination(core, op, len as u64, true).is_ok()
            && (K != MOVS || source(core, op, len as u64).is_ok());
        if !fits {
            return 0;
        }
    }
    let entry = core.tlb.entry(to);
    if entry.write != core.tlb.tag(to, 1) {
        return 0;
    }
    let to_at = to.wrapping_add(entry.addend) as usize;
    if K == MOVS {
        let entry = core.tlb.entry(from);
        if entry.read != core.tlb.tag(from, 1) {
            return 0;
        }
        let from_at = from.wrapping_add(entry.addend) as usize;
        if to_at > from_at && to_at < from_at + len {
            return 0; // the copy feeds itself
        }
        core.ram.bytes_mut().copy_within(from_at..from_at + len, to_at);
        advance(core, op, RSI, len as u64);
    } else {
        let value = T::reg(&core.cpu, RAX as u8).zx().to_le_bytes();
        let place = &mut core.ram.bytes_mut()[to_at..to_at + len];
        if T::BITS == 8 || value[..T::SIZE as usize].iter().all(|&b| b == value[0]) {
            place.fill(value[0]);
        } else {
            for chunk in place.chunks_exact_mut(T::SIZE as usize) {
                chunk.copy_from_slice(&value[..T::SIZE as usize]);
            }
        }
    }
    advance(core, op, RDI, len as u64);
    advance(core, op, RCX, n.wrapping_neg());
    n
}

fn repeated<T: Int, const K: u8>(core: &mut Core, ops: &[Op]) -> Exit {
    let op = &ops[0];
    let mask = op.address_mask();
    let io = K == INS || K == OUTS;
    // Permission is checked even if nothing is left to transfer.
    if io && core.check_port(core.cpu.regs[RDX] as u16, T::SIZE as u16).is_err() {
        return trap(core, op);
    }
    if core.cpu.regs[RCX] & mask == 0 {
        let rip = core.next_rip(op);
        return leave(core, op, rip, Exit::Next);
    }
    let start = core.icount_of(op);
    // Something that may reach a device goes one by one, so that its interrupt is taken in time.
    let budget = if core.alone || io { 1 } else { core.limit.saturating_sub(start).max(1) };
    let mut done = 0;
    let mut finished = false;
    while done < budget && !finished {
        if K == MOVS || K == STOS {
            let left = (core.cpu.regs[RCX] & mask).min(budget - done);
            let n = bulk::<T, K>(core, op, left);
            done += n;
            if n != 0 {
                finished = core.cpu.regs[RCX] & mask == 0;
                continue;
            }
        }
        if once::<T, K>(core, op).is_err() {
            core.icount += done;
            return trap(core, op);
        }
        advance(core, op, RCX, u64::MAX);
        done += 1;
        finished = core.cpu.regs[RCX] & mask == 0;
        if K == CMPS || K == SCAS {
            let wanted = op.prefixes & REPNE == 0;
            finished |= core.cpu.flags.zf() != wanted;
        }
    }
    let rip = if finished { core.next_rip(op) } else { core.op_rip(op) };
    core.icount += done - 1;
    if !finished {
        // What interrupts the rest pushes RF set (SDM 3B 17.3.1.1).
        core.cpu.flags.system |= RF;
        core.cpu.resume_at = core.icount_of(op) + 1;
    }
    leave(core, op, rip, if io { Exit::Event } else { Exit::Next })
}

fn select<const K: u8>(i: &Instruction) -> Handler {
    let memory = (0..i.op_count())
        .find(|&n| i.op_kind(n) != OpKind::Register)
        .map_or(1, |_| i.memory_size().size());
    let size = if memory == 0 { size_of(i, 0).max(1) } else { memory };
    if i.has_rep_prefix() || i.has_repne_prefix() {
        sized!(size, repeated, K)
    } else {
        sized!(size, single, K)
    }
}

/// The prefixes of a string instruction, for [`Op::prefixes`].
pub fn prefixes(i: &Instruction) -> u8 {
    if i.has_repne_prefix() {
        REPNE
    } else if i.has_rep_prefix() {
        REP
    } else {
        0
    }
}

/// The function for an instruction of this family.
pub fn handler(i: &Instruction, _context: Context) -> Option<Handler> {
    use Mnemonic as M;
    if !i.is_string_instruction() {
        return None;
    }
    Some(match i.mnemonic() {
        M::Movsb | M::Movsw | M::Movsd | M::Movsq => select::<MOVS>(i),
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => select::<CMPS>(i),
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => select::<STOS>(i),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => select::<LODS>(i),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => select::<SCAS>(i),
        M::Insb | M::Insw | M::Insd => select::<INS>(i),
        M::Outsb | M::Outsw | M::Outsd => select::<OUTS>(i),
        _ => return None,
    })
}
