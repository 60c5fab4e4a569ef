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
/// The IDE command register, in the command block.
const COMMAND_REGISTER: u16 = 7;
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
                    self.route_pci();
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

    /// Whether network card `nic` has room for a frame; absent cards drop any number.
    pub fn nic_has_room(&self, now: VirtualNs, nic: u8) -> bool {
        self.nics.get(usize::from(nic)).is_none_or(|nic| nic.has_room(now))
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
        let before = (nic.interrupt(), nic.deadline());
        let mut value = u64::from(nic.mmio_read(now, offset, size));
        if size == 8 {
            value |= u64::from(nic.mmio_read(now, offset.wrapping_add(4), 4)) << 32;
        }
        self.settle_nic(now, n, before);
        Some(value)
    }

    pub(super) fn nic_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        pa: u64,
        (size, value): (u8, u64),
    ) {
        let Some((n, offset)) = self.nic_at(pa) else { return };
        let nic = &mut self.nics[n];
        let before = (nic.interrupt(), nic.deadline());
        let outputs = &mut self.outputs;
        nic.mmio_write(ram, outputs, now, (offset, size.min(4)), value as u32);
        if size == 8 {
            let high = (value >> 32) as u32;
            nic.mmio_write(ram, outputs, now, (offset.wrapping_add(4), 4), high);
        }
        self.settle_nic(now, n, before);
    }

    /// Settles the board if a card's interrupt pin or deadline is not as before.
    fn settle_nic(&mut self, now: VirtualNs, n: usize, before: (bool, Option<VirtualNs>)) {
        let nic = &self.nics[n];
        if before != (nic.interrupt(), nic.deadline()) {
            self.wire_pci();
            self.settle(now);
        }
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
        if port & 7 == COMMAND_REGISTER && self.ide.acknowledge(ide_channel(port)) {
            // The line falls before the command can raise it again.
            self.wire_isa();
        }
        let at = ((port & 7) as u8, size);
        self.ide.command_write(ram, &mut self.outputs, ide_channel(port), at, value);
        true
    }

    /// The data register, for which wires change at the end of a block only.
    #[inline]
    pub(super) fn ide_data_read(&mut self, now: VirtualNs, port: u16, size: u8) -> Option<u32> {
        if !matches!(port, 0x170 | 0x1F0) || !self.ide_decoded(port) {
            return None;
        }
        let channel = ide_channel(port);
        let before = self.ide.interrupt(channel);
        let value = self.ide.command_read(channel, 0, size);
        if self.ide.interrupt(channel) != before {
            self.settle(now);
        }
        Some(value)
    }

    /// The same for writes; false for other ports.
    #[inline]
    pub(super) fn ide_data_write(
        &mut self,
        ram: &mut Ram,
        now: VirtualNs,
        port: u16,
        (size, value): (u8, u32),
    ) -> bool {
        if !matches!(port, 0x170 | 0x1F0) {
            return false;
        }
        let before = self.ide.interrupt(ide_channel(port));
        let taken = self.ide_write(ram, port, size, value);
        if self.ide.interrupt(ide_channel(port)) != before {
            self.settle(now);
        }
        taken
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

#[cfg(test)]
mod tests {
    use super::super::{Board, BoardConfig};
    use crate::io::{DiskOperation, DiskResult, Input, Output};
    use crate::pci::{Devfn, functions};
    use crate::ram::{Backing, Ram};
    use crate::time::VirtualNs;

    const NOW: VirtualNs = VirtualNs(1_000_000);
    const NIC: u64 = 0xE000_0000;

    struct Pc {
        board: Board,
        ram: Ram,
    }

    impl Pc {
        fn new() -> Self {
            let mut ram = Ram::new(4 << 20, &[0; 1 << 16]);
            let disks = [Some(1000), None, None, None];
            let config = BoardConfig { disks, nics: alloc::vec![[2; 6], [4; 6]], uarts: 1 };
            let board = Board::new(&config, &mut ram);
            Self { board, ram }
        }

        fn out(&mut self, port: u16, size: u8, value: u32) {
            self.board.port_write(&mut self.ram, NOW, port, size, value);
        }

        fn read(&mut self, port: u16, size: u8) -> u32 {
            self.board.port_read(&mut self.ram, NOW, port, size)
        }

        fn configure(&mut self, devfn: Devfn, register: u8, size: u8, value: u32) {
            let address = 1 << 31 | u32::from(devfn.0) << 8 | u32::from(register & 0xFC);
            self.out(0xCF8, 4, address);
            self.out(0xCFC + u16::from(register & 3), size, value);
        }

        /// IDE decoded with its bus master at C000h, the first card at [`NIC`] and C040h.
        fn enumerate(&mut self) {
            self.configure(functions::IDE, 0x20, 4, 0xC000);
            self.configure(functions::IDE, 0x40, 4, 0x8000_8000);
            self.configure(functions::IDE, 0x04, 2, 5);
            self.configure(functions::nic(0), 0x10, 4, NIC as u32);
            self.configure(functions::nic(0), 0x18, 4, 0xC040);
            self.configure(functions::nic(0), 0x04, 2, 7);
            self.configure(functions::ISA_BRIDGE, 0x62, 1, 11);
        }

        /// PICs unmasked and wired through to the CPU.
        fn start_pics(&mut self) {
            for (port, base, cascade) in [(0x20, 0x20, 4), (0xA0, 0x28, 2)] {
                self.out(port, 1, 0x11);
                for value in [base, cascade, 1, 0] {
                    self.out(port + 1, 1, value);
                }
            }
            self.out(0x4D1, 1, 0x0C);
            self.mmio(0xFEE0_00F0, 0x1FF);
            self.mmio(0xFEE0_0350, 0x700);
        }

        fn mmio(&mut self, pa: u64, value: u32) {
            self.board.mmio_write(&mut self.ram, NOW, pa, 4, u64::from(value));
        }

        fn peek(&mut self, pa: u64, size: u8) -> u64 {
            self.board.mmio_read(&mut self.ram, NOW, pa, size)
        }
    }

    #[test]
    fn attribute_map_opens_the_shadow() {
        let mut pc = Pc::new();
        assert_eq!(pc.ram.backing(0xF_0000), Backing::Rom(0xF_0000));
        pc.configure(functions::HOST_BRIDGE, 0x59, 1, 0x30);
        assert_eq!(pc.ram.backing(0xF_0000), Backing::Ram(0xF_0000));
        assert_eq!(pc.ram.backing(0xE_C000), Backing::Rom(0xE_C000));
        pc.board.reset(&mut pc.ram, NOW);
        assert_eq!(pc.ram.backing(0xF_0000), Backing::Rom(0xF_0000));
        pc.out(0xCF9, 1, 2);
        assert_eq!(pc.read(0xCF9, 1), 2, "not swallowed by the address register");
    }

    #[test]
    fn disk_ports_need_their_enables() {
        let mut pc = Pc::new();
        assert_eq!(pc.read(0x1F7, 1), 0xFF);
        pc.enumerate();
        assert_eq!((pc.read(0x1F7, 1), pc.read(0x3F6, 1) & 0xFF), (0x50, 0x50));
        assert_eq!(pc.read(0x177, 1), 0x7F, "a channel without drives");
        pc.configure(functions::IDE, 0x41, 1, 0);
        assert_eq!(pc.read(0x1F7, 1), 0xFF);
    }

    #[test]
    fn a_sector_by_dma_and_irq_14() {
        let mut pc = Pc::new();
        pc.enumerate();
        pc.start_pics();
        pc.ram.dma_write(0x1000, &[0, 0x20, 0, 0, 0, 2, 0, 0x80]);
        pc.out(0xC004, 4, 0x1000);
        for (port, value) in [(0x1F2, 1), (0x1F3, 9), (0x1F6, 0xE0), (0x1F7, 0xC8)] {
            pc.out(port, 1, value);
        }
        pc.out(0xC000, 1, 9);
        let operation = DiskOperation::Read { lba: 9, sectors: 1 };
        let request = 1;
        let wanted = Output::Disk { disk: 0, request, operation };
        assert_eq!(pc.board.poll_output(), Some(wanted));
        assert!(!pc.board.interrupt_pending());
        let result = DiskResult::Data(alloc::vec![0xA5; 512]);
        pc.board.input(&mut pc.ram, NOW, Input::DiskDone { disk: 0, request, result });
        assert_eq!(pc.ram.bytes()[0x2000..0x2200], [0xA5; 512]);
        assert_eq!(pc.board.acknowledge_interrupt(NOW), Some(0x2E));
        assert_eq!((pc.read(0xC002, 1), pc.read(0x1F7, 1)), (4, 0x50));
    }

    #[test]
    fn card_interrupts_by_its_route() {
        let mut pc = Pc::new();
        pc.enumerate();
        pc.start_pics();
        assert_eq!(pc.peek(NIC + 8, 4) & 2, 2, "link");
        assert_eq!(pc.peek(NIC + 0x5400, 8), 0x8000_0202_0202_0202);
        assert_eq!(pc.peek(NIC + 0x2_0000, 4), u64::from(u32::MAX) | 0xFFFF_FFFF_0000_0000);
        pc.mmio(NIC + 0xD0, 4);
        pc.out(0xC040, 4, 0xC8);
        pc.out(0xC044, 4, 4);
        assert_eq!(pc.board.acknowledge_interrupt(NOW), Some(0x2B));
        pc.out(0xA0, 1, 0x20);
        pc.out(0x20, 1, 0x20);
        assert_eq!(pc.board.acknowledge_interrupt(NOW), Some(0x2B), "level-triggered");
        assert_eq!(pc.peek(NIC + 0xC0, 4), 4);
        pc.out(0xA0, 1, 0x20);
        pc.out(0x20, 1, 0x20);
        assert_eq!(pc.board.acknowledge_interrupt(NOW), None);
        // Another route takes the line along.
        pc.mmio(NIC + 0xC8, 4);
        pc.configure(functions::ISA_BRIDGE, 0x62, 1, 10);
        assert_eq!(pc.board.acknowledge_interrupt(NOW), Some(0x2A));
    }
}
