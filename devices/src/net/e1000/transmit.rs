//! Transmission: descriptors, checksum insertion and TCP segmentation.
//!
//! Contract: software developer's manual sections 3.3 to 3.5. One budget of descriptors and bytes
//! per call bounds the work; a descriptor may be left half-way through its data and is read anew
//! when the card goes on. Frames over [`FRAME_MAX`] are dropped.

use super::registers::{TADV, TIDV, TXDCTL, VET, cause, ctrl, tctl};
use super::statistics::Counter;
use super::{Delay, E1000, FRAME_MAX, checksum};
use crate::io::Output;
use crate::ram::Ram;
use crate::time::VirtualNs;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Descriptors handled in one go.
const BUDGET_DESCRIPTORS: u32 = 4096;
/// Bytes of frames sent in one go.
const BUDGET_BYTES: usize = 256 * 1024;
/// Nanoseconds of a byte on the wire.
const BYTE_NS: u64 = 8;
/// Shortest pause between two goes, in nanoseconds.
const PAUSE_NS: u64 = 1000;
/// Shortest frame on the wire, without FCS.
const FRAME_MIN: usize = 60;
/// Bytes of the frame check sequence.
const FCS: usize = 4;

/// Command byte of a descriptor (DCMD; legacy CMD).
mod command {
    pub const EOP: u8 = 1 << 0;
    /// Legacy: insert a checksum.
    pub const IC: u8 = 1 << 2;
    /// Extended: TCP segmentation.
    pub const TSE: u8 = 1 << 2;
    pub const RS: u8 = 1 << 3;
    pub const RPS: u8 = 1 << 4;
    pub const DEXT: u8 = 1 << 5;
    pub const VLE: u8 = 1 << 6;
    pub const IDE: u8 = 1 << 7;
}

/// TUCMD of a context descriptor.
mod tucmd {
    pub const TCP: u8 = 1 << 0;
    pub const IP: u8 = 1 << 1;
    pub const TSE: u8 = 1 << 2;
}

/// POPTS of a data descriptor.
mod popts {
    pub const IXSM: u8 = 1 << 0;
    pub const TXSM: u8 = 1 << 1;
}

const TCP_FIN_PSH: u8 = 0x09;

/// Where a checksum begins, goes, and ends (inclusive; 0: at the end of the packet).
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Offsets {
    start: u8,
    field: u8,
    end: u16,
}

/// A TCP/IP context (section 3.3.6).
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Context {
    ip: Offsets,
    transport: Offsets,
    tucmd: u8,
    header_len: u8,
    mss: u16,
}

/// The transmitting side.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Transmitter {
    /// For packets with checksum offload alone, and for segmented ones.
    contexts: [Context; 2],
    /// The packet, or the segment, being gathered.
    #[serde(with = "crate::fixed::bytes")]
    frame: Vec<u8>,
    /// Prototype header of a segmented packet.
    #[serde(with = "crate::fixed::bytes")]
    header: Vec<u8>,
    /// Inside a packet: between its first descriptor and its last.
    in_packet: bool,
    segmenting: bool,
    popts: u8,
    /// Legacy checksum insertion.
    legacy: Option<Offsets>,
    tag: Option<u16>,
    /// Too long: dropped at its end.
    oversize: bool,
    /// Segments sent of this packet, and their payload in bytes.
    segments: u16,
    sent: u32,
    /// Bytes of the descriptor at the head already taken.
    taken: u32,
    pub delay: Delay,
    /// When the card goes on after a full budget.
    pub resume_at: Option<VirtualNs>,
}

/// A descriptor that carries data.
struct Data {
    address: u64,
    len: u32,
    command: u8,
    /// Legacy: where IC puts the checksum.
    legacy: Option<Offsets>,
    popts: u8,
    special: u16,
}

/// One go: where frames leave, and what may still leave.
struct Go<'a> {
    ram: &'a mut Ram,
    outputs: &'a mut VecDeque<Output>,
    now: VirtualNs,
    bytes: usize,
}

impl E1000 {
    /// Sends what the ring holds, up to the budget.
    pub(super) fn transmit(
        &mut self,
        ram: &mut Ram,
        outputs: &mut VecDeque<Output>,
        now: VirtualNs,
    ) {
        let waits = self.transmitter.resume_at.is_some_and(|at| now < at);
        if self.tctl & tctl::EN == 0 || !self.master || waits || self.tx_ring.available() == 0 {
            return;
        }
        self.transmitter.resume_at = None;
        let mut go = Go { ram, outputs, now, bytes: 0 };
        let mut causes = 0;
        let mut descriptors = 0;
        while self.tx_ring.available() != 0 {
            if descriptors == BUDGET_DESCRIPTORS
                || go.bytes >= BUDGET_BYTES
                || !self.take_descriptor(&mut go, &mut causes)
            {
                let pause = (go.bytes as u64 * BYTE_NS).max(PAUSE_NS);
                self.transmitter.resume_at = Some(now.after(pause));
                break;
            }
            descriptors += 1;
        }
        if self.tx_ring.available() == 0 {
            causes |= cause::TXQE;
        }
        self.interrupt.set(now, causes);
    }

    /// Handles the descriptor at the head; false when the budget ran out inside it.
    fn take_descriptor(&mut self, go: &mut Go, causes: &mut u32) -> bool {
        let address = self.tx_ring.address();
        let mut bytes = [0; 16];
        go.ram.dma_read(address, &mut bytes);
        let low = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        let high = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
        let command = (high >> 24) as u8;
        let extended = command & command::DEXT != 0;
        if extended && high >> 20 & 0xF == 0 {
            self.transmitter.load_context(low, high);
        } else {
            let data = if extended { extended_data(low, high) } else { legacy_data(low, high) };
            if !self.take_data(go, &data) {
                return false;
            }
        }
        self.tx_ring.advance();
        if command & (command::RS | command::RPS) != 0 {
            // Status bit DD.
            go.ram.dma_write(address.wrapping_add(12), &[bytes[12] | 1]);
            if command & command::IDE != 0 && self.plain[TIDV] != 0 {
                self.transmitter.delay.start(go.now, self.plain[TIDV], self.plain[TADV]);
            } else {
                self.transmitter.delay = Delay::default();
                *causes |= cause::TXDW;
            }
        }
        let low_threshold = (self.plain[TXDCTL] >> 25) * 8;
        if low_threshold != 0 && self.tx_ring.available() == low_threshold {
            *causes |= cause::TXD_LOW;
        }
        true
    }

    /// Gathers a data descriptor; false when the budget ran out before its end.
    fn take_data(&mut self, go: &mut Go, data: &Data) -> bool {
        self.transmitter.begin(data);
        // Legacy descriptors carry the tag in the last one, extended ones in each.
        let extended = data.command & command::DEXT != 0;
        let carries_tag = extended || data.command & command::EOP != 0;
        if self.ctrl & ctrl::VME != 0 && data.command & command::VLE != 0 && carries_tag {
            self.transmitter.tag = Some(data.special);
        }
        if self.transmitter.segmenting {
            if !self.segment_data(go, data) {
                return false;
            }
        } else {
            self.transmitter.gather(go.ram, data.address, data.len as usize);
        }
        self.transmitter.taken = 0;
        if data.command & command::EOP != 0 {
            self.send_gathered(go, true);
            self.transmitter.end();
        }
        true
    }

    /// Gathers data of a segmented packet and sends the segments that it fills; false when the
    /// budget ran out. A full segment leaves when more data follows it, so that the last one is
    /// known to be the last.
    fn segment_data(&mut self, go: &mut Go, data: &Data) -> bool {
        while self.transmitter.taken < data.len {
            let context = self.transmitter.contexts[1];
            let header_len = usize::from(context.header_len);
            let transmitter = &mut self.transmitter;
            let gathering_header = transmitter.header.len() < header_len;
            let target = match (gathering_header, context.mss) {
                (true, _) => header_len,
                (false, 0) => FRAME_MAX,
                (false, mss) => header_len + usize::from(mss),
            };
            let room = target.saturating_sub(transmitter.frame.len());
            if room == 0 {
                if go.bytes >= BUDGET_BYTES {
                    return false;
                }
                self.send_gathered(go, false);
                continue;
            }
            let len = room.min((data.len - transmitter.taken) as usize);
            let address = data.address.wrapping_add(u64::from(transmitter.taken));
            transmitter.gather(go.ram, address, len);
            transmitter.taken += len as u32;
            if gathering_header && transmitter.frame.len() >= header_len {
                transmitter.header.clone_from(&transmitter.frame);
            }
        }
        true
    }

    /// Finishes the frame that was gathered and sends it.
    fn send_gathered(&mut self, go: &mut Go, last: bool) {
        let transmitter = &mut self.transmitter;
        let mut frame = core::mem::take(&mut transmitter.frame);
        let oversize = transmitter.oversize;
        if transmitter.segmenting {
            let context = transmitter.contexts[1];
            let payload = frame.len().saturating_sub(transmitter.header.len());
            transmitter.patch_segment(&mut frame, &context, last);
            transmitter.segments = transmitter.segments.wrapping_add(1);
            transmitter.sent = transmitter.sent.wrapping_add(payload as u32);
            if !last {
                transmitter.frame.reserve(frame.len());
                transmitter.frame.extend_from_slice(&transmitter.header);
            } else if transmitter.segments > 1 {
                self.statistics.count(Counter::Tsctc);
            }
        }
        if frame.is_empty() || oversize {
            go.bytes += FRAME_MIN;
            return;
        }
        self.transmitter.insert_checksums(&mut frame);
        if let Some(tag) = self.transmitter.tag
            && frame.len() >= 12
        {
            let kind = (self.plain[VET] as u16).to_be_bytes();
            let tag = tag.to_be_bytes();
            frame.splice(12..12, [kind[0], kind[1], tag[0], tag[1]]);
        }
        self.send(go, frame);
    }

    fn send(&mut self, go: &mut Go, mut frame: Vec<u8>) {
        if frame.len() < FRAME_MIN && self.tctl & tctl::PSP != 0 {
            frame.resize(FRAME_MIN, 0);
        }
        let wire_len = frame.len() + FCS;
        go.bytes += wire_len.max(FRAME_MIN);
        self.statistics.count(Counter::Tpt);
        self.statistics.add(Counter::Tot, wire_len);
        self.statistics.count(Counter::Gptc);
        self.statistics.add(Counter::Gotc, wire_len);
        self.statistics.count_size(Counter::Ptc64, wire_len);
        if frame.starts_with(&[0xFF; 6]) {
            self.statistics.count(Counter::Bptc);
        } else if frame[0] & 1 != 0 {
            self.statistics.count(Counter::Mptc);
        }
        if self.looped() {
            self.receive(go.ram, go.now, frame);
        } else if self.link_up() {
            go.outputs.push_back(Output::NetTx { nic: self.index, frame });
        }
    }
}

impl Transmitter {
    fn load_context(&mut self, low: u64, high: u64) {
        let offsets = |word: u64| Offsets {
            start: word as u8,
            field: (word >> 8) as u8,
            end: (word >> 16) as u16,
        };
        let context = Context {
            ip: offsets(low),
            transport: offsets(low >> 32),
            tucmd: (high >> 24) as u8,
            header_len: (high >> 40) as u8,
            mss: (high >> 48) as u16,
        };
        self.contexts[usize::from(context.tucmd & tucmd::TSE != 0)] = context;
    }

    /// At the first descriptor of a packet its options are fixed.
    fn begin(&mut self, data: &Data) {
        if !self.in_packet {
            self.in_packet = true;
            self.popts = data.popts;
            self.segmenting = data.command & command::DEXT != 0 && data.command & command::TSE != 0;
        }
        self.legacy = data.legacy;
    }

    /// After the last descriptor of a packet.
    fn end(&mut self) {
        self.in_packet = false;
        self.segmenting = false;
        self.frame = Vec::new();
        self.header.clear();
        self.legacy = None;
        self.tag = None;
        self.oversize = false;
        self.segments = 0;
        self.sent = 0;
    }

    /// Appends `len` bytes of memory to the frame.
    fn gather(&mut self, ram: &Ram, address: u64, len: usize) {
        let at = self.frame.len();
        if at + len > FRAME_MAX {
            self.oversize = true;
            return;
        }
        self.frame.resize(at + len, 0);
        ram.dma_read(address, &mut self.frame[at..]);
    }

    /// Brings the prototype header up to date for this segment (section 3.5.6).
    fn patch_segment(&self, frame: &mut [u8], context: &Context, last: bool) {
        let (ip, transport) = (usize::from(context.ip.start), usize::from(context.transport.start));
        let len = frame.len();
        if context.tucmd & tucmd::IP != 0 {
            set(frame, ip + 2, len.saturating_sub(ip) as u16);
            update(frame, ip + 4, |id| id.wrapping_add(self.segments));
        } else {
            set(frame, ip + 4, len.saturating_sub(ip + 40) as u16);
        }
        if context.tucmd & tucmd::TCP != 0 {
            if let Some(bytes) = frame.get_mut(transport + 4..transport + 8) {
                let first = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
                bytes.copy_from_slice(&first.wrapping_add(self.sent).to_be_bytes());
            }
            if let (Some(flags), false) = (frame.get_mut(transport + 13), last) {
                *flags &= !TCP_FIN_PSH;
            }
        } else {
            set(frame, transport + 4, len.saturating_sub(transport) as u16);
        }
        if self.popts & popts::TXSM != 0 {
            // Software has put the pseudo-header without its length here.
            let length = len.saturating_sub(transport) as u64;
            let field = usize::from(context.transport.field);
            update(frame, field, |sum| checksum::fold(u64::from(sum) + length));
        }
    }

    /// Inserts the checksums that the packet's descriptors ask for.
    fn insert_checksums(&self, frame: &mut [u8]) {
        if let Some(offsets) = self.legacy {
            insert_checksum(frame, offsets, false);
        }
        let context = &self.contexts[usize::from(self.segmenting)];
        if self.popts & popts::TXSM != 0 {
            let udp = context.tucmd & tucmd::TCP == 0;
            insert_checksum(frame, context.transport, udp);
        }
        if self.popts & popts::IXSM != 0 {
            insert_checksum(frame, context.ip, false);
        }
    }
}

fn set(frame: &mut [u8], at: usize, value: u16) {
    update(frame, at, |_| value);
}

/// Changes the big-endian word at `at`, if the frame reaches that far.
fn update(frame: &mut [u8], at: usize, change: impl FnOnce(u16) -> u16) {
    if let Some(bytes) = frame.get_mut(at..at + 2) {
        let value = change(u16::from_be_bytes([bytes[0], bytes[1]]));
        bytes.copy_from_slice(&value.to_be_bytes());
    }
}

/// Puts the complement of the sum of the bytes at `offsets` into its field; a UDP checksum of 0
/// goes as FFFFh.
fn insert_checksum(frame: &mut [u8], offsets: Offsets, udp: bool) {
    let end = match usize::from(offsets.end) {
        0 => frame.len(),
        end => (end + 1).min(frame.len()),
    };
    let Some(covered) = frame.get(usize::from(offsets.start)..end) else { return };
    let checksum = !checksum::sum(covered);
    let checksum = if udp && checksum == 0 { 0xFFFF } else { checksum };
    set(frame, usize::from(offsets.field), checksum);
}

fn legacy_data(low: u64, high: u64) -> Data {
    let command = (high >> 24) as u8;
    let insert = command & command::IC != 0 && command & command::EOP != 0;
    Data {
        address: low,
        len: (high & 0xFFFF) as u32,
        command,
        legacy: insert.then_some(Offsets {
            start: (high >> 40) as u8,
            field: (high >> 16) as u8,
            end: 0,
        }),
        popts: 0,
        special: (high >> 48) as u16,
    }
}

fn extended_data(low: u64, high: u64) -> Data {
    Data {
        address: low,
        len: (high & 0xF_FFFF) as u32,
        command: (high >> 24) as u8,
        legacy: None,
        popts: (high >> 40) as u8,
        special: (high >> 48) as u16,
    }
}
