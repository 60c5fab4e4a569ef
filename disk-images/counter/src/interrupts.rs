//! The interrupt descriptor table, fatal exceptions, and the record of interrupts that wait to be
//! serviced.
//!
//! The handler of a device's interrupt only masks its line at the 8259 and notes it: the main loop
//! takes the note ([`take_pending`]), services the device, and opens the line again
//! ([`crate::pic::unmask`]).

use crate::{cpu, pic};
use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

/// The vector of interrupt line 0; the other 15 lines follow.
pub const FIRST_IRQ_VECTOR: u8 = 32;
const VECTORS: usize = 48;
const TSS_SELECTOR: u16 = 0x20;
const CODE_SELECTOR: u16 = 0x18;

/// Lines whose interrupt came and was not serviced yet, one bit each.
static PENDING: AtomicU16 = AtomicU16::new(0);
/// Timer interrupts since the start.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// What the processor and the entry code push for an exception (SDM 3A 6.14.2).
#[repr(C)]
struct ExceptionFrame {
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// A 64-bit interrupt gate (SDM 3A 6.14.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    const EMPTY: Gate = Gate {
        offset_low: 0,
        selector: 0,
        ist: 0,
        kind: 0,
        offset_middle: 0,
        offset_high: 0,
        reserved: 0,
    };

    /// A present ring-0 interrupt gate to `handler` on interrupt stack `ist` (0: the current
    /// stack).
    fn new(handler: u64, ist: u8) -> Self {
        Gate {
            offset_low: handler as u16,
            selector: CODE_SELECTOR,
            ist,
            kind: 0x8E,
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The 64-bit task-state segment (SDM 3A 7.7), of which only interrupt stack 1 is used.
#[repr(C, packed)]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

#[repr(align(16))]
struct ExceptionStack {
    _bytes: [u8; 16384],
}

static mut IDT: [Gate; VECTORS] = [Gate::EMPTY; VECTORS];
static mut TASK_STATE: TaskState = TaskState {
    reserved0: 0,
    rsp: [0; 3],
    reserved1: 0,
    ist: [0; 7],
    reserved2: 0,
    reserved3: 0,
    io_map_base: size_of::<TaskState>() as u16,
};
static mut EXCEPTION_STACK: ExceptionStack = ExceptionStack { _bytes: [0; 16384] };

unsafe extern "C" {
    static vector_table: [u64; VECTORS];
    static mut gdt_tss: [u64; 2];
}

/// Fills and loads the interrupt and task tables. Exceptions get a stack of their own, so that a
/// blown stack is reported.
pub fn init() {
    let task_state = (&raw mut TASK_STATE) as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    // SAFETY: runs once, before anything else uses these statics; the descriptor is an available
    // 64-bit TSS (type 9) as in SDM 3A 7.2.3, and the tables live as long as the program.
    unsafe {
        let stack_top = (&raw mut EXCEPTION_STACK).add(1) as u64;
        TASK_STATE.ist[0] = stack_top;
        gdt_tss = [
            limit | (task_state & 0xFF_FFFF) << 16 | 0x89 << 40 | (task_state >> 24 & 0xFF) << 56,
            task_state >> 32,
        ];
        for (vector, handler) in vector_table.iter().enumerate() {
            let ist = u8::from(vector < FIRST_IRQ_VECTOR as usize);
            IDT[vector] = Gate::new(*handler, ist);
        }
        cpu::load_task_register(TSS_SELECTOR);
        cpu::load_idt((&raw const IDT) as u64, (size_of::<Gate>() * VECTORS - 1) as u16);
    }
}

/// The lines whose interrupt came since the last call, one bit each.
pub fn take_pending() -> u16 {
    PENDING.swap(0, Relaxed)
}

/// Halts until an interrupt arrives, unless one is waiting to be serviced.
pub fn wait() {
    if PENDING.load(Relaxed) == 0 {
        cpu::wait_for_interrupt();
    }
}

/// Halts until `line`'s interrupt has come, then opens the line again. Only for the start, before
/// the main loop runs.
pub fn wait_for_line(line: u8) {
    while PENDING.load(Relaxed) & 1 << line == 0 {
        cpu::wait_for_interrupt();
    }
    PENDING.fetch_and(!(1 << line), Relaxed);
    pic::unmask(line);
}

/// Halts until `count` timer interrupts have come, [`pic::TICK_HZ`] a second.
pub fn wait_ticks(count: u64) {
    let end = TICKS.load(Relaxed) + count;
    while TICKS.load(Relaxed) < end {
        cpu::wait_for_interrupt();
    }
}

/// Called by `interrupts.S` for interrupt line `line`.
#[unsafe(no_mangle)]
extern "C" fn irq_handler(line: u32) {
    let line = line as u8;
    if pic::is_spurious(line) {
        return;
    }
    if line == pic::TIMER_LINE {
        TICKS.store(TICKS.load(Relaxed) + 1, Relaxed);
    } else {
        pic::mask(line);
        PENDING.fetch_or(1 << line, Relaxed);
    }
    pic::end_of_interrupt(line);
}

/// Called by `interrupts.S` for an exception.
#[unsafe(no_mangle)]
extern "C" fn exception_handler(frame: &ExceptionFrame) -> ! {
    panic!(
        "exception {} error {:#x} at {:#x}:{:#x} rsp {:#x}:{:#x} rflags {:#x} cr2 {:#x}",
        frame.vector,
        frame.error_code,
        frame.cs,
        frame.rip,
        frame.ss,
        frame.rsp,
        frame.rflags,
        cpu::read_cr2()
    )
}
