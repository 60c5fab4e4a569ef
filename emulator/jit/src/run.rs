//! In and out of translated code, and the interpreter in between.
//!
//! Contract: while translated code runs, the core and the cache are reached through [`Context`]
//! only. All of `unsafe` that has to do with the CPU is here.

use crate::cache::{Cache, Crossing};
use crate::flags;
use crate::layout::{BIAS, word};
use crate::thunks::{LEFT, Thunks};
use crate::translate::UNKNOWN;
use crate::x87_image;
use emulator::core::{Core, Mode};
use emulator::cpu::flags::{IF, TF};
use emulator::cpu::{BLOCK_RIP, Cpu};
use emulator::decode::{self, MAX_LENGTH};
use emulator::engine::{fetch_single, mark_code};
use emulator::exception::{Cause, Trap};
use emulator::mmu::tlb::NUMBERS;
use emulator::op::{Exit, Op};

/// What [`interpret`] works on.
#[repr(C)]
pub struct Context {
    /// The x87 state, as FNSAVE and FRSTOR have it in 64-bit code: translated code knows that it is
    /// the first field.
    x87: x87_image::Image,
    core: *mut Core,
    cache: *mut Cache,
}

/// An exit of translated code.
pub struct Left {
    /// As in [`crate::thunks`].
    pub exit: u64,
    /// Instructions that may still retire.
    pub budget: i64,
}

/// In [`Site::op`](crate::translate::Site): it crosses a page; the rest is its number among these.
const CROSSING: u32 = 1 << 31;

/// Bits of [`LEFT`] for the ends that the interpreter comes to.
fn left(exit: Exit) -> u64 {
    LEFT | (exit as u64) << 3
}

/// The interpreter's end of an exit of kind [`LEFT`].
pub fn end(exit: u64) -> Exit {
    match exit >> 3 {
        0 => Exit::Next,
        1 => Exit::Event,
        _ => Exit::Trap,
    }
}

/// Whether there is translated code for a mode: 64-bit mode, or 32-bit code with flat segments.
pub fn translates(mode: Mode) -> bool {
    mode.bits == 64 || mode == Mode { bits: 32, stack32: true, flat: true }
}

/// The words that the TLB and the privilege decide.
fn refresh(core: &mut Core) {
    let [low, high] = core.tlb.revisions();
    let window = core.tlb.window().as_ptr() as u64;
    let numbers = core.tlb.numbers()[core.code_kind() * 2 * NUMBERS..].as_ptr() as u64;
    let regs = &mut core.cpu.regs;
    regs[word::REVISION] = low;
    regs[word::REVISION + 1] = high;
    regs[word::TLB] = window;
    regs[word::NUMBERS] = numbers;
}

/// Runs translated code at `code` (of a block of `cache`) with `budget`.
pub fn enter(cache: &mut Cache, core: &mut Core, code: u64, budget: i64) -> Left {
    core.tlb.set_host_base(core.ram.bytes_mut().as_mut_ptr() as u64);
    refresh(core);
    let thunks: Thunks = cache.thunks;
    let x87 = x87_image::EMPTY;
    let mut context = Context { x87, core, cache };
    let regs = &mut core.cpu.regs;
    regs[word::FLAGS] = flags::pack(core.cpu.flags.status());
    regs[word::INTERRUPT] = core.board.interrupt_pending().into();
    regs[word::XMM] = 0;
    regs[word::X87] = 0;
    regs[word::HOST_MXCSR] = 0x1F80;
    regs[word::JUMPS] = cache.jumps.as_ptr() as u64;
    // What translated code and `interpret` use is derived from these two from here on.
    let core: *mut Core = core;
    context.core = core;
    context.cache = cache;
    // SAFETY: `core` is a live core; only its address is taken.
    let regs = unsafe { &raw mut (*core).cpu.regs }.cast::<u64>();
    // SAFETY: the word is inside the array.
    unsafe { regs.add(word::CONTEXT).write(&raw mut context as u64) };
    // SAFETY: `thunks.enter` is the address of code emitted for this signature, in memory that
    // lives as long as `cache`. It and what it jumps to keep the ABI's registers and the stack;
    // they read and write the guest's registers and words, TLB entries, jump targets, and guest RAM
    // where a TLB entry leads: entries lie within RAM (`Tlb::fill`), whose address never changes.
    let exit = unsafe {
        let enter: extern "sysv64" fn(*mut u8, u64, i64) -> u64 =
            core::mem::transmute(thunks.enter);
        enter(regs.cast::<u8>().wrapping_add(BIAS as usize), code, budget)
    };
    // SAFETY: translated code has ended, and with it every use of `context`.
    let core = unsafe { &mut *core };
    x87_back(core, &context.x87);
    let budget = core.cpu.regs[word::BUDGET] as i64;
    if exit & 7 != LEFT {
        let status = flags::unpack(core.cpu.regs[word::FLAGS]);
        core.cpu.flags.set_status(status);
    }
    Left { exit, budget }
}

/// Clears the words: only while code runs are they other than zero.
pub fn tidy(core: &mut Core) {
    core.cpu.regs[word::FLAGS..word::END].fill(0);
}

/// Executes the instruction of a site. Called by translated code, with `budget` as it is there. 0:
/// the block goes on behind it; the address of code to go on with; or an exit.
extern "sysv64" fn interpret(context: *mut Context, number: u32, budget: i64) -> u64 {
    // SAFETY: `context` is the one of `enter`, which waits for translated code to end; nobody else
    // uses it, the core or the cache meanwhile.
    let (core, cache) = unsafe { (&mut *(*context).core, &mut *(*context).cache) };
    // SAFETY: as above.
    x87_back(core, unsafe { &(*context).x87 });
    let site = &cache.sites[number as usize];
    core.icount = core.limit.wrapping_sub((budget + i64::from(site.left)) as u64);
    core.cpu.regs[BLOCK_RIP] = site.rip;
    if !site.flagless {
        core.cpu.flags.set_status(flags::unpack(core.cpu.regs[word::FLAGS]));
    }
    let (rip, len, quiet, flagless) = (site.rip, site.len, site.quiet, site.flagless);
    let (behind, block) = (site.left - 1, site.block as usize);
    let op = site.op;
    let ready = (vectors_ready(core), x87_ready(core));
    let (page, blocked) = (core.tlb.number(rip, core.code_kind()), core.cpu.nmi_blocked);
    let (drops, mode) = (core.tlb.drops(), core.mode);
    let op = match op {
        UNKNOWN => decoded(core, cache, number),
        crossing if crossing & CROSSING != 0 => fetched(core, cache, number),
        known => Ok(cache.ops[known as usize]),
    };
    let exit = match op.map_or(Exit::Trap, |op| execute(core, op)) {
        Exit::Event if quiet && !blocked && settled(core) => Exit::Next,
        exit => exit,
    };
    let goes_on = exit == Exit::Next
        && len != 0
        && core.cpu.rip == next(rip, len, mode)
        && !core.ram.has_stale_code()
        // Nothing tells of a flush if the number was not there before.
        && page != 0
        && core.tlb.number(rip, core.code_kind()) == page
        && core.tlb.drops() == drops
        && core.mode == mode
        && core.tlb.fillable()
        && (vectors_ready(core), x87_ready(core)) == ready;
    if goes_on {
        if !flagless {
            core.cpu.regs[word::FLAGS] = flags::pack(core.cpu.flags.status());
        }
        refresh(core);
        return 0;
    }
    if let Some(counter) = cache.counters.get_mut(block) {
        counter[1] += u64::from(behind) + u64::from(exit == Exit::Trap);
    }
    if flagless {
        core.cpu.flags.set_status(flags::unpack(core.cpu.regs[word::FLAGS]));
    }
    let exit = match exit {
        // IRET has unblocked NMIs even if it faults.
        Exit::Trap if !blocked => raised(core),
        exit => exit,
    };
    if exit == Exit::Next
        && let Some(code) = follow(core, cache)
    {
        return code;
    }
    left(exit)
}

/// RIP behind an instruction of `len` bytes.
fn next(rip: u64, len: u8, mode: Mode) -> u64 {
    let next = rip.wrapping_add(len.into());
    if mode.bits == 64 { next } else { next & 0xFFFF_FFFF }
}

/// Decodes the instruction of a site, which is executed for the first time.
#[cold]
fn decoded(core: &mut Core, cache: &mut Cache, site: u32) -> Result<Op, Trap> {
    let site = &mut cache.sites[site as usize];
    core.cpu.rip = site.rip;
    let at = core.fetch_place(site.rip)?;
    let page = &core.ram.bytes()[at..(at & !0xFFF) + 0x1000];
    let bytes = &page[..page.len().min(MAX_LENGTH)];
    if let Some(decoded) = decode::decode_single(bytes, core.mode) {
        site.op = cache.ops.len() as u32;
        cache.ops.push(decoded.ops[0]);
        return Ok(decoded.ops[0]);
    }
    let op = fetch_single(core, site.rip)?.ops[0];
    site.op = cache.crossings.len() as u32 | CROSSING;
    cache.crossings.push(Crossing { op, bytes: crossing_bytes(core, site.rip, op.len.into())? });
    Ok(op)
}

/// The bytes of an instruction that may cross a page; what overwrites those on the second page is
/// noticed from here on.
fn crossing_bytes(core: &mut Core, rip: u64, len: usize) -> Result<[u8; MAX_LENGTH], Trap> {
    let mut bytes = [0; MAX_LENGTH];
    let at = core.fetch_place(rip)?;
    let here = (0x1000 - at % 0x1000).min(len);
    bytes[..here].copy_from_slice(&core.ram.bytes()[at..at + here]);
    if here < len {
        let there = core.fetch_place(rip.wrapping_add(here as u64))?;
        bytes[here..len].copy_from_slice(&core.ram.bytes()[there..there + len - here]);
        mark_code(core, there, len - here);
    }
    Ok(bytes)
}

/// Fetches an instruction that crosses a page again.
fn fetched(core: &mut Core, cache: &mut Cache, site: u32) -> Result<Op, Trap> {
    let site = &cache.sites[site as usize];
    let crossing = &mut cache.crossings[(site.op & !CROSSING) as usize];
    core.cpu.rip = site.rip;
    let at = core.fetch_place(site.rip)?;
    let here = 0x1000 - at % 0x1000;
    let len = usize::from(crossing.op.len);
    // What is on the second page is looked at only if the first has the same beginning.
    if here < len
        && core.ram.bytes()[at..at + here] == crossing.bytes[..here]
        && crossing_bytes(core, site.rip, len)? == crossing.bytes
    {
        let op = crossing.op;
        number_tail(core, cache, core.cpu.rip);
        return Ok(op);
    }
    let op = fetch_single(core, site.rip)?.ops[0];
    *crossing = Crossing { op, bytes: crossing_bytes(core, site.rip, op.len.into())? };
    Ok(op)
}

/// The linear address of the page behind that of `rip`, if there is one.
pub fn next_page(core: &Core, rip: u64) -> Option<u64> {
    let next = (rip | 0xFFF).wrapping_add(1);
    (core.mode.bits == 64 || next <= 0xFFFF_FFFF).then_some(next)
}

/// Gives the page behind that of `rip`, where an instruction that was just fetched ends, its
/// number, so that translated code may execute such an instruction by itself.
fn number_tail(core: &mut Core, cache: &mut Cache, rip: u64) {
    let (kind, narrow) = (core.code_kind(), core.mode.bits != 64);
    if let Some(next) = next_page(core, rip)
        && let Some(at) = core.tlb.code(next, core.cpu.cpl == 3)
        && let Some(number) = cache.number(next, narrow, at)
        && core.tlb.number(next, kind) != number
    {
        core.tlb.set_number(next, kind, number);
    }
}

/// Executes one instruction, by itself.
fn execute(core: &mut Core, op: Op) -> Exit {
    let ops = core::slice::from_ref(&op);
    core.met_device = false;
    let exit = (op.exec)(core, ops);
    if exit != Exit::Trap || core.cause != Cause::Alone {
        return exit;
    }
    core.alone = true;
    let exit = (op.exec)(core, ops);
    core.alone = false;
    if exit == Exit::Next && core.met_device { Exit::Event } else { exit }
}

/// Delivers the exception that an instruction has raised, as the machine would.
fn raised(core: &mut Core) -> Exit {
    let Cause::Exception(exception) = core.cause else { return Exit::Trap };
    core.deliver_exception(exception);
    if settled(core) { Exit::Next } else { Exit::Event }
}

/// Whether the machine would find nothing to do after an event: no device was met. What inhibits
/// interrupts for the next instruction, while there are none, is over with it.
fn settled(core: &mut Core) -> bool {
    let shadow = core.cpu.shadow;
    if shadow && core.icount < core.limit {
        core.cpu.shadow = false;
    }
    let settled = !core.met_device && nothing_due(core);
    if !settled {
        core.cpu.shadow = shadow;
    }
    settled
}

/// The code to go on with at RIP, if there is any; it then finds everything where it wants it.
fn follow(core: &mut Core, cache: &mut Cache) -> Option<u64> {
    let runs = translates(core.mode) && core.tlb.fillable() && core.icount < core.limit;
    if !runs || core.ram.has_stale_code() {
        return None;
    }
    // A fault of the fetch is met again by who comes next.
    let id = cache.look_up(core).ok()?.ok()?;
    core.cpu.regs[word::FLAGS] = flags::pack(core.cpu.flags.status());
    core.cpu.regs[word::BUDGET] = core.limit - core.icount;
    refresh(core);
    Some(cache.address(id))
}

/// Takes the x87 state from the image, if translated code has left it there.
fn x87_back(core: &mut Core, image: &x87_image::Image) {
    if core.cpu.regs[word::X87] != 0 {
        core.cpu.regs[word::X87] = 0;
        x87_image::take(&mut core.cpu.fpu, image);
    }
}

/// Makes the image of the x87 state. Called by translated code.
extern "sysv64" fn prepare_x87(context: *mut Context) {
    // SAFETY: `context` is the one of `enter`, which waits for translated code to end; nobody else
    // uses it or the core meanwhile.
    unsafe { (*context).x87 = x87_image::make(&(*(*context).core).cpu.fpu) };
}

/// Address of [`prepare_x87`].
pub fn preparer() -> usize {
    prepare_x87 as *const () as usize
}

/// Whether translated code may execute x87 instructions by itself: it cannot raise exceptions.
fn x87_ready(core: &Core) -> bool {
    let fpu = &core.cpu.fpu;
    !core.fpu_blocked && fpu.control & 0x3F == 0x3F && fpu.status & 0x80 == 0
}

/// Whether translated code may execute SSE instructions by itself: it cannot raise exceptions.
fn vectors_ready(core: &Core) -> bool {
    !core.sse_blocked && core.cpu.mxcsr & 0x1F80 == 0x1F80
}

/// Whether the machine would find nothing to do now after an instruction that has changed flags or
/// privilege only: no interrupt to take, no trap, no shadow.
fn nothing_due(core: &Core) -> bool {
    let cpu = &core.cpu;
    let interrupt = cpu.flags.system & IF != 0 && core.board.interrupt_pending();
    let single = cpu.flags.system & TF != 0 || cpu.dr[7] & 0xFF != 0 || cpu.shadow;
    !(interrupt || single || cpu.pending_debug != 0 || cpu.halted || cpu.shutdown)
}

/// Address of [`interpret`].
pub fn interpreter() -> usize {
    interpret as *const () as usize
}

/// Guest registers are where [`crate::layout`] says.
const _: () = assert!(word::END <= 32 && core::mem::size_of::<Cpu>() >= 256);
