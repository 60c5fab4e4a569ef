//! Intel 82540EM gigabit Ethernet controller.
//!
//! Contract: the PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual
//! (order 317453), as seen through BAR 0 (128 KiB of registers) and the I/O window; PCI is the
//! board's. Frames arrive through [`E1000::receive`] and leave as [`Output::NetTx`]; descriptors
//! and data move in these calls and in [`E1000::advance`], nowhere else. Work per call is bounded:
//! reception by the packet buffer, transmission by a budget after which the card goes on when the
//! frames sent would have left a gigabit wire. Descriptors are written back at once (the write-back
//! thresholds only store); the packet buffer memory at 10000h is not there.

mod checksum;
mod eeprom;
mod filter;
mod interrupt;
mod phy;
mod receive;
mod registers;
mod statistics;
#[cfg(test)]
mod tests;
mod transmit;

use crate::fixed::Fixed;
use crate::io::Output;
use crate::ram::Ram;
use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use eeprom::Eeprom;
use interrupt::Interrupt;
use phy::Phy;
use receive::Receiver;
use registers::{PLAIN, PLAIN_COUNT, cause, ctrl, rctl, status, tctl};
use serde::{Deserialize, Serialize};
use statistics::Statistics;
use transmit::Transmitter;

/// Bytes of BAR 0.
pub const REGISTERS_SIZE: u32 = 0x2_0000;
/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;
/// Longest frame, without FCS, that the card takes in or gathers (section 13.4.22, LPE).
const FRAME_MAX: usize = 16_384;

/// A descriptor ring.
#[derive(Default, Serialize, Deserialize)]
struct Ring {
    base: u64,
    len: u32,
    head: u32,
    tail: u32,
}

impl Ring {
    /// Descriptors in the ring.
    fn size(&self) -> u32 {
        self.len / DESCRIPTOR
    }

    /// Descriptors that belong to the card; none while head or tail lies outside the ring.
    fn available(&self) -> u32 {
        let size = self.size();
        if self.head >= size || self.tail >= size {
            return 0;
        }
        if self.tail >= self.head { self.tail - self.head } else { size - self.head + self.tail }
    }

    /// Address of the descriptor at the head.
    fn address(&self) -> u64 {
        self.base.wrapping_add(u64::from(self.head) * u64::from(DESCRIPTOR))
    }

    fn advance(&mut self) {
        self.head = if self.head + 1 >= self.size() { 0 } else { self.head + 1 };
    }

    fn read(&self, register: u32) -> u32 {
        match register {
            0x00 => self.base as u32,
            0x04 => (self.base >> 32) as u32,
            0x08 => self.len,
            0x10 => self.head,
            0x18 => self.tail,
            _ => 0,
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        match register {
            0x00 => self.base = self.base & !0xFFFF_FFFF | u64::from(value & !0xF),
            0x04 => self.base = self.base & 0xFFFF_FFFF | u64::from(value) << 32,
            0x08 => self.len = value & 0x000F_FF80,
            0x10 => self.head = value & 0xFFFF,
            0x18 => self.tail = value & 0xFFFF,
            _ => {}
        }
    }
}

/// A delay timer pair: one restarted by each event, one absolute (sections 3.2.7 and 3.4.3).
#[derive(Default, Serialize, Deserialize)]
struct Delay {
    packet: Option<VirtualNs>,
    absolute: Option<VirtualNs>,
}

impl Delay {
    /// Unit of the delay registers in nanoseconds.
    const UNIT_NS: u64 = 1024;

    /// An event with these delays (in units; the absolute one 0 for none).
    fn start(&mut self, now: VirtualNs, packet: u32, absolute: u32) {
        self.packet = Some(now.after(u64::from(packet) * Self::UNIT_NS));
        if absolute != 0 && self.absolute.is_none() {
            self.absolute = Some(now.after(u64::from(absolute) * Self::UNIT_NS));
        }
    }

    fn deadline(&self) -> Option<VirtualNs> {
        earliest([self.packet, self.absolute])
    }

    /// Whether it runs out by `now`; then it stops.
    fn expire(&mut self, now: VirtualNs) -> bool {
        let due = self.deadline().is_some_and(|at| at <= now);
        if due {
            *self = Self::default();
        }
        due
    }
}

#[inline]
fn earliest<const N: usize>(times: [Option<VirtualNs>; N]) -> Option<VirtualNs> {
    times.into_iter().fold(None, VirtualNs::earlier)
}

/// One card.
#[derive(Serialize, Deserialize)]
pub struct E1000 {
    index: u8,
    ctrl: u32,
    rctl: u32,
    tctl: u32,
    /// PBA: kilobytes of the packet buffer for reception.
    rx_kilobytes: u32,
    plain: Fixed<u32, PLAIN_COUNT>,
    mta: Fixed<u32, 128>,
    /// RAL and RAH by turns.
    ra: Fixed<u32, 32>,
    vfta: Fixed<u32, 128>,
    rx_ring: Ring,
    tx_ring: Ring,
    receiver: Receiver,
    transmitter: Transmitter,
    eeprom: Eeprom,
    phy: Phy,
    interrupt: Interrupt,
    statistics: Statistics,
    /// The link as STATUS last showed it to the interrupt logic.
    link: bool,
    /// The PCI function may be a bus master.
    master: bool,
    /// I/O window: IOADDR.
    io_address: u32,
}

impl E1000 {
    /// Card number `index` after power-on, with `mac` in its EEPROM.
    pub fn new(index: u8, mac: [u8; 6]) -> Self {
        let mut card = Self {
            index,
            ctrl: 0,
            rctl: 0,
            tctl: 0,
            rx_kilobytes: 0,
            plain: Fixed::default(),
            mta: Fixed::default(),
            ra: Fixed::default(),
            vfta: Fixed::default(),
            rx_ring: Ring::default(),
            tx_ring: Ring::default(),
            receiver: Receiver::default(),
            transmitter: Transmitter::default(),
            eeprom: Eeprom::new(mac),
            phy: Phy::new(),
            interrupt: Interrupt::default(),
            statistics: Statistics::default(),
            link: false,
            master: false,
            io_address: 0,
        };
        card.reset_mac();
        card
    }

    /// RST#: all but the EEPROM's content to the power-on state.
    pub fn reset(&mut self) {
        self.reset_mac();
        self.phy = Phy::new();
        self.master = false;
        self.io_address = 0;
        self.link = self.link_up();
    }

    /// CTRL.RST (section 14.9): everything but the PHY, the bus and the EEPROM.
    fn reset_mac(&mut self) {
        // The EEPROM enables wake-up, which sets SLU (section 13.4.1).
        self.ctrl = ctrl::FD | ctrl::SLU | 2 << 8;
        self.rctl = 0;
        self.tctl = 0;
        self.rx_kilobytes = 48;
        self.plain = Fixed(PLAIN.map(|register| register.power_on));
        self.mta = Fixed::default();
        self.ra = Fixed::default();
        let [a, b, c, d, e, f] = self.eeprom.mac();
        self.ra[0] = u32::from_le_bytes([a, b, c, d]);
        self.ra[1] = u32::from_le_bytes([e, f, 0, 0x80]);
        self.vfta = Fixed::default();
        self.rx_ring = Ring::default();
        self.tx_ring = Ring::default();
        self.receiver = Receiver::default();
        self.transmitter = Transmitter::default();
        self.eeprom.reset();
        self.interrupt = Interrupt::default();
        self.statistics = Statistics::default();
        self.link = self.link_up();
    }

    /// The level of the interrupt pin.
    #[inline]
    pub fn interrupt(&self) -> bool {
        self.interrupt.line()
    }

    /// When [`E1000::advance`] must be called.
    pub fn deadline(&self) -> Option<VirtualNs> {
        earliest([
            self.interrupt.deadline(),
            self.receiver.delay.deadline(),
            self.transmitter.delay.deadline(),
            self.transmitter.resume_at,
            self.phy.negotiated_at,
        ])
    }

    /// Does what is due by `now`.
    pub fn advance(&mut self, ram: &mut Ram, outputs: &mut VecDeque<Output>, now: VirtualNs) {
        self.phy.advance(now);
        self.update_link(now);
        if self.receiver.delay.expire(now) {
            self.interrupt.set(now, cause::RXT0);
        }
        if self.transmitter.delay.expire(now) {
            self.interrupt.set(now, cause::TXDW);
        }
        if self.transmitter.resume_at.is_some_and(|at| at <= now) {
            self.transmitter.resume_at = None;
            self.transmit(ram, outputs, now);
        }
        self.interrupt.update(now);
    }

    /// Sets whether the PCI function may be a bus master: without, descriptors stay where they are.
    pub fn set_master(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        now: VirtualNs,
        master: bool,
    ) {
        self.master = master;
        self.deliver(ram, now);
        self.note_room(now);
        self.transmit(ram, outputs, now);
    }

    fn link_up(&self) -> bool {
        self.ctrl & ctrl::SLU != 0 && self.phy.link()
    }

    fn update_link(&mut self, now: VirtualNs) {
        let link = self.link_up();
        if link != self.link {
            self.link = link;
            self.interrupt.set(now, cause::LSC);
        }
    }

    fn status(&self) -> u32 {
        let link = if self.link_up() { status::LU } else { 0 };
        let speed = if self.ctrl & ctrl::FRCSPD != 0 {
            (self.ctrl & ctrl::SPEED) >> 8 << status::SPEED_SHIFT
        } else {
            status::SPEED_1000
        };
        status::FD | status::ASDV_1000 | speed | link
    }

    fn write_ctrl(&mut self, now: VirtualNs, value: u32) {
        if value & ctrl::RST != 0 {
            return self.reset_mac();
        }
        let before = self.ctrl;
        self.ctrl = value & (ctrl::STORED | ctrl::PHY_RST);
        if value & ctrl::PHY_RST == 0 && before & ctrl::PHY_RST != 0
            || value & ctrl::PHY_RST != 0 && before & ctrl::PHY_RST == 0
        {
            self.phy.reset(now);
        }
        self.update_link(now);
    }
}

/// Register accesses.
impl E1000 {
    /// Reads `size` (1, 2 or 4) bytes of the registers at `offset` in BAR 0.
    pub fn mmio_read(&mut self, now: VirtualNs, offset: u32, size: u8) -> u32 {
        let value = self.read(now, offset & !3) >> (8 * (offset & 3));
        match size {
            1 => value & 0xFF,
            2 => value & 0xFFFF,
            _ => value,
        }
    }

    /// Writes the register at `offset` in BAR 0. Writes of other than aligned double words are
    /// ignored (section 13.2.1: only those are defined).
    pub fn mmio_write(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        now: VirtualNs,
        (offset, size): (u32, u8),
        value: u32,
    ) {
        if size == 4 && offset.is_multiple_of(4) {
            self.write(ram, outputs, now, offset, value);
        }
    }

    /// Reads a double word of the I/O window: IOADDR at 0, IODATA at 4 (section 13.2.2).
    pub fn io_read(&mut self, now: VirtualNs, offset: u32, size: u8) -> u32 {
        match (offset, size) {
            (0, 4) => self.io_address,
            (4, 4) if self.io_address < REGISTERS_SIZE => self.read(now, self.io_address & !3),
            _ => 0,
        }
    }

    /// Writes a double word of the I/O window.
    pub fn io_write(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        now: VirtualNs,
        (offset, size): (u32, u8),
        value: u32,
    ) {
        match (offset, size) {
            (0, 4) => self.io_address = value,
            (4, 4) if self.io_address < REGISTERS_SIZE => {
                self.write(ram, outputs, now, self.io_address & !3, value);
            }
            _ => {}
        }
    }

    fn read(&mut self, now: VirtualNs, offset: u32) -> u32 {
        use registers as r;
        match r::canonical(offset) {
            r::ICR => self.interrupt.read_icr(now),
            r::CTRL | 0x0004 => self.ctrl,
            r::STATUS => self.status(),
            r::EECD => self.eeprom.read_eecd(),
            r::EERD => self.eeprom.read_eerd(),
            r::MDIC => self.phy.read_mdic(),
            r::ITR => u32::from(self.interrupt.interval()),
            r::IMS => self.interrupt.mask(),
            r::RCTL => self.rctl,
            r::TCTL => self.tctl,
            r::PBA => self.rx_kilobytes | (64 - self.rx_kilobytes.min(64)) << 16,
            r::RDTR => self.receiver.packet_delay,
            at @ (r::RDBAL | r::RDBAH | r::RDLEN | r::RDH | r::RDT) => {
                self.rx_ring.read(at - r::RDBAL)
            }
            at @ (r::TDBAL | r::TDBAH | r::TDLEN | r::TDH | r::TDT) => {
                self.tx_ring.read(at - r::TDBAL)
            }
            at @ r::STATISTICS..r::STATISTICS_END => self.statistics.read((at - r::STATISTICS) / 4),
            at @ r::MTA..r::MTA_END => self.mta[(at - r::MTA) as usize / 4],
            at @ r::RA..r::RA_END => self.ra[(at - r::RA) as usize / 4],
            at @ r::VFTA..r::VFTA_END => self.vfta[(at - r::VFTA) as usize / 4],
            at => PLAIN.iter().position(|p| p.offset == at).map_or(0, |n| self.plain[n]),
        }
    }

    fn write(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        now: VirtualNs,
        offset: u32,
        value: u32,
    ) {
        use registers as r;
        match r::canonical(offset) {
            r::TDT => {
                self.tx_ring.write(r::TDT - r::TDBAL, value);
                self.transmit(ram, outputs, now);
            }
            r::RDT => {
                self.rx_ring.write(r::RDT - r::RDBAL, value);
                self.deliver(ram, now);
                self.note_room(now);
            }
            r::RCTL => {
                self.rctl = value & rctl::STORED;
                self.deliver(ram, now);
                self.note_room(now);
            }
            r::TCTL => {
                self.tctl = value & tctl::STORED;
                self.transmit(ram, outputs, now);
            }
            at @ (r::RDBAL | r::RDBAH | r::RDLEN | r::RDH) => {
                self.rx_ring.write(at - r::RDBAL, value);
            }
            at @ (r::TDBAL | r::TDBAH | r::TDLEN | r::TDH) => {
                self.tx_ring.write(at - r::TDBAL, value);
            }
            at => self.write_settled(now, at, value),
        }
    }

    /// Writes a register that moves no data.
    fn write_settled(&mut self, now: VirtualNs, offset: u32, value: u32) {
        use registers as r;
        match offset {
            r::ICR => self.interrupt.write_icr(now, value),
            r::ICS => self.interrupt.set(now, value),
            r::IMS => self.interrupt.write_mask(now, value, true),
            r::IMC => self.interrupt.write_mask(now, value, false),
            r::ITR => self.interrupt.write_interval(now, value as u16),
            r::CTRL | 0x0004 => self.write_ctrl(now, value),
            r::EECD => self.eeprom.write_eecd(value),
            r::EERD => self.eeprom.write_eerd(value),
            r::MDIC => {
                if self.phy.write_mdic(now, value) {
                    self.interrupt.set(now, cause::MDAC);
                }
                self.update_link(now);
            }
            r::PBA => self.rx_kilobytes = (value & 0x7F).clamp(1, 63),
            r::RDTR => {
                self.receiver.packet_delay = value & 0xFFFF;
                // FPD: flush what is delayed (section 13.4.30).
                if value >> 31 != 0 && self.receiver.delay.deadline().is_some() {
                    self.receiver.delay = Delay::default();
                    self.interrupt.set(now, cause::RXT0);
                }
            }
            r::MTA..r::MTA_END => self.mta[(offset - r::MTA) as usize / 4] = value,
            r::RA..r::RA_END => {
                let index = (offset - r::RA) as usize / 4;
                self.ra[index] = if index & 1 == 0 { value } else { value & 0x8003_FFFF };
            }
            r::VFTA..r::VFTA_END => self.vfta[(offset - r::VFTA) as usize / 4] = value,
            at => {
                if let Some(n) = PLAIN.iter().position(|p| p.offset == at) {
                    self.plain[n] = value & PLAIN[n].mask;
                }
            }
        }
    }
}
