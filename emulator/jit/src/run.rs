//! In and out of translated code, and the interpreter in between.
//!
//! Contract: while translated code runs, the core and the cache are reached through [`Context`]
//! only. All of `unsafe` that has to do with the CPU is here.

use crate::cache::Cache;
use crate::flags;
use crate::layout::{BIAS, word};
use crate::thunks::{LEFT, Thunks};
use crate::translate::UNKNOWN;
use crate::x87_image;
use emulator::core::Core;
use emulator::cpu::flags::{IF, TF};
use emulator::cpu::{BLOCK_RIP, Cpu};
use emulator::decode::{self, MAX_LENGTH};
use emulator::op::Exit;

/// What [`interpret`] works on.
#[repr(C)]
pub struct Context {
    /// The x87 state, as FNSAVE and FRSTOR have it in 64-bit code: translated code knows that it is
    /// the first field.
    x87: x87_image::Image,
    core: *mut Core,
    cache: *mut Cache,
    /// The worlds when code was entered: blocks hold for no others.
    worlds: [u64; 2],
}

/// An exit of translated code.
pub struct Left {
    /// As in [`crate::thunks`].
    pub exit: u64,
    /// Instructions that may still retire.
    pub budget: i64,
}

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

/// The words that the TLB decides.
fn refresh(core: &mut Core) {
    let [low, high] = core.tlb.revisions();
    let window = core.tlb.window().as_ptr() as u64;
    let regs = &mut core.cpu.regs;
    regs[word::REVISION] = low;
    regs[word::REVISION + 1] = high;
    regs[word::TLB] = window;
}

/// Runs translated code at `code` (of a block of `cache`) with `budget`; the numbers of the worlds
/// in force are `worlds`.
pub fn enter(cache: &mut Cache, core: &mut Core, code: u64, budget: i64, worlds: [u32; 2]) -> Left {
    core.tlb.set_host_base(core.ram.bytes_mut().as_mut_ptr() as u64);
    refresh(core);
    let thunks: Thunks = cache.thunks;
    let x87 = x87_image::EMPTY;
    let mut context = Context { x87, core, cache, worlds: core.tlb.worlds() };
    let regs = &mut core.cpu.regs;
    regs[word::FLAGS] = flags::pack(core.cpu.flags.status());
    regs[word::WORLD] = worlds[0].into();
    regs[word::WORLD + 1] = worlds[1].into();
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
/// the block goes on behind it; else an exit.
extern "sysv64" fn interpret(context: *mut Context, site: u32, budget: i64) -> u64 {
    // SAFETY: `context` is the one of `enter`, which waits for translated code to end; nobody else
    // uses it, the core or the cache meanwhile.
    let (core, cache, worlds) =
        unsafe { (&mut *(*context).core, &mut *(*context).cache, (*context).worlds) };
    // SAFETY: as above.
    x87_back(core, unsafe { &(*context).x87 });
    let site = &mut cache.sites[site as usize];
    core.icount = core.limit.wrapping_sub((budget + i64::from(site.left)) as u64);
    core.cpu.regs[BLOCK_RIP] = site.rip;
    if !site.flagless {
        core.cpu.flags.set_status(flags::unpack(core.cpu.regs[word::FLAGS]));
    }
    if site.op == UNKNOWN {
        core.cpu.rip = site.rip;
        core.cpu.flags.set_status(flags::unpack(core.cpu.regs[word::FLAGS]));
        let Ok(at) = core.fetch_place(site.rip) else { return left(Exit::Trap) };
        let page = &core.ram.bytes()[at..(at & !0xFFF) + 0x1000];
        let bytes = &page[..page.len().min(MAX_LENGTH)];
        let Some(decoded) = decode::decode_single(bytes, core.mode) else {
            return left(Exit::Next);
        };
        site.op = cache.ops.len() as u32;
        cache.ops.push(decoded.ops[0]);
    }
    let (next, quiet, flagless) = (site.next, site.quiet, site.flagless);
    let (behind, block) = (site.left - 1, site.block as usize);
    let op = core::slice::from_ref(&cache.ops[site.op as usize]);
    let ready = (vectors_ready(core), x87_ready(core));
    let drops = core.tlb.drops();
    let exit = (op[0].exec)(core, op);
    let goes_on = exit == Exit::Next
        && core.cpu.rip == next
        && !core.ram.has_stale_code()
        && core.tlb.worlds() == worlds
        && core.tlb.drops() == drops
        && (vectors_ready(core), x87_ready(core)) == ready;
    if !goes_on {
        if let Some(counter) = cache.counters.get_mut(block) {
            counter[1] += u64::from(behind) + u64::from(exit == Exit::Trap);
        }
        if flagless {
            core.cpu.flags.set_status(flags::unpack(core.cpu.regs[word::FLAGS]));
        }
        let quiet = exit == Exit::Event && quiet && nothing_due(core);
        return left(if quiet { Exit::Next } else { exit });
    }
    if !flagless {
        core.cpu.regs[word::FLAGS] = flags::pack(core.cpu.flags.status());
    }
    refresh(core);
    0
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
