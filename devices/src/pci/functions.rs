//! What stands on PCI bus 0 and where.
//!
//! Contract: the device numbers here are known to the firmware's interrupt tables.

use super::{Bus, ConfigSpace, Devfn, i440fx, piix3};

/// 82441FX host bridge.
pub const HOST_BRIDGE: Devfn = Devfn::new(0, 0);
/// PIIX3 ISA bridge.
pub const ISA_BRIDGE: Devfn = Devfn::new(1, 0);
/// PIIX3 IDE.
pub const IDE: Devfn = Devfn::new(1, 1);
/// PIIX4 power management.
pub const POWER_MANAGEMENT: Devfn = Devfn::new(1, 3);
/// VGA.
pub const VGA: Devfn = Devfn::new(2, 0);
/// Most network cards that fit behind the other devices.
pub const NICS_MAX: usize = 28;

/// Network card number `n`.
pub const fn nic(n: u8) -> Devfn {
    Devfn::new(3 + n, 0)
}

/// The board's bus with `nics` network cards (at most [`NICS_MAX`]).
pub fn standard_bus(nics: usize) -> Bus {
    let mut bus = Bus::new();
    bus.add(HOST_BRIDGE, i440fx::host_bridge());
    bus.add(ISA_BRIDGE, piix3::isa_bridge());
    bus.add(IDE, piix3::ide());
    bus.add(POWER_MANAGEMENT, piix3::power_management());
    bus.add(VGA, vga());
    for n in 0..nics.min(NICS_MAX) {
        bus.add(nic(n as u8), e1000());
    }
    bus
}

/// A VGA that decodes the legacy ranges alone. It bears the identity of the Tseng ET4000/W32p,
/// whose base address register is optional and which no current driver takes over from VGA.
fn vga() -> ConfigSpace {
    ConfigSpace::new(0x100C, 0x3202, 0x03_0000, 0).command(0x0003, 0x0023).status(0x0200)
}

/// 82540EM, software developer's manual section 4.1: BAR 0 the registers, BAR 2 the I/O window,
/// and the power management capability with D0 and D3hot.
fn e1000() -> ConfigSpace {
    ConfigSpace::new(0x8086, 0x100E, 0x02_0000, 0x02)
        .command(0x0000, 0x0157)
        .status(0x0230)
        .subsystem(0x8086, 0x001E)
        .register(0x0C, 0x00, 0xFF)
        .register(0x0D, 0x00, 0xFC)
        .read_only(0x3E, &[0xFF, 0x00])
        .interrupt(1)
        .memory_bar(0, 0x2_0000)
        .io_bar(2, 0x40)
        .capability(1, 0xDC, &[0x22, 0xC8, 0x08, 0x00, 0x00, 0x00])
        .register(0xE0, 0x08, 0x03)
        .register(0xE1, 0x00, 0x01)
        .clear_by_one(0xE1, 0x80)
}
