//! Tests of the card through its registers and rings.

use super::registers as r;
use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const RX_BUFFERS: u64 = 0x10_0000;
const TX_DATA: u64 = 0x4_0000;
const RX_SIZE: u32 = 16;
const TX_SIZE: u32 = 64;

const EOP: u8 = 0x01;
const IFCS: u8 = 0x02;
const RS: u8 = 0x08;
const VLE: u8 = 0x40;
const IDE: u8 = 0x80;

struct Rig {
    card: E1000,
    ram: Ram,
    outputs: VecDeque<Output>,
    now: VirtualNs,
}

impl Rig {
    fn bare() -> Self {
        let mut card = E1000::new(0, MAC);
        let mut ram = Ram::new(4 << 20, &[0; 1 << 16]);
        let mut outputs = VecDeque::new();
        card.set_master(&mut ram, &mut outputs, VirtualNs(0), true);
        Self { card, ram, outputs, now: VirtualNs(1_000_000) }
    }

    /// With both rings, 2-KiB buffers, and CRC stripped.
    fn new() -> Self {
        let mut rig = Self::bare();
        for n in 0..RX_SIZE {
            let at = RX_RING + 16 * u64::from(n);
            rig.ram.dma_write(at, &(RX_BUFFERS + 0x4000 * u64::from(n)).to_le_bytes());
        }
        for (register, value) in [
            (r::RDBAL, RX_RING as u32),
            (r::RDLEN, RX_SIZE * 16),
            (r::RDT, RX_SIZE - 1),
            (r::TDBAL, TX_RING as u32),
            (r::TDLEN, TX_SIZE * 16),
            (r::RCTL, rctl::EN | rctl::BAM | rctl::SECRC),
            (r::TCTL, tctl::EN | tctl::PSP),
            (r::IMS, cause::ALL),
        ] {
            rig.write(register, value);
        }
        rig
    }

    fn write(&mut self, register: u32, value: u32) {
        let (ram, outputs) = (&mut self.ram, &mut self.outputs);
        self.card.mmio_write(ram, outputs, self.now, (register, 4), value);
    }

    fn read(&mut self, register: u32) -> u32 {
        self.card.mmio_read(self.now, register, 4)
    }

    fn receive(&mut self, frame: &[u8]) {
        self.card.receive(&mut self.ram, self.now, frame.to_vec());
    }

    fn memory(&self, pa: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.dma_read(pa, &mut bytes);
        bytes
    }

    /// Receive descriptor `n`: its data, status, errors and special field.
    fn received(&self, n: u32) -> (Vec<u8>, u8, u8, u16) {
        let d = self.memory(RX_RING + 16 * u64::from(n), 16);
        let buffer = u64::from_le_bytes(d[..8].try_into().expect("eight bytes"));
        let len = u16::from_le_bytes([d[8], d[9]]);
        let special = u16::from_le_bytes([d[14], d[15]]);
        (self.memory(buffer, usize::from(len)), d[12], d[13], special)
    }

    fn descriptor(&mut self, n: u32, low: u64, high: u64) {
        let at = TX_RING + 16 * u64::from(n % TX_SIZE);
        self.ram.dma_write(at, &low.to_le_bytes());
        self.ram.dma_write(at + 8, &high.to_le_bytes());
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let outputs = core::mem::take(&mut self.outputs);
        outputs
            .into_iter()
            .map(|output| match output {
                Output::NetTx { nic: 0, frame } => frame,
                other => panic!("unexpected {other:?}"),
            })
            .collect()
    }

    fn wait(&mut self) {
        self.now = self.card.deadline().expect("something is due");
        self.card.advance(&mut self.ram, &mut self.outputs, self.now);
    }
}

fn legacy(len: usize, command: u8, css: u8, cso: u8, special: u16) -> u64 {
    len as u64
        | u64::from(cso) << 16
        | u64::from(command) << 24
        | u64::from(css) << 40
        | u64::from(special) << 48
}

fn data(len: usize, command: u8, popts: u8) -> u64 {
    len as u64 | 1 << 20 | u64::from(command | 0x20) << 24 | u64::from(popts) << 40
}

/// A context: IP at 14, and the transport header behind it.
fn context(
    tucmd: u8,
    ip_len: u8,
    transport: u8,
    field: u8,
    header: u8,
    mss: u16,
    len: u32,
) -> [u64; 2] {
    let ip_end = u64::from(14 + ip_len - 1);
    let low = 14 | 24 << 8 | ip_end << 16 | u64::from(transport) << 32 | u64::from(field) << 40;
    let high = u64::from(len)
        | u64::from(tucmd | 0x20) << 24
        | u64::from(header) << 40
        | u64::from(mss) << 48;
    [low, high]
}

fn frame_to(destination: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|n| (n * 3) as u8).collect();
    frame[..6].copy_from_slice(&destination);
    frame[6..12].copy_from_slice(&OTHER);
    frame[12..14].copy_from_slice(&[0x88, 0xB5]);
    frame
}

/// TCP over IPv4 with correct checksums.
fn tcp4(payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_to(MAC, 54);
    frame.extend_from_slice(payload);
    let len = frame.len();
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame[34..54].copy_from_slice(&[
        0x30, 0x39, 0, 80, 0, 0, 0x10, 0, 0, 0, 0, 1, 0x50, 0x19, 0x20, 0, 0, 0, 0, 0,
    ]);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    let ip = !checksum::sum(&frame[14..34]);
    frame[24..26].copy_from_slice(&ip.to_be_bytes());
    let pseudo = pseudo4(&frame) + (len - 34) as u64;
    let tcp = !checksum::fold(pseudo + checksum::partial(&frame[34..]));
    frame[50..52].copy_from_slice(&tcp.to_be_bytes());
    frame
}

/// Sum of the pseudo-header without the length.
fn pseudo4(frame: &[u8]) -> u64 {
    checksum::partial(&frame[26..34]) + u64::from(frame[23])
}

fn good_tcp4(frame: &[u8]) -> bool {
    let total = pseudo4(frame) + (frame.len() - 34) as u64 + checksum::partial(&frame[34..]);
    checksum::sum(&frame[14..34]) == 0xFFFF && checksum::fold(total) == 0xFFFF
}

#[test]
fn after_power_on() {
    let mut rig = Rig::bare();
    assert_eq!(rig.read(r::STATUS) & (status::LU | status::FD | 0xC0), 0x83);
    assert_eq!(rig.read(r::RA), 0x1200_5452);
    assert_eq!(rig.read(r::RA + 4), 0x8000_5634);
    assert_eq!(rig.read(r::PBA), 0x0010_0030);
    assert_eq!((rig.read(r::ICR), rig.card.interrupt(), rig.card.deadline()), (0, false, None));
    assert_eq!(rig.card.mmio_read(rig.now, r::STATUS + 1, 1), 0x02);
}

#[test]
fn registers_keep_their_bits() {
    let mut rig = Rig::bare();
    for (register, written, kept) in [
        (0x0028, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (0x002C, 0xFFFF_FFFF, 0x0000_FFFF),
        (r::RDTR, 0x7FFF_FFFF, 0x0000_FFFF),
        (r::RDLEN, 0xFFFF_FFFF, 0x000F_FF80),
        (r::RDBAL, 0xFFFF_FFFF, 0xFFFF_FFF0),
        (r::TDBAH, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (0x2168, 0xFFFF_FFFF, 0x0000_FFF8),
        (0x0410, 0xFFFF_FFFF, 0x3FFF_FFFF),
        (0x0178, 0xFFFF_FFFF, 0xC000_FFFF),
        (r::RCTL, 0x003F_FFFB, 0x001F_B3FA),
        (0x547C, 0xFFFF_FFFF, 0x8003_FFFF),
        (0x53FC, 0xDEAD_BEEF, 0xDEAD_BEEF),
    ] {
        rig.write(register, written);
        assert_eq!(rig.read(register), kept, "{register:x}");
    }
    // The places of the 82542.
    rig.write(0x0040, 0x1234_5678);
    assert_eq!(rig.read(r::RA), 0x1234_5678);
    rig.write(0x0438, 0);
    assert_eq!(rig.read(0x0420), 0);
    // Narrow writes are not defined.
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.card.mmio_write(ram, outputs, rig.now, (r::RA, 2), 0);
    assert_eq!(rig.read(r::RA), 0x1234_5678);
}

#[test]
fn window_of_io_ports() {
    let mut rig = Rig::bare();
    let mut out = |offset, value| {
        let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
        rig.card.io_write(ram, outputs, rig.now, (offset, 4), value);
    };
    out(0, r::RA);
    out(4, 0xCAFE_F00D);
    assert_eq!(rig.card.io_read(rig.now, 4, 4), 0xCAFE_F00D);
    assert_eq!(rig.read(r::RA), 0xCAFE_F00D);
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.card.io_write(ram, outputs, rig.now, (0, 4), 0x2_0000);
    assert_eq!(rig.card.io_read(rig.now, 4, 4), 0);
}

#[test]
fn reset_keeps_phy_and_eeprom() {
    let mut rig = Rig::new();
    rig.write(r::RA, 0);
    rig.write(r::CTRL, ctrl::RST);
    assert_eq!(rig.read(r::CTRL) & ctrl::RST, 0);
    assert_eq!(rig.read(r::RA), 0x1200_5452, "reloaded");
    assert_eq!((rig.read(r::IMS), rig.read(r::RCTL), rig.read(r::TDLEN)), (0, 0, 0));
    assert_eq!(rig.read(r::STATUS) & status::LU, status::LU);
}

#[test]
fn link_goes_and_comes_with_interrupts() {
    let mut rig = Rig::new();
    rig.write(r::MDIC, 1 << 26 | 1 << 21 | 0x9140);
    assert_eq!(rig.read(r::STATUS) & status::LU, 0);
    assert_eq!(rig.read(r::ICR), cause::LSC);
    rig.receive(&frame_to(MAC, 60));
    assert_eq!(rig.read(r::RDH), 0, "no link, no frames");
    rig.wait();
    assert_eq!((rig.read(r::ICR), rig.read(r::STATUS) & status::LU), (cause::LSC, status::LU));
    rig.write(r::CTRL, 0);
    assert_eq!(rig.read(r::ICR), cause::LSC, "SLU");
}

#[test]
fn a_frame_comes_in() {
    let mut rig = Rig::new();
    let frame = frame_to(MAC, 100);
    rig.receive(&frame);
    let (data, status, errors, _) = rig.received(0);
    assert_eq!((data, status & 0x83, errors), (frame, 0x03, 0));
    assert_eq!(rig.read(r::RDH), 1);
    assert!(rig.card.interrupt());
    assert_eq!(rig.read(r::ICR), cause::RXT0);
    assert!(!rig.card.interrupt());
    rig.receive(&[0xFF; 20]);
    let (data, ..) = rig.received(1);
    assert_eq!(data.len(), 60, "padded as its sender did");
    for (register, value) in [
        (0x4074, 2),
        (0x4078, 1),
        (0x4088, 168),
        (0x408C, 0),
        (0x405C, 1),
        (0x4060, 1),
        (0x40D0, 2),
    ] {
        assert_eq!(rig.read(register), value, "{register:x}");
        assert_eq!(rig.read(register), if register == 0x4088 { 168 } else { 0 });
    }
}

#[test]
fn check_sequence_is_appended_unless_stripped() {
    let mut rig = Rig::new();
    rig.write(r::RCTL, rctl::EN);
    // The CRC-32 of this frame by the reflected polynomial EDB88320h.
    let frame = frame_to(MAC, 60);
    let mut crc = u32::MAX;
    for byte in &frame {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xEDB8_8320 } else { 0 };
        }
    }
    rig.receive(&frame);
    let (data, ..) = rig.received(0);
    assert_eq!(data[..60], frame);
    assert_eq!(data[60..], (!crc).to_le_bytes());
}

#[test]
fn buffers_of_every_size() {
    for (bits, size) in [
        (0u32, 2048usize),
        (1 << 16, 1024),
        (2 << 16, 512),
        (3 << 16, 256),
        (rctl::BSEX | 1 << 16, 16_384),
        (rctl::BSEX | 2 << 16, 8192),
        (rctl::BSEX | 3 << 16, 4096),
    ] {
        let mut rig = Rig::new();
        rig.write(r::RCTL, rctl::EN | rctl::SECRC | rctl::LPE | bits);
        let frame = frame_to(MAC, 2500);
        rig.receive(&frame);
        let count = frame.len().div_ceil(size) as u32;
        assert_eq!(rig.read(r::RDH), count, "{size}");
        let mut gathered = Vec::new();
        for n in 0..count {
            let (data, status, ..) = rig.received(n);
            assert_eq!(status & 3, if n == count - 1 { 3 } else { 1 });
            gathered.extend(data);
        }
        assert_eq!(gathered, frame, "{size}");
    }
}

#[test]
fn long_frames_need_permission() {
    let mut rig = Rig::new();
    for (len, passes) in [(1518, true), (1519, false)] {
        rig.receive(&frame_to(MAC, len));
        assert_eq!(rig.read(0x40AC), u32::from(!passes), "{len}");
    }
    assert_eq!(rig.read(r::RDH), 1);
}

#[test]
fn addresses_are_filtered() {
    let multicast = [0x01, 0x00, 0x5E, 0x00, 0x00, 0x01];
    let hash = |offset: u32| {
        let bits = u32::from(u16::from_le_bytes([multicast[4], multicast[5]]));
        bits >> [4, 3, 2, 0][offset as usize] & 0xFFF
    };
    let cases: &[(u32, Option<u32>, [u8; 6], bool)] = &[
        (0, None, MAC, true),
        (0, None, OTHER, false),
        (rctl::UPE, None, OTHER, true),
        (rctl::MPE, None, OTHER, false),
        (0, None, multicast, false),
        (rctl::UPE, None, multicast, false),
        (rctl::MPE, None, multicast, true),
        (0, Some(0), multicast, true),
        (1 << 12, Some(1), multicast, true),
        (2 << 12, Some(2), multicast, true),
        (3 << 12, Some(3), multicast, true),
        (3 << 12, Some(0), multicast, false),
        (0, None, [0xFF; 6], false),
        (rctl::BAM, None, [0xFF; 6], true),
    ];
    for &(bits, table, destination, passes) in cases {
        let mut rig = Rig::new();
        rig.write(r::RCTL, rctl::EN | bits);
        if let Some(offset) = table {
            let hash = hash(offset);
            rig.write(r::MTA + 4 * (hash >> 5), 1 << (hash & 31));
        }
        rig.receive(&frame_to(destination, 60));
        assert_eq!(rig.read(r::RDH) == 1, passes, "{bits:x} {table:?} {destination:x?}");
        if passes {
            assert_eq!(rig.received(0).1 & 0x80 != 0, table.is_some(), "PIF");
        }
    }
    let mut rig = Rig::new();
    rig.write(r::RA + 8, u32::from_le_bytes([OTHER[0], OTHER[1], OTHER[2], OTHER[3]]));
    rig.write(r::RA + 12, 1 << 31 | 1 << 16 | u32::from(OTHER[5]) << 8);
    rig.receive(&frame_to([2; 6], 60));
    assert_eq!(rig.read(r::RDH), 1, "by source address");
}

#[test]
fn vlan_filter_and_stripping() {
    let mut tagged = frame_to(MAC, 80);
    tagged[12..16].copy_from_slice(&[0x81, 0x00, 0x30, 0x64]);
    for (rctl_bits, vme, table, passes) in [
        (0, false, 0, true),
        (0, true, 0, true),
        (rctl::VFE, true, 0, false),
        (rctl::VFE, true, 1 << 4, true),
        (rctl::VFE | rctl::CFIEN, false, 1 << 4, false),
        (rctl::VFE | rctl::CFIEN | rctl::CFI, false, 1 << 4, true),
    ] {
        let mut rig = Rig::new();
        rig.write(r::RCTL, rctl::EN | rctl::SECRC | rctl_bits);
        rig.write(r::CTRL, ctrl::SLU | if vme { ctrl::VME } else { 0 });
        rig.write(r::VFTA + 4 * (100 >> 5), table);
        rig.receive(&tagged);
        assert_eq!(rig.read(r::RDH) == 1, passes, "{rctl_bits:x} {vme} {table:x}");
        if passes {
            let (data, status, _, special) = rig.received(0);
            assert_eq!((data.len(), status & 8 != 0), (if vme { 76 } else { 80 }, vme));
            assert_eq!(special, if vme { 0x3064 } else { 0 });
            assert_eq!(data[..12], tagged[..12]);
            assert_eq!(data[data.len() - 64..], tagged[16..]);
        }
    }
}

#[test]
fn checksums_are_checked() {
    let good = tcp4(b"hello");
    let mut bad_ip = good.clone();
    bad_ip[24] ^= 1;
    let mut bad_tcp = good.clone();
    bad_tcp[54] ^= 1;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    let sum = !checksum::sum(&{
        let mut h = fragment[14..34].to_vec();
        h[10] = 0;
        h[11] = 0;
        h
    });
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    let mut udp = good.clone();
    udp[23] = 17;
    udp[40..42].copy_from_slice(&[0, 0]);
    let no_ip = frame_to(MAC, 60);
    for (name, frame, enabled, status, errors) in [
        ("off", &good, 0, 0x04, 0),
        ("good", &good, 0x300, 0x60, 0),
        ("tcp alone", &good, 0x200, 0x20, 0),
        ("ip", &bad_ip, 0x100, 0x40, 0x40),
        ("tcp", &bad_tcp, 0x300, 0x60, 0x20),
        ("fragment", &fragment, 0x300, 0x40, 0),
        ("udp without", &udp, 0x200, 0x04, 0),
        ("no ip", &no_ip, 0x300, 0x04, 0),
    ] {
        let mut rig = Rig::new();
        rig.write(0x5000, enabled);
        rig.receive(frame);
        let (_, s, e, _) = rig.received(0);
        assert_eq!((s & 0x7C, e), (status, errors), "{name}");
    }
    let mut rig = Rig::new();
    rig.write(0x5000, 34);
    let mut padded = good.clone();
    padded.resize(60, 0);
    rig.receive(&good);
    let stored = rig.memory(RX_RING + 10, 2);
    assert_eq!(u16::from_le_bytes([stored[0], stored[1]]), !checksum::sum(&padded[34..]));
}

#[test]
fn full_rings_fill_the_packet_buffer() {
    let mut rig = Rig::new();
    rig.write(r::RDT, 2);
    rig.write(r::PBA, 4);
    for n in 0..6u8 {
        let mut frame = frame_to(MAC, 1000);
        frame[20] = n;
        rig.receive(&frame);
    }
    assert_eq!(rig.read(r::RDH), 2);
    assert_eq!(rig.read(r::ICR) & cause::RXO, 0);
    assert_eq!(rig.read(0x40A0), 4, "no buffers");
    rig.receive(&frame_to(MAC, 1000));
    assert_eq!(rig.read(r::ICR) & cause::RXO, cause::RXO);
    assert_eq!((rig.read(0x4010), rig.read(0x4010)), (1, 0));
    rig.write(r::RDT, 8);
    assert_eq!(rig.read(r::RDH), 6);
    assert_eq!((0..6).map(|n| rig.received(n).0[20]).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_full_packet_buffer_holds_the_partner_off_for_a_while() {
    let mut rig = Rig::new();
    rig.write(r::RDT, 0);
    rig.write(r::PBA, 4);
    rig.receive(&frame_to(MAC, 1514));
    assert!(rig.card.has_room(rig.now), "2,578 bytes are left");
    rig.receive(&frame_to(MAC, 1514));
    assert!(!rig.card.has_room(rig.now));
    assert!(!rig.card.has_room(rig.now.after(33_553_919)));
    assert!(rig.card.has_room(rig.now.after(33_553_920)), "pauses end");
    rig.write(r::RDT, 2);
    assert!(rig.card.has_room(rig.now));
}

#[test]
fn a_long_frame_waits_half_way_for_descriptors() {
    let mut rig = Rig::new();
    rig.write(r::RCTL, rctl::EN | rctl::SECRC | 3 << 16);
    rig.write(r::RDT, 2);
    rig.write(r::ICR, u32::MAX);
    let frame = frame_to(MAC, 1000);
    rig.receive(&frame);
    assert_eq!((rig.read(r::RDH), rig.read(r::ICR) & cause::RXT0), (2, 0));
    rig.write(r::RDT, 5);
    assert_eq!((rig.read(r::RDH), rig.read(r::ICR) & cause::RXT0), (4, cause::RXT0));
    let gathered: Vec<u8> = (0..4).flat_map(|n| rig.received(n).0).collect();
    assert_eq!(gathered, frame);
}

#[test]
fn few_descriptors_left() {
    for (bits, left) in [(0, 8), (1 << 8, 4), (2 << 8, 2)] {
        let mut rig = Rig::new();
        rig.write(r::RCTL, rctl::EN | bits);
        for n in 1..RX_SIZE - 1 {
            rig.receive(&frame_to(MAC, 60));
            let low = rig.read(r::ICR) & cause::RXDMT0 != 0;
            assert_eq!(low, RX_SIZE - 1 - n == left, "{n}");
        }
    }
}

#[test]
fn receive_delays() {
    let mut rig = Rig::new();
    rig.write(r::RDTR, 10);
    rig.write(0x282C, 15);
    let start = rig.now;
    rig.receive(&frame_to(MAC, 60));
    assert!(!rig.card.interrupt());
    assert_eq!(rig.card.deadline(), Some(start.after(10 * 1024)));
    rig.now = start.after(8 * 1024);
    rig.receive(&frame_to(MAC, 60));
    assert_eq!(rig.card.deadline(), Some(start.after(15 * 1024)), "the absolute one");
    rig.wait();
    assert!(rig.card.interrupt());
    assert_eq!((rig.read(r::ICR), rig.card.deadline()), (cause::RXT0, None));
    rig.receive(&frame_to(MAC, 60));
    rig.write(r::RDTR, 1 << 31 | 10);
    assert_eq!(rig.read(r::ICR), cause::RXT0, "flushed");
}

#[test]
fn throttled_interrupts() {
    let mut rig = Rig::new();
    rig.write(r::ITR, 488);
    rig.receive(&frame_to(MAC, 60));
    assert!(rig.card.interrupt());
    let first = rig.now;
    rig.read(r::ICR);
    rig.now = first.after(500);
    rig.receive(&frame_to(MAC, 60));
    assert!(!rig.card.interrupt());
    rig.wait();
    assert_eq!((rig.now, rig.card.interrupt()), (first.after(488 * 256), true));
}

#[test]
fn legacy_descriptors_go_out() {
    let mut rig = Rig::new();
    let frame = frame_to(OTHER, 200);
    rig.ram.dma_write(TX_DATA, &frame);
    rig.descriptor(0, TX_DATA, legacy(50, 0, 0, 0, 0));
    rig.descriptor(1, TX_DATA + 50, legacy(150, EOP | IFCS | RS, 0, 0, 0));
    rig.descriptor(2, TX_DATA, legacy(20, EOP | IFCS, 0, 0, 0));
    rig.write(r::TDT, 3);
    let frames = rig.frames();
    assert_eq!(frames[0], frame);
    assert_eq!(frames[1][..20], frame[..20]);
    assert_eq!(frames[1][20..], [0; 40], "padded");
    assert_eq!(rig.read(r::TDH), 3);
    let statuses: Vec<u8> = (0..3).map(|n| rig.memory(TX_RING + 16 * n + 12, 1)[0]).collect();
    assert_eq!(statuses, [0, 1, 0]);
    assert_eq!(rig.read(r::ICR), cause::TXDW | cause::TXQE);
    for (register, value) in [(0x4080, 2), (0x4090, 268), (0x40D4, 2), (0x40D8, 1), (0x40E0, 1)] {
        assert_eq!(rig.read(register), value, "{register:x}");
    }
}

#[test]
fn legacy_checksum_and_tag() {
    let mut rig = Rig::new();
    rig.write(r::CTRL, ctrl::SLU | ctrl::VME);
    let frame = frame_to(OTHER, 64);
    rig.ram.dma_write(TX_DATA, &frame);
    rig.descriptor(0, TX_DATA, legacy(64, EOP | 0x04 | VLE, 20, 30, 0x2064));
    rig.descriptor(1, TX_DATA, legacy(64, EOP | 0x04, 63, 70, 0));
    rig.write(r::TDT, 2);
    let frames = rig.frames();
    assert_eq!(frames[0].len(), 68);
    assert_eq!(frames[0][12..16], [0x81, 0, 0x20, 0x64]);
    let mut expected = frame.clone();
    let sum = !checksum::sum(&frame[20..]);
    expected[30..32].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(frames[0][16..], expected[12..]);
    assert_eq!(frames[1], frame, "a field outside the frame");
}

#[test]
fn transmit_delays_and_low_mark() {
    let mut rig = Rig::new();
    rig.write(0x3820, 4);
    rig.write(0x382C, 6);
    rig.write(0x3828, 1 << 25);
    rig.ram.dma_write(TX_DATA, &frame_to(OTHER, 60));
    for n in 0..10 {
        rig.descriptor(n, TX_DATA, legacy(60, EOP | RS | IDE, 0, 0, 0));
    }
    rig.write(r::TDT, 10);
    assert_eq!(rig.read(r::ICR), cause::TXQE | cause::TXD_LOW);
    let start = rig.now;
    rig.wait();
    assert_eq!((rig.now, rig.read(r::ICR)), (start.after(4 * 1024), cause::TXDW));
}

/// The segments of 2,500 bytes with an MSS of 1,000, byte by byte.
#[test]
fn tcp_segmentation_over_ipv4() {
    let payload: Vec<u8> = (0..2500).map(|n| (n % 251) as u8).collect();
    let mut packet = tcp4(&payload);
    // As drivers prepare it: no IP length or checksum, pseudo-header without length.
    packet[16..18].fill(0);
    packet[24..26].fill(0);
    let pseudo = checksum::fold(pseudo4(&packet));
    packet[50..52].copy_from_slice(&pseudo.to_be_bytes());
    for cuts in [vec![54, 2554], vec![10, 54, 700, 1054, 2554], vec![2554]] {
        let mut rig = Rig::new();
        rig.ram.dma_write(TX_DATA, &packet);
        let [low, high] = context(0x07, 20, 34, 50, 54, 1000, 2500);
        rig.descriptor(0, low, high);
        let mut at = 0;
        for (n, &end) in cuts.iter().enumerate() {
            let last = if n == cuts.len() - 1 { EOP | RS } else { 0 };
            let high = data(end - at, 0x04 | IFCS | last, 3);
            rig.descriptor(n as u32 + 1, TX_DATA + at as u64, high);
            at = end;
        }
        rig.write(r::TDT, cuts.len() as u32 + 1);
        let frames = rig.frames();
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [1054, 1054, 554]);
        for (n, frame) in frames.iter().enumerate() {
            let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
            assert_eq!(frame[..12], packet[..12]);
            assert_eq!(usize::from(word(16)), frame.len() - 14, "total length");
            assert_eq!(word(18), 0x1234 + n as u16, "identification");
            assert_eq!(word(38), 0, "sequence");
            assert_eq!(word(40), 0x1000 + 1000 * n as u16, "sequence");
            assert_eq!(frame[47], if n == 2 { 0x19 } else { 0x10 }, "FIN and PSH on the last");
            assert!(good_tcp4(frame), "checksums of segment {n}");
            assert_eq!(frame[54..], payload[1000 * n..(1000 * (n + 1)).min(2500)]);
        }
        assert_eq!(rig.read(0x40F8), 1, "TSCTC");
    }
}

#[test]
fn tcp_segmentation_over_ipv6_exact_multiple_with_tag() {
    let mut packet = frame_to(OTHER, 74);
    packet[12..14].copy_from_slice(&[0x86, 0xDD]);
    packet[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
    packet[54..74].copy_from_slice(&[
        0x30, 0x39, 0, 80, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0,
    ]);
    let pseudo = checksum::partial(&packet[22..54]) + 6;
    packet[70..72].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    packet.extend((0..200).map(|n| n as u8));
    let mut rig = Rig::new();
    rig.write(r::CTRL, ctrl::SLU | ctrl::VME);
    rig.ram.dma_write(TX_DATA, &packet);
    let [low, high] = context(0x05, 40, 54, 70, 74, 100, 200);
    rig.descriptor(0, low, high);
    rig.descriptor(1, TX_DATA, data(274, 0x04 | EOP | VLE | RS, 2) | 7 << 48);
    rig.write(r::TDT, 2);
    let frames = rig.frames();
    assert_eq!(frames.len(), 2, "no empty third one");
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(frame[12..16], [0x81, 0, 0, 7]);
        let frame = [&frame[..12], &frame[16..]].concat();
        assert_eq!(frame[18..20], 120u16.to_be_bytes(), "payload length");
        let sequence = [[0xFF, 0xFF, 0xFF, 0xFF], [0, 0, 0, 99]][n];
        assert_eq!(frame[58..62], sequence);
        assert_eq!(frame[67], [0x10, 0x18][n]);
        let total = pseudo + 120 + checksum::partial(&frame[54..]);
        assert_eq!(checksum::fold(total), 0xFFFF);
    }
}

#[test]
fn offload_without_segmentation() {
    let mut good = tcp4(b"some data");
    let expected = good.clone();
    good[24..26].fill(0);
    let seed = checksum::fold(pseudo4(&good) + (good.len() - 34) as u64);
    good[50..52].copy_from_slice(&seed.to_be_bytes());
    let mut rig = Rig::new();
    rig.ram.dma_write(TX_DATA, &good);
    let [low, high] = context(0x03, 20, 34, 50, 0, 0, 0);
    rig.descriptor(0, low, high);
    rig.descriptor(1, TX_DATA, data(30, IFCS, 3));
    rig.descriptor(2, TX_DATA + 30, data(good.len() - 30, EOP | IFCS | RS, 0));
    rig.write(r::TDT, 3);
    assert_eq!(rig.frames(), [expected], "options of the first descriptor");
}

#[test]
fn long_transmissions_pause_as_on_a_wire() {
    let mut rig = Rig::new();
    rig.ram.dma_write(TX_DATA, &frame_to(OTHER, 16_000));
    for n in 0..60 {
        rig.descriptor(n, TX_DATA, legacy(16_000, EOP, 0, 0, 0));
    }
    rig.write(r::TDT, 60);
    let first = rig.frames().len();
    assert_eq!(first, 17, "256 KiB");
    let start = rig.now;
    rig.write(r::TDT, 61);
    assert!(rig.frames().is_empty(), "a kick does not hurry it");
    rig.wait();
    assert_eq!(rig.now, start.after(17 * 16_004 * 8));
    assert_eq!(rig.frames().len(), first);
    rig.write(r::TCTL, 0);
    rig.wait();
    assert_eq!((rig.frames().len(), rig.card.deadline()), (0, None));
}

#[test]
fn tiny_segments_pause_inside_a_descriptor_and_go_on() {
    let packet = tcp4(&vec![7; 20_000]);
    let mut rig = Rig::new();
    rig.ram.dma_write(TX_DATA, &packet);
    let [low, high] = context(0x07, 20, 34, 50, 54, 1, 20_000);
    rig.descriptor(0, low, high);
    rig.descriptor(1, TX_DATA, data(20_054, 0x04 | EOP | RS, 3));
    rig.write(r::TDT, 2);
    let mut segments = rig.frames().len();
    assert!(segments < 5000);
    while rig.card.deadline().is_some() {
        rig.wait();
        segments += rig.frames().len();
    }
    assert_eq!(segments, 20_000);
    assert_eq!(rig.read(r::TDH), 2);
}

#[test]
fn loopback_stays_inside() {
    let mut rig = Rig::new();
    rig.write(r::RCTL, rctl::EN | rctl::SECRC | rctl::LBM);
    let frame = frame_to(MAC, 100);
    rig.ram.dma_write(TX_DATA, &frame);
    rig.descriptor(0, TX_DATA, legacy(100, EOP, 0, 0, 0));
    rig.write(r::TDT, 1);
    assert!(rig.outputs.is_empty());
    assert_eq!(rig.received(0).0, frame);
}

#[test]
fn nothing_moves_without_bus_mastering() {
    let mut rig = Rig::new();
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.card.set_master(ram, outputs, rig.now, false);
    rig.ram.dma_write(TX_DATA, &frame_to(OTHER, 60));
    rig.descriptor(0, TX_DATA, legacy(60, EOP, 0, 0, 0));
    rig.write(r::TDT, 1);
    rig.receive(&frame_to(MAC, 60));
    assert_eq!((rig.read(r::TDH), rig.read(r::RDH), rig.outputs.len()), (0, 0, 0));
    let (ram, outputs) = (&mut rig.ram, &mut rig.outputs);
    rig.card.set_master(ram, outputs, rig.now, true);
    assert_eq!((rig.read(r::TDH), rig.read(r::RDH), rig.outputs.len()), (1, 1, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32, u32),
    Read(u32, u8),
    Port(u32, u32),
    Receive(Vec<u8>),
    Memory(u64, u64),
    Descriptor(u32, u64, u64),
    Wait,
}

fn interesting() -> impl Strategy<Value = u32> {
    let named = prop::sample::select(vec![
        r::CTRL,
        r::EECD,
        r::EERD,
        r::MDIC,
        r::ICR,
        r::ITR,
        r::ICS,
        r::IMS,
        r::IMC,
        r::RCTL,
        r::TCTL,
        r::PBA,
        r::RDBAL,
        r::RDLEN,
        r::RDH,
        r::RDT,
        r::RDTR,
        r::TDBAL,
        r::TDLEN,
        r::TDH,
        r::TDT,
        r::TDT,
        r::RDT,
        r::MTA,
        r::RA,
        r::VFTA,
        0x282C,
        0x3820,
        0x3828,
        0x5000,
    ]);
    prop_oneof![4 => named, 1 => 0..REGISTERS_SIZE]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop_oneof![any::<u32>(), 0..64u32, Just(u32::MAX), Just(0x0400_8002u32)];
    let step = prop_oneof![
        6 => (interesting(), value).prop_map(|(register, value)| Step::Write(register, value)),
        2 => (interesting(), prop::sample::select(vec![1u8, 2, 4]))
            .prop_map(|(register, size)| Step::Read(register, size)),
        1 => (0..64u32, any::<u32>()).prop_map(|(at, value)| Step::Port(at, value & 0x2_FFFF)),
        3 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Step::Receive),
        1 => (1000..20_000usize).prop_map(|len| Step::Receive(frame_to(MAC, len))),
        1 => (0..0x30_0000u64, any::<u64>()).prop_map(|(at, value)| Step::Memory(at, value)),
        4 => (0..TX_SIZE, any::<u64>(), any::<u64>())
            .prop_map(|(n, low, high)| Step::Descriptor(n, low & 0x3F_FFFF, high | 1 << 24)),
        2 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

impl Rig {
    /// Takes the step and returns how many bytes left the card.
    fn step(&mut self, step: &Step) -> usize {
        self.now = self.now.after(777);
        match *step {
            Step::Write(register, value) => self.write(register & !3, value),
            Step::Read(register, size) => {
                self.card.mmio_read(self.now, register, size);
            }
            Step::Port(offset, value) => {
                let (ram, outputs) = (&mut self.ram, &mut self.outputs);
                self.card.io_write(ram, outputs, self.now, (offset, 4), value);
                self.card.io_read(self.now, offset, 4);
            }
            Step::Receive(ref frame) => self.receive(frame),
            Step::Memory(at, value) => self.ram.dma_write(at, &value.to_le_bytes()),
            Step::Descriptor(n, low, high) => self.descriptor(n, low, high),
            Step::Wait => {
                if let Some(at) = self.card.deadline() {
                    self.now = self.now.max(at);
                    let (ram, outputs) = (&mut self.ram, &mut self.outputs);
                    self.card.advance(ram, outputs, self.now);
                    assert!(self.card.deadline().is_none_or(|next| next > self.now));
                }
            }
        }
        self.frames().iter().map(Vec::len).sum()
    }

    fn state(&self) -> Vec<u8> {
        rmp_serde::to_vec(&self.card).expect("serializes")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Anything anywhere: no panic, a bounded amount of output a step, and a saved and loaded card
    /// goes on as the original.
    #[test]
    fn anything_goes_and_saving_changes_nothing(steps in steps(), save_at in 0..80usize) {
        let (mut rig, mut twin) = (Rig::new(), Rig::new());
        for (n, step) in steps.iter().enumerate() {
            if n == save_at {
                twin.card = rmp_serde::from_slice(&rig.state()).expect("reads back");
            }
            let left = rig.step(step);
            prop_assert!(left <= 256 * 1024 + FRAME_MAX + 64, "{left}");
            prop_assert_eq!(left, twin.step(step));
        }
        prop_assert_eq!(rig.state(), twin.state());
        prop_assert!(rig.ram.bytes() == twin.ram.bytes());
    }

    /// States that no run makes: no panic.
    #[test]
    fn damaged_states_do_not_panic(steps in steps(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut rig = Rig::new();
        let (before, after) = steps.split_at(steps.len() / 2);
        before.iter().for_each(|step| { rig.step(step); });
        let mut state = rig.state();
        let at = at.index(state.len());
        state[at] = byte;
        if let Ok(card) = rmp_serde::from_slice::<E1000>(&state)
            && card.index == 0
        {
            rig.card = card;
            after.iter().for_each(|step| { rig.step(step); });
        }
    }
}
