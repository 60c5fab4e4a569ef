//! Reception: the packet buffer, checksums, and the descriptor ring.
//!
//! Contract: software developer's manual sections 3.2.1 to 3.2.9. Accepted frames wait in the
//! packet buffer (as large as PBA says) until descriptors take them; a frame that does not fit is
//! lost and counted (MPC, RXO). The ring is used only while reception and bus mastering are on.

use super::filter::Passed;
use super::registers::{RADV, RSRPD, RXCSUM, cause, ctrl, rctl};
use super::statistics::Counter;
use super::{Delay, E1000, FRAME_MAX, checksum};
use crate::ram::Ram;
use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Bytes of the frame check sequence.
const FCS: usize = 4;
/// Shortest frame on the wire, without FCS; shorter ones were padded by their sender.
const FRAME_MIN: usize = 60;
/// Longest frame on the wire, with FCS and VLAN tag, without RCTL.LPE.
const STANDARD_MAX: usize = 1522;

/// How long the card holds its link partner off by pause frames: 65,535 quanta of 512 bits at
/// 1 Gb/s (section 3.7.3).
const PAUSE_NS: u64 = 33_553_920;

/// Status byte of a descriptor.
mod rx_status {
    pub const DD: u8 = 1 << 0;
    pub const EOP: u8 = 1 << 1;
    pub const IXSM: u8 = 1 << 2;
    pub const VP: u8 = 1 << 3;
    pub const TCPCS: u8 = 1 << 5;
    pub const IPCS: u8 = 1 << 6;
    pub const PIF: u8 = 1 << 7;
}

/// Error byte of a descriptor.
mod rx_error {
    pub const TCPE: u8 = 1 << 5;
    pub const IPE: u8 = 1 << 6;
}

/// RXCSUM bits (section 13.4.40).
mod rxcsum {
    pub const PCSS: u32 = 0xFF;
    pub const IPOFL: u32 = 1 << 8;
    pub const TUOFL: u32 = 1 << 9;
}

/// A frame in the packet buffer, as it goes to memory.
#[derive(Serialize, Deserialize)]
struct Packet {
    #[serde(with = "crate::fixed::bytes")]
    bytes: Vec<u8>,
    status: u8,
    errors: u8,
    checksum: u16,
    special: u16,
}

/// The receiving side.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Receiver {
    /// RDTR.
    pub packet_delay: u32,
    pub delay: Delay,
    packets: VecDeque<Packet>,
    /// Bytes in `packets`.
    buffered: u32,
    /// Bytes of the first packet already in memory.
    written: u32,
    /// Since when the packet buffer has had no room for another frame of standard size.
    full_since: Option<VirtualNs>,
}

impl E1000 {
    /// A frame (without FCS) arrives from the wire.
    pub fn receive(&mut self, ram: &mut Ram, now: VirtualNs, mut frame: Vec<u8>) {
        if self.rctl & rctl::EN == 0 || !self.link_up() && !self.looped() {
            return;
        }
        if frame.len() < FRAME_MIN {
            frame.resize(FRAME_MIN, 0);
        }
        let wire_len = frame.len() + FCS;
        self.statistics.count(Counter::Tpr);
        self.statistics.add(Counter::Tor, wire_len);
        let long = wire_len > STANDARD_MAX && self.rctl & (rctl::LPE | rctl::SBP) == 0;
        if long || frame.len() > FRAME_MAX {
            return self.statistics.count(Counter::Roc);
        }
        let pause = self.is_pause(&frame);
        if pause {
            let on = frame[16..18] == [0, 0];
            self.statistics.count(if on { Counter::Xonrxc } else { Counter::Xoffrxc });
        }
        let passed = match self.filter(&frame) {
            _ if pause && self.rctl & rctl::PMCF != 0 => Passed::Exactly,
            _ if pause && self.rctl & rctl::DPF != 0 => return,
            Some(passed) => passed,
            None => return,
        };
        self.count_received(&frame, wire_len);
        if self.receiver.buffered as usize + wire_len > self.rx_kilobytes as usize * 1024 {
            self.statistics.count(Counter::Mpc);
            return self.interrupt.set(now, cause::RXO);
        }
        if self.rx_ring.available() == 0 {
            self.statistics.count(Counter::Rnbc);
        }
        let packet = self.prepare(frame, passed);
        self.receiver.buffered += packet.bytes.len() as u32;
        self.receiver.packets.push_back(packet);
        self.deliver(ram, now);
        self.note_room(now);
    }

    fn count_received(&mut self, frame: &[u8], wire_len: usize) {
        self.statistics.count(Counter::Gprc);
        self.statistics.add(Counter::Gorc, wire_len);
        self.statistics.count_size(Counter::Prc64, wire_len);
        if frame[..6] == [0xFF; 6] {
            self.statistics.count(Counter::Bprc);
        } else if frame[0] & 1 != 0 {
            self.statistics.count(Counter::Mprc);
        }
    }

    /// Checksums, VLAN tag and FCS: the frame as it goes to memory.
    fn prepare(&self, mut frame: Vec<u8>, passed: Passed) -> Packet {
        let (mut status, errors) = self.check(&frame);
        if passed == Passed::Inexactly {
            status |= rx_status::PIF;
        }
        let start = (self.plain[RXCSUM] & rxcsum::PCSS) as usize;
        let checksum = !checksum::sum(frame.get(start..).unwrap_or_default());
        let fcs = (self.rctl & rctl::SECRC == 0).then(|| crc32fast::hash(&frame));
        let mut special = 0;
        if self.ctrl & ctrl::VME != 0
            && let Some(tag) = self.vlan_tag(&frame)
        {
            special = tag;
            status |= rx_status::VP;
            frame.drain(12..16);
        }
        if let Some(fcs) = fcs {
            frame.extend_from_slice(&fcs.to_le_bytes());
        }
        Packet { bytes: frame, status, errors, checksum, special }
    }

    /// Checksum offload (section 3.2.9): status and error bits.
    fn check(&self, frame: &[u8]) -> (u8, u8) {
        let control = self.plain[RXCSUM];
        if control & (rxcsum::IPOFL | rxcsum::TUOFL) == 0 {
            return (rx_status::IXSM, 0);
        }
        let Some(packet) = network_layer(frame) else { return (rx_status::IXSM, 0) };
        let (mut status, mut errors) = (0, 0);
        if control & rxcsum::IPOFL != 0
            && let Some(header) = packet.ipv4_header
        {
            status |= rx_status::IPCS;
            if checksum::sum(header) != 0xFFFF {
                errors |= rx_error::IPE;
            }
        }
        if control & rxcsum::TUOFL != 0
            && let Some(good) = packet.transport_good()
        {
            status |= rx_status::TCPCS;
            if !good {
                errors |= rx_error::TCPE;
            }
        }
        if status == 0 {
            status = rx_status::IXSM;
        }
        (status, errors)
    }

    /// Bytes of a receive buffer (section 13.4.22).
    fn buffer_size(&self) -> usize {
        let exponent = self.rctl >> rctl::BSIZE_SHIFT & 3;
        if self.rctl & rctl::BSEX != 0 && exponent != 0 {
            32_768 >> exponent
        } else {
            2048 >> exponent
        }
    }

    /// Moves packets from the packet buffer to memory, as far as there are descriptors.
    pub(super) fn deliver(&mut self, ram: &mut Ram, now: VirtualNs) {
        if self.rctl & rctl::EN == 0 || !self.master {
            return;
        }
        while let Some(packet) = self.receiver.packets.front()
            && self.rx_ring.available() != 0
        {
            let at = (self.receiver.written as usize).min(packet.bytes.len());
            let len = (packet.bytes.len() - at).min(self.buffer_size());
            let last = at + len == packet.bytes.len();
            let address = self.rx_ring.address();
            let mut descriptor = [0; 16];
            ram.dma_read(address, &mut descriptor[..8]);
            let buffer = u64::from_le_bytes(descriptor[..8].try_into().expect("eight bytes"));
            ram.dma_write(buffer, &packet.bytes[at..at + len]);
            descriptor[8..10].copy_from_slice(&(len as u16).to_le_bytes());
            descriptor[10..12].copy_from_slice(&packet.checksum.to_le_bytes());
            descriptor[12] = packet.status | rx_status::DD;
            if last {
                descriptor[12] |= rx_status::EOP;
                descriptor[13] = packet.errors;
                descriptor[14..16].copy_from_slice(&packet.special.to_le_bytes());
            }
            ram.dma_write(address.wrapping_add(8), &descriptor[8..]);
            self.rx_ring.advance();
            self.receiver.written = (at + len) as u32;
            self.after_descriptor(now);
            if last {
                self.after_packet(now);
            }
        }
    }

    /// Whether a frame that arrives at `now` finds room, or the link partner has waited long
    /// enough: the effect of flow control, for a partner that can wait. [`E1000::receive`] takes
    /// frames at any time.
    pub fn has_room(&self, now: VirtualNs) -> bool {
        self.receiver.full_since.is_none_or(|since| now.0.saturating_sub(since.0) >= PAUSE_NS)
    }

    pub(super) fn note_room(&mut self, now: VirtualNs) {
        let capacity = self.rx_kilobytes as usize * 1024;
        if self.receiver.buffered as usize + STANDARD_MAX <= capacity {
            self.receiver.full_since = None;
        } else if self.receiver.full_since.is_none() {
            self.receiver.full_since = Some(now);
        }
    }

    /// RXDMT0: the ring has fallen to its threshold.
    fn after_descriptor(&mut self, now: VirtualNs) {
        let shift = (self.rctl >> rctl::RDMTS_SHIFT & 3) + 1;
        let threshold = self.rx_ring.size() >> shift.min(3);
        if self.rx_ring.available() == threshold {
            self.interrupt.set(now, cause::RXDMT0);
        }
    }

    fn after_packet(&mut self, now: VirtualNs) {
        let Some(packet) = self.receiver.packets.pop_front() else { return };
        let len = packet.bytes.len() as u32;
        self.receiver.buffered = self.receiver.buffered.saturating_sub(len);
        self.receiver.written = 0;
        if len <= self.plain[RSRPD] {
            self.interrupt.set(now, cause::SRPD);
        }
        if self.receiver.packet_delay == 0 {
            self.receiver.delay = Delay::default();
            self.interrupt.set(now, cause::RXT0);
        } else {
            let absolute = self.plain[RADV];
            self.receiver.delay.start(now, self.receiver.packet_delay, absolute);
        }
    }

    /// Whether transmitted frames come back instead of leaving.
    pub(super) fn looped(&self) -> bool {
        self.rctl & rctl::LBM != 0 || self.phy.loops_back()
    }
}

/// What checksum offload looks at.
struct NetworkPacket<'a> {
    ipv4_header: Option<&'a [u8]>,
    addresses: &'a [u8],
    protocol: u8,
    fragment: bool,
    payload: &'a [u8],
}

/// Finds IPv4, or IPv6 without extension headers, behind Ethernet II with at most one VLAN tag.
fn network_layer(frame: &[u8]) -> Option<NetworkPacket<'_>> {
    let kind = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let start = if kind(12)? == 0x8100 { 18 } else { 14 };
    let packet = frame.get(start..)?;
    match kind(start - 2)? {
        0x0800 => {
            let first = *packet.first()?;
            let header_len = usize::from(first & 0x0F) * 4;
            if first >> 4 != 4 || header_len < 20 {
                return None;
            }
            let header = packet.get(..header_len)?;
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0;
            // A length that does not fit leaves the header to be checked alone.
            let payload = packet.get(header_len..total);
            Some(NetworkPacket {
                ipv4_header: Some(header),
                addresses: &header[12..20],
                protocol: header[9],
                fragment: fragment || payload.is_none(),
                payload: payload.unwrap_or_default(),
            })
        }
        0x86DD => {
            let header = packet.get(..40)?;
            let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            Some(NetworkPacket {
                ipv4_header: None,
                addresses: &header[8..40],
                protocol: header[6],
                fragment: false,
                payload: packet.get(40..40 + len)?,
            })
        }
        _ => None,
    }
}

impl NetworkPacket<'_> {
    /// Whether the TCP or UDP checksum is right; `None` where there is none to check.
    fn transport_good(&self) -> Option<bool> {
        let (header_len, checksum_at) = match self.protocol {
            6 => (20, 16),
            17 => (8, 6),
            _ => return None,
        };
        if self.fragment || self.payload.len() < header_len {
            return None;
        }
        let stored = &self.payload[checksum_at..checksum_at + 2];
        if self.protocol == 17 && stored == [0, 0] {
            return None;
        }
        let total = checksum::partial(self.addresses)
            + u64::from(self.protocol)
            + self.payload.len() as u64
            + checksum::partial(self.payload);
        Some(checksum::fold(total) == 0xFFFF)
    }
}
