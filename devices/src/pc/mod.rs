//! The chips of a PC's main board, each a plain register machine.
//!
//! Contract: a chip knows no bus, no other chip and no lock. Registers are read and written at a
//! virtual time; lines to other chips are return values or plain functions of the state. What a
//! chip does between two accesses is a function of its state and the time, so calling `advance`
//! more often changes nothing.

pub mod acpi_pm;
pub mod dma8237;
pub mod i8042;
pub mod ioapic;
pub mod lapic;
pub mod pic8259;
pub mod pit8254;
pub mod rtc_cmos;
pub mod uart16550;
pub mod vga;
