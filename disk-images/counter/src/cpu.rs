//! Processor instructions that Rust has no words for: port I/O, RDTSC, RDRAND, CPUID, HLT and
//! descriptor tables.
//!
//! The guest runs in ring 0 of one core with an identity mapping; interrupts are closed (IF = 0)
//! everywhere but in [`wait_for_interrupt`] and [`take_interrupts`].

use core::arch::asm;
use core::arch::x86_64::__cpuid;

/// Reads a byte from I/O port `port`.
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: port reads touch no memory of this program.
    unsafe {
        asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads a word from I/O port `port`.
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: port reads touch no memory of this program.
    unsafe {
        asm!("in ax, dx", out("ax") value, in("dx") port, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Reads a doubleword from I/O port `port`.
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: port reads touch no memory of this program.
    unsafe {
        asm!("in eax, dx",
            out("eax") value,
            in("dx") port,
            options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes a byte to I/O port `port`.
pub fn out8(port: u16, value: u8) {
    // SAFETY: the drivers write only to ports of the chips they own; the one write that starts DMA
    // (ide.rs) hands over memory that the driver keeps. Not `nomem`: memory writes before it must
    // be visible to the device.
    unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Writes a word to I/O port `port`.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, ax", in("ax") value, in("dx") port, options(nostack, preserves_flags)) };
}

/// Writes a doubleword to I/O port `port`.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe {
        asm!("out dx, eax", in("eax") value, in("dx") port, options(nostack, preserves_flags))
    };
}

/// The time-stamp counter (SDM 2B RDTSC).
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC is in every 64-bit processor and has no side effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A random number of the processor, or `None` without RDRAND or when its generator stays dry for
/// ten tries (SDM 1 7.3.17.1).
pub fn rdrand() -> Option<u64> {
    let has_rdrand = __cpuid(1).ecx & (1 << 30) != 0;
    if !has_rdrand {
        return None;
    }
    (0..10).find_map(|_| {
        let (value, valid): (u64, u8);
        // SAFETY: CPUID reported the instruction; it changes its register and the flags only.
        unsafe {
            asm!(
                "rdrand {value}",
                "setc {valid}",
                value = out(reg) value,
                valid = out(reg_byte) valid,
                options(nomem, nostack)
            )
        };
        (valid != 0).then_some(value)
    })
}

/// Opens interrupts, halts until one arrives, and closes them again.
///
/// STI takes effect after HLT has begun, so an interrupt that is already pending ends the halt at
/// once.
pub fn wait_for_interrupt() {
    // SAFETY: the handlers (interrupts.S) keep the stack and change only registers that a C
    // function may change, all of which are declared as clobbered; memory they change is atomic.
    unsafe { asm!("sti", "hlt", "cli", clobber_abi("C")) };
}

/// Lets pending interrupts in without waiting for one.
pub fn take_interrupts() {
    // SAFETY: as in `wait_for_interrupt`; NOP stands in STI's shadow, the interrupts come after it.
    unsafe { asm!("sti", "nop", "cli", clobber_abi("C")) };
}

/// Stops the processor for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts closed nothing but an NMI or a reset ends the halt.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The operand of LGDT and LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// Loads the interrupt descriptor table.
///
/// # Safety
/// `limit + 1` bytes at `base` are valid gates and stay so.
pub unsafe fn load_idt(base: u64, limit: u16) {
    let pointer = TablePointer { limit, base };
    // SAFETY: the caller vouches for the table; the pointer is read by the instruction itself.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags))
    };
}

/// Loads the task register.
///
/// # Safety
/// `selector` names an available 64-bit TSS in the GDT whose memory stays valid.
pub unsafe fn load_task_register(selector: u16) {
    // SAFETY: the caller vouches for the descriptor.
    unsafe { asm!("ltr {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}

/// The linear address of the last page fault (SDM 3A 2.5).
pub fn read_cr2() -> u64 {
    let value;
    // SAFETY: ring 0 may read CR2.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Resets the machine by a triple fault: an interrupt with an empty interrupt table.
pub fn triple_fault() -> ! {
    // SAFETY: never returns; the empty table makes any exception shut the processor down (SDM 3A
    // 6.15, #DF).
    unsafe {
        load_idt(0, 0);
        asm!("int3", options(noreturn));
    }
}
