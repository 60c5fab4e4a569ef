//! The gateway's own packets: IPv4 with ICMP, UDP or TCP inside an Ethernet frame.

use crate::ethernet::{FRAME_MIN, HEADER, Header};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Largest IP packet.
pub const MTU: usize = 1500;
/// Bytes of an IPv4 header without options.
const IPV4: usize = 20;
/// Bytes of a UDP header.
const UDP: usize = 8;
/// Largest UDP payload in one packet.
pub const DATAGRAM_MAX: usize = MTU - IPV4 - UDP;
/// Hop limit of packets that begin here (RFC 1700).
const HOPS: u8 = 64;

fn checksums() -> ChecksumCapabilities {
    ChecksumCapabilities::default()
}

/// A frame with `len` bytes of IPv4 payload that `fill` writes.
fn ipv4(
    header: &Header,
    (source, destination): (Ipv4Addr, Ipv4Addr),
    protocol: IpProtocol,
    len: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut frame = vec![0; (HEADER + IPV4 + len).max(FRAME_MIN)];
    frame[..HEADER].copy_from_slice(&header.bytes());
    let repr = Ipv4Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: protocol,
        payload_len: len,
        hop_limit: HOPS,
    };
    repr.emit(&mut Ipv4Packet::new_unchecked(&mut frame[HEADER..]), &checksums());
    fill(&mut frame[HEADER + IPV4..][..len]);
    frame
}

/// A UDP datagram; `payload` has at most [`DATAGRAM_MAX`] bytes.
pub fn udp(
    header: &Header,
    source: SocketAddrV4,
    destination: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    assert!(payload.len() <= DATAGRAM_MAX, "the caller keeps to the MTU");
    let repr = UdpRepr { src_port: source.port(), dst_port: destination.port() };
    let (from, to) = (*source.ip(), *destination.ip());
    ipv4(header, (from, to), IpProtocol::Udp, UDP + payload.len(), |out| {
        let mut packet = UdpPacket::new_unchecked(out);
        let (from, to) = (IpAddress::Ipv4(from), IpAddress::Ipv4(to));
        let write = |out: &mut [u8]| out.copy_from_slice(payload);
        repr.emit(&mut packet, &from, &to, payload.len(), write, &checksums());
    })
}

/// The answer to an ICMP echo request.
pub fn echo_reply(
    header: &Header,
    path: (Ipv4Addr, Ipv4Addr),
    ident: u16,
    seq_no: u16,
    data: &[u8],
) -> Vec<u8> {
    icmp(header, path, &Icmpv4Repr::EchoReply { ident, seq_no, data })
}

/// Why a packet was not delivered; `original` is that packet, which is quoted (RFC 792).
pub fn unreachable(
    header: &Header,
    gateway: Ipv4Addr,
    original: &Ipv4Packet<&[u8]>,
    reason: Icmpv4DstUnreachable,
) -> Vec<u8> {
    let whole = usize::from(original.total_len());
    let quoted = whole.min(usize::from(original.header_len()) + 8);
    let path = (gateway, original.src_addr());
    ipv4(header, path, IpProtocol::Icmp, 8 + quoted, |out| {
        out[8..].copy_from_slice(&original.as_ref()[..quoted]);
        let mut packet = Icmpv4Packet::new_unchecked(out);
        packet.set_msg_type(Icmpv4Message::DstUnreachable);
        packet.set_msg_code(reason.into());
        packet.fill_checksum();
    })
}

fn icmp(header: &Header, path: (Ipv4Addr, Ipv4Addr), repr: &Icmpv4Repr<'_>) -> Vec<u8> {
    ipv4(header, path, IpProtocol::Icmp, repr.buffer_len(), |out| {
        repr.emit(&mut Icmpv4Packet::new_unchecked(out), &checksums());
    })
}

/// The reset that answers a segment of no connection (RFC 9293 3.10.7.1); `None` for a reset.
pub fn reset(
    header: &Header,
    path: (Ipv4Addr, Ipv4Addr),
    segment: &TcpPacket<&[u8]>,
) -> Option<Vec<u8>> {
    if segment.rst() {
        return None;
    }
    let (seq_number, ack_number) = match segment.ack() {
        true => (segment.ack_number(), None),
        false => (TcpSeqNumber(0), Some(segment.seq_number() + segment.segment_len())),
    };
    let repr = TcpRepr {
        src_port: segment.dst_port(),
        dst_port: segment.src_port(),
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    Some(ipv4(header, path, IpProtocol::Tcp, repr.buffer_len(), |out| {
        let (from, to) = (IpAddress::Ipv4(path.0), IpAddress::Ipv4(path.1));
        repr.emit(&mut TcpPacket::new_unchecked(out), &from, &to, &checksums());
    }))
}

/// An ARP packet from `source` to `target`; a question goes to all.
pub fn arp(
    operation: ArpOperation,
    source: (EthernetAddress, Ipv4Addr),
    target: (EthernetAddress, Ipv4Addr),
) -> Vec<u8> {
    let asks = operation == ArpOperation::Request;
    let header = Header {
        destination: if asks { EthernetAddress::BROADCAST } else { target.0 },
        source: source.0,
        protocol: EthernetProtocol::Arp,
    };
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: source.0,
        source_protocol_addr: source.1,
        target_hardware_addr: if asks { EthernetAddress([0; 6]) } else { target.0 },
        target_protocol_addr: target.1,
    };
    let mut frame = vec![0; FRAME_MIN];
    frame[..HEADER].copy_from_slice(&header.bytes());
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[HEADER..]));
    frame
}

/// An echo request as it is: identifier, sequence number, data.
pub fn echo_request(payload: &[u8]) -> Option<(u16, u16, &[u8])> {
    let packet = Icmpv4Packet::new_checked(payload).ok()?;
    if packet.msg_type() != Icmpv4Message::EchoRequest || !packet.verify_checksum() {
        return None;
    }
    Some((packet.echo_ident(), packet.echo_seq_no(), &payload[packet.header_len()..]))
}
