//! PCI: configuration mechanism 1, interrupt routing, and the functions on bus 0.
//!
//! Contract: [`Bus`] holds every function's [`ConfigSpace`] and nothing of the chips behind them.
//! A configuration write tells the board which register of which function changed; base addresses
//! and enables are read from the configuration space at each access, never cached.

pub mod config;
pub mod functions;
pub mod i440fx;
pub mod piix3;

use crate::octets::Octets;
use alloc::vec::Vec;
pub use config::ConfigSpace;
use serde::{Deserialize, Serialize};

/// CONFADD, PCI 2.1 section 3.7.4.1.
pub const ADDRESS_PORT: u16 = 0xCF8;
/// CONFDATA.
pub const DATA_PORT: u16 = 0xCFC;

const ENABLE: u32 = 1 << 31;

/// Device and function number on bus 0: device in bits 7:3, function in bits 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Devfn(pub u8);

impl Devfn {
    /// Function `function` of device `device`.
    pub const fn new(device: u8, function: u8) -> Self {
        Self(device << 3 | function & 7)
    }

    /// The device (slot) number.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }
}

/// The PIRQ line (0 = A … 3 = D) to which `device`'s interrupt `pin` (1 = INTA# …) is wired: the
/// pins are rotated by one line a slot, so that device 1 has its INTA# on PIRQA#.
pub const fn pirq(device: u8, pin: u8) -> usize {
    (device as usize + pin as usize + 2) & 3
}

/// A register that a configuration write touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Of which function.
    pub devfn: Devfn,
    /// First byte written.
    pub offset: u8,
    /// Bytes written.
    pub size: u8,
}

impl Changed {
    /// Whether a byte of `registers` was written.
    pub fn touches(&self, registers: core::ops::Range<u16>) -> bool {
        let first = u16::from(self.offset);
        first < registers.end && first + u16::from(self.size) > registers.start
    }
}

#[derive(Serialize, Deserialize)]
struct Function {
    devfn: Devfn,
    config: ConfigSpace,
    /// Level of its INTx# pin.
    interrupt: bool,
}

/// Bus 0 behind configuration mechanism 1.
#[derive(Serialize, Deserialize)]
pub struct Bus {
    address: u32,
    functions: Vec<Function>,
    /// Position in `functions` plus one, by device and function number; 0: nobody.
    positions: Octets<256>,
}

impl Bus {
    /// A bus without functions.
    pub fn new() -> Self {
        Self { address: 0, functions: Vec::new(), positions: Octets::default() }
    }

    /// Puts a function on the bus.
    pub fn add(&mut self, devfn: Devfn, config: ConfigSpace) {
        self.functions.push(Function { devfn, config, interrupt: false });
        self.positions[usize::from(devfn.0)] = self.functions.len() as u8;
    }

    #[inline]
    fn position(&self, devfn: Devfn) -> usize {
        usize::from(self.positions[usize::from(devfn.0)]).wrapping_sub(1)
    }

    fn function(&mut self, devfn: Devfn) -> Option<&mut Function> {
        let position = self.position(devfn);
        self.functions.get_mut(position)
    }

    /// RST#: every configuration space to its power-on state.
    pub fn reset(&mut self) {
        self.address = 0;
        for function in &mut self.functions {
            function.config.reset();
            function.interrupt = false;
        }
    }

    /// The configuration space of a function.
    #[inline]
    pub fn config(&self, devfn: Devfn) -> Option<&ConfigSpace> {
        self.functions.get(self.position(devfn)).map(|f| &f.config)
    }

    /// Reads `size` bytes from a port in CF8h-CFFh.
    pub fn port_read(&self, port: u16, size: u8) -> u32 {
        if port < DATA_PORT {
            // CONFADD exists for double words only.
            return if port == ADDRESS_PORT && size == 4 { self.address } else { u32::MAX };
        }
        let Some((devfn, offset)) = self.target(port) else { return u32::MAX };
        self.config(devfn).map_or(u32::MAX, |config| config.read(offset, size))
    }

    /// Writes `size` bytes to a port in CF8h-CFFh and says what changed.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) -> Option<Changed> {
        if port < DATA_PORT {
            if port == ADDRESS_PORT && size == 4 {
                self.address = value & 0x80FF_FFFC;
            }
            return None;
        }
        let (devfn, offset) = self.target(port)?;
        self.config_write(devfn, offset, size, value)
    }

    /// Writes a configuration register, as by mechanism 1, and says what changed.
    pub fn config_write(
        &mut self,
        devfn: Devfn,
        offset: u8,
        size: u8,
        value: u32,
    ) -> Option<Changed> {
        let function = self.function(devfn)?;
        function.config.write(offset, size, value);
        Some(Changed { devfn, offset, size })
    }

    fn target(&self, port: u16) -> Option<(Devfn, u8)> {
        let bus = self.address >> 16 & 0xFF;
        if self.address & ENABLE == 0 || bus != 0 {
            return None;
        }
        let offset = (self.address & 0xFC) as u8 | (port & 3) as u8;
        Some((Devfn((self.address >> 8) as u8), offset))
    }

    /// Drives a function's interrupt pin and says whether that changed it.
    pub fn set_interrupt(&mut self, devfn: Devfn, level: bool) -> bool {
        let Some(function) = self.function(devfn) else { return false };
        let changed = function.interrupt != level;
        function.interrupt = level;
        function.config.set_interrupt_status(level);
        changed
    }

    /// The levels of PIRQA#-PIRQD# (asserted = true).
    pub fn pirq_levels(&self) -> [bool; 4] {
        let mut levels = [false; 4];
        for function in &self.functions {
            let pin = function.config.interrupt_pin();
            if function.interrupt && pin != 0 {
                levels[pirq(function.devfn.device(), pin)] = true;
            }
        }
        levels
    }

    /// The ISA interrupts that PCI asserts through the ISA bridge's PIRQRC registers, a bit each.
    pub fn isa_interrupts(&self) -> u16 {
        let Some(bridge) = self.config(functions::ISA_BRIDGE) else { return 0 };
        let mut lines = 0;
        for (n, level) in self.pirq_levels().into_iter().enumerate() {
            if let (true, Some(irq)) = (level, piix3::pirq_route(bridge, n)) {
                lines |= 1 << irq;
            }
        }
        lines
    }

    /// The ISA interrupts to which any PIRQ is routed, a bit each: level-triggered, active low on
    /// the board.
    pub fn routed_interrupts(&self) -> u16 {
        let Some(bridge) = self.config(functions::ISA_BRIDGE) else { return 0 };
        (0..4).filter_map(|n| piix3::pirq_route(bridge, n)).fold(0, |lines, irq| lines | 1 << irq)
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Bus {
        functions::standard_bus(2)
    }

    fn select(bus: &mut Bus, devfn: Devfn, register: u8) {
        let address = ENABLE | u32::from(devfn.0) << 8 | u32::from(register & 0xFC);
        bus.port_write(ADDRESS_PORT, 4, address);
    }

    fn read(bus: &mut Bus, devfn: Devfn, register: u8, size: u8) -> u32 {
        select(bus, devfn, register);
        bus.port_read(DATA_PORT + u16::from(register & 3), size)
    }

    fn write(bus: &mut Bus, devfn: Devfn, register: u8, size: u8, value: u32) -> Option<Changed> {
        select(bus, devfn, register);
        bus.port_write(DATA_PORT + u16::from(register & 3), size, value)
    }

    #[test]
    fn identities_and_absent_functions() {
        let mut bus = board();
        for (devfn, id) in [
            (Devfn::new(0, 0), 0x1237_8086),
            (Devfn::new(1, 0), 0x7000_8086),
            (Devfn::new(1, 1), 0x7010_8086),
            (Devfn::new(1, 3), 0x7113_8086),
            (Devfn::new(3, 0), 0x100E_8086),
            (Devfn::new(4, 0), 0x100E_8086),
            (Devfn::new(5, 0), u32::MAX),
            (Devfn::new(1, 2), u32::MAX),
        ] {
            assert_eq!(read(&mut bus, devfn, 0, 4), id, "{devfn:?}");
        }
        assert_eq!(read(&mut bus, Devfn::new(1, 0), 2, 2), 0x7000);
        assert_eq!(read(&mut bus, Devfn::new(1, 0), 3, 1), 0x70);
        assert_eq!(read(&mut bus, Devfn::new(1, 0), 0x0E, 1), 0x80, "multi-function");
    }

    #[test]
    fn address_register_takes_double_words_only() {
        let mut bus = board();
        bus.port_write(ADDRESS_PORT, 4, 0xFFFF_FFFF);
        assert_eq!(bus.port_read(ADDRESS_PORT, 4), 0x80FF_FFFC);
        bus.port_write(ADDRESS_PORT, 1, 0);
        bus.port_write(ADDRESS_PORT + 2, 2, 0);
        assert_eq!(bus.port_read(ADDRESS_PORT, 4), 0x80FF_FFFC);
        assert_eq!(bus.port_read(ADDRESS_PORT, 2), u32::MAX);
        // Enable clear, or another bus: nobody answers.
        bus.port_write(ADDRESS_PORT, 4, 0);
        assert_eq!(bus.port_read(DATA_PORT, 4), u32::MAX);
        bus.port_write(ADDRESS_PORT, 4, ENABLE | 1 << 16);
        assert_eq!(bus.port_read(DATA_PORT, 4), u32::MAX);
        assert_eq!(bus.port_write(DATA_PORT, 4, 0), None);
    }

    #[test]
    fn bar_sizing_and_decoding() {
        let mut bus = board();
        let nic = functions::nic(0);
        write(&mut bus, nic, 0x10, 4, u32::MAX);
        assert_eq!(read(&mut bus, nic, 0x10, 4), 0xFFFE_0000);
        write(&mut bus, nic, 0x18, 4, u32::MAX);
        assert_eq!(read(&mut bus, nic, 0x18, 4), 0xFFFF_FFC1);
        write(&mut bus, nic, 0x14, 4, u32::MAX);
        assert_eq!(read(&mut bus, nic, 0x14, 4), 0);
        write(&mut bus, nic, 0x10, 4, 0xFEB0_0000);
        write(&mut bus, nic, 0x18, 4, 0xC040);
        let config = bus.config(nic).expect("present");
        assert_eq!(config.memory_offset(0, 0xFEB0_0010), None, "not enabled yet");
        write(&mut bus, nic, 4, 2, 7);
        let config = bus.config(nic).expect("present");
        assert_eq!(config.memory_offset(0, 0xFEB0_0010), Some(0x10));
        assert_eq!(config.memory_offset(0, 0xFEB1_FFFF), Some(0x1_FFFF));
        assert_eq!(config.memory_offset(0, 0xFEB2_0000), None);
        assert_eq!(config.memory_offset(2, 0xC040), None, "an I/O BAR");
        assert_eq!(config.io_offset(2, 0xC044), Some(4));
        assert_eq!(config.io_offset(2, 0xC080), None);
        assert!(config.bus_master());
    }

    #[test]
    fn interrupt_pins_are_swizzled_and_routed() {
        let mut bus = board();
        assert_eq!((pirq(1, 1), pirq(2, 1), pirq(3, 1), pirq(3, 4)), (0, 1, 2, 1));
        bus.set_interrupt(functions::nic(0), true);
        assert_eq!(bus.pirq_levels(), [false, false, true, false]);
        assert_eq!(bus.isa_interrupts(), 0, "PIRQRC disabled after reset");
        write(&mut bus, functions::ISA_BRIDGE, 0x62, 1, 11);
        assert_eq!((bus.isa_interrupts(), bus.routed_interrupts()), (1 << 11, 1 << 11));
        // Reserved values route nowhere; bit 7 disables.
        for route in [0, 1, 2, 8, 13, 0x8B] {
            write(&mut bus, functions::ISA_BRIDGE, 0x62, 1, route);
            assert_eq!(bus.isa_interrupts(), 0, "{route}");
        }
        write(&mut bus, functions::ISA_BRIDGE, 0x60, 4, 0x800A_8080);
        assert_eq!(bus.isa_interrupts(), 1 << 10);
        bus.set_interrupt(functions::nic(0), false);
        assert_eq!(bus.isa_interrupts(), 0);
    }

    #[test]
    fn touching_is_by_byte() {
        let changed = Changed { devfn: Devfn(0), offset: 0x58, size: 4 };
        assert!(changed.touches(0x59..0x60));
        assert!(changed.touches(0x40..0x59));
        assert!(!changed.touches(0x5C..0x60));
        assert!(!changed.touches(0x40..0x58));
    }

    #[test]
    fn every_register_of_every_function_takes_anything() {
        let mut bus = board();
        let mut seed = 1u64;
        for _ in 0..200_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let random = (seed >> 32) as u32;
            let port = ADDRESS_PORT + (random & 7) as u16;
            let size = [1, 2, 4][(random >> 3) as usize % 3];
            bus.port_write(port, size, random.rotate_left(7) | (random & 1) << 31);
            bus.port_read(port, size);
        }
        assert_eq!(read(&mut bus, Devfn::new(0, 0), 0, 4), 0x1237_8086);
        bus.reset();
        let fresh = board();
        let state = |bus: &Bus| rmp_serde::to_vec(bus).expect("serializes");
        assert_eq!(state(&bus), state(&fresh), "reset restores everything");
    }
}
