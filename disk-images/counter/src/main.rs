//! The demo guest `counter`: a bare-metal x86-64 system that keeps a counter on its disk and serves
//! it over TCP.
//!
//! One core, one loop: [`System::run`] handles what the devices reported, moves packets and bytes,
//! starts disk writes, and halts the processor until the next interrupt. Interrupts are open only
//! while it halts, so nothing here is concurrent.

#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod clock;
mod connection;
mod console;
mod counter;
mod cpu;
mod dma;
mod e1000;
mod http;
mod ide;
mod interrupts;
mod line_protocol;
mod memory;
mod net;
mod outbox;
mod panic;
mod pci;
mod pic;
mod rtc;
mod serial;
mod session;
mod status;
mod system;
mod vga;

use core::arch::global_asm;

global_asm!(include_str!("boot.S"), options(att_syntax));
global_asm!(include_str!("interrupts.S"), options(att_syntax));
global_asm!(include_str!("memory_functions.S"), options(att_syntax));

/// Where the loader jumps to, in long mode, with the BIOS's memory map.
///
/// # Safety
/// Called once, by `boot.S`: `map` points to `map_len` E820 entries and `.bss` is zero.
#[unsafe(no_mangle)]
unsafe extern "C" fn kernel_main(map: *const memory::E820Entry, map_len: usize) -> ! {
    // SAFETY: the loader stored `map_len` whole entries at `map`, and nothing writes there any
    // more.
    let map = unsafe { core::slice::from_raw_parts(map, map_len) };
    serial::init();
    vga::init();
    interrupts::init();
    pic::init();
    let memory_mib = memory::init(map);
    system::System::new(memory_mib).run()
}
