//! PCI on the board: configuration accesses and their effects, base address windows, IDE and power
//! management ports.
//!
//! Contract: windows are looked up in the functions' configuration spaces at each access, so a
//! moved or disabled window takes effect at once.

use super::Board;
use crate::pci::{Changed, functions, i440fx, piix3};
use crate::ram::Ram;
use crate::time::VirtualNs;

/// Configuration registers by which a function is enabled.
const COMMAND: core::ops::Range<u16> = 0x04..0x06;
/// The network cards' memory and I/O windows.
const NIC_MEMORY_BAR: u8 = 0;
const NIC_IO_BAR: u8 = 2;
/// The IDE function's bus master registers.
const IDE_BAR: u8 = 4;
/// Ports below this are never in a base address window.
const FIRST_BAR_PORT: u16 = 0x0400;

/// Which IDE channel a legacy port belongs to: 1F0h and 3F6h are primary.
const fn ide_channel(port: u16) -> usize {
    if port & 0x80 != 0 { 0 } else { 1 }
}

impl Board {
    pub(super) fn pci_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        size: u8,
        value: u32,
    ) {
        if let Some(changed) = self.pci.port_write(port, size, value) {
            self.pci_changed(ram, now, changed);
        }
    }

    fn pci_changed(&mut self, ram: &mut Ram, now: VirtualNs, changed: Changed) {
        let Some(config) = self.pci.config(changed.devfn) else { return };
        match changed.devfn {
            functions::HOST_BRIDGE => {
                if changed.touches(u16::from(i440fx::PAM)..u16::from(i440fx::PAM_END)) {
                    ram.set_shadow_writable(i440fx::shadow_writable(config));
                }
            }
            functions::ISA_BRIDGE => {
                let route = u16::from(piix3::PIRQRC);
                if changed.touches(route..route + 4) {
                    self.wire_pci();
                }
            }
            functions::IDE => {
                if changed.touches(COMMAND) {
                    let master = config.bus_master();
                    self.ide.set_master(ram, &mut self.outputs, master);
                }
            }
            devfn => {
                let master = config.bus_master();
                let n = (devfn.0 >> 3).wrapping_sub(functions::nic(0).device());
                if let Some(nic) = self.nics.get_mut(usize::from(n))
                    && changed.touches(COMMAND)
                {
                    nic.set_master(ram, &mut self.outputs, now, master);
                    self.wire_pci();
                }
            }
        }
    }

    pub(super) fn advance_nics(&mut self, ram: &mut Ram, now: VirtualNs) {
        for nic in &mut self.nics {
            if nic.deadline().is_some_and(|at| at <= now) {
                nic.advance(ram, &mut self.outputs, now);
            }
        }
        self.wire_pci();
    }

    /// The network card that decodes `pa`, and the offset in its registers.
    #[inline]
    fn nic_at(&self, pa: u64) -> Option<(usize, u32)> {
        (0..self.nics.len()).find_map(|n| {
            let config = self.pci.config(functions::nic(n as u8))?;
            Some((n, config.memory_offset(NIC_MEMORY_BAR, pa)?))
        })
    }

    pub(super) fn nic_read(&mut self, now: VirtualNs, pa: u64, size: u8) -> Option<u64> {
        let (n, offset) = self.nic_at(pa)?;
        let nic = &mut self.nics[n];
        let mut value = u64::from(nic.mmio_read(now, offset, size));
        if size == 8 {
            value |= u64::from(nic.mmio_read(now, offset.wrapping_add(4), 4)) << 32;
        }
        self.wire_pci();
        Some(value)
    }

    pub(super) fn nic_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        pa: u64,
        (size, value): (u8, u64),
    ) -> bool {
        let Some((n, offset)) = self.nic_at(pa) else { return false };
        let nic = &mut self.nics[n];
        let outputs = &mut self.outputs;
        nic.mmio_write(ram, outputs, now, (offset, size.min(4)), value as u32);
        if size == 8 {
            let high = (value >> 32) as u32;
            nic.mmio_write(ram, outputs, now, (offset.wrapping_add(4), 4), high);
        }
        self.wire_pci();
        true
    }

    /// Offset of `port` in the bus master registers of the IDE function.
    fn bus_master_at(&self, port: u16) -> Option<u8> {
        let config = self.pci.config(functions::IDE)?;
        config.io_offset(IDE_BAR, port).map(|offset| offset as u8)
    }

    fn nic_io_at(&self, port: u16) -> Option<(usize, u32)> {
        (0..self.nics.len()).find_map(|n| {
            let config = self.pci.config(functions::nic(n as u8))?;
            Some((n, config.io_offset(NIC_IO_BAR, port)?))
        })
    }

    fn power_management_at(&self, port: u16) -> Option<u16> {
        let config = self.pci.config(functions::POWER_MANAGEMENT)?;
        piix3::power_management_offset(config, port)
    }

    /// Reads a port in a base address window.
    pub(super) fn bar_read(
        &mut self,
        _ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        size: u8,
    ) -> Option<u32> {
        if port < FIRST_BAR_PORT {
            return None;
        }
        if let Some(offset) = self.bus_master_at(port) {
            return Some(self.ide.bus_master_read(offset, size));
        }
        if let Some(offset) = self.power_management_at(port) {
            return Some(self.pm.read(now, offset, size));
        }
        let (n, offset) = self.nic_io_at(port)?;
        let value = self.nics[n].io_read(now, offset, size);
        self.wire_pci();
        Some(value)
    }

    /// Writes a port in a base address window; false when there is none.
    pub(super) fn bar_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        (size, value): (u8, u32),
    ) -> bool {
        if port < FIRST_BAR_PORT {
            return false;
        }
        if let Some(offset) = self.bus_master_at(port) {
            self.ide.bus_master_write(ram, &mut self.outputs, (offset, size), value);
            return true;
        }
        if let Some(offset) = self.power_management_at(port) {
            self.pm.write(now, offset, size, value);
            if self.pm.take_power_off() {
                self.signal = Some(super::Signal::PowerOff);
            }
            return true;
        }
        let Some((n, offset)) = self.nic_io_at(port) else { return false };
        self.nics[n].io_write(ram, &mut self.outputs, now, (offset, size), value);
        self.wire_pci();
        true
    }

    fn ide_decoded(&self, port: u16) -> bool {
        let config = self.pci.config(functions::IDE);
        config.is_some_and(|config| piix3::ide_decoded(config, ide_channel(port)))
    }

    #[inline]
    pub(super) fn ide_read(&mut self, port: u16, size: u8) -> Option<u32> {
        if !self.ide_decoded(port) {
            return None;
        }
        Some(self.ide.command_read(ide_channel(port), (port & 7) as u8, size))
    }

    #[inline]
    pub(super) fn ide_write(&mut self, ram: &mut Ram, port: u16, size: u8, value: u32) -> bool {
        if !self.ide_decoded(port) {
            return false;
        }
        let at = ((port & 7) as u8, size);
        self.ide.command_write(ram, &mut self.outputs, ide_channel(port), at, value);
        true
    }

    pub(super) fn ide_status(&mut self, port: u16) -> Option<u32> {
        let status = self.ide.alternate_status(ide_channel(port));
        self.ide_decoded(port).then_some(u32::from(status) | 0xFFFF_FF00)
    }

    pub(super) fn ide_control(&mut self, port: u16, value: u32) -> bool {
        let decoded = self.ide_decoded(port);
        if decoded {
            self.ide.device_control(ide_channel(port), value as u8);
        }
        decoded
    }
}
