//! The gateway's own part in the LAN's talk: ARP, ICMP echo to itself, DHCP, and what goes out to
//! the world.
//!
//! Contract: takes the frames that reach the gateway and says what the host's sockets are to do
//! with each; its own answers wait in [`Gateway::frames`]. Packets with wrong lengths, checksums or
//! addresses are thrown away, and so are fragments.

use crate::arp::Neighbours;
use crate::config::{Config, Subnet};
use crate::dhcp;
use crate::ethernet::{HEADER, Header};
use crate::packet;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv4DstUnreachable,
    IpAddress, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket,
};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Most frames of its own that wait.
const FRAMES_MAX: usize = 4096;

/// Something for the world in a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Nothing.
    Nothing,
    /// A TCP segment.
    Tcp {
        /// The guest's end.
        guest: SocketAddrV4,
        /// The other end as the guest knows it.
        there: SocketAddrV4,
        /// The IP packet.
        packet: &'a [u8],
        /// Whether it opens a connection.
        opens: bool,
    },
    /// A UDP datagram.
    Udp {
        /// The guest's end.
        guest: SocketAddrV4,
        /// The other end as the guest knows it.
        there: SocketAddrV4,
        /// The IP packet.
        packet: &'a [u8],
        /// What is in it.
        payload: &'a [u8],
    },
    /// An ICMP echo request to another host.
    Echo {
        /// The guest.
        guest: Ipv4Addr,
        /// The host that is to answer.
        there: Ipv4Addr,
        /// The guest's identifier.
        ident: u16,
        /// The guest's sequence number.
        seq: u16,
        /// Data that comes back.
        data: &'a [u8],
    },
}

/// The gateway.
#[derive(Debug)]
pub struct Gateway {
    mac: EthernetAddress,
    subnet: Subnet,
    neighbours: Neighbours,
    dhcp: dhcp::Server,
    frames: Vec<Vec<u8>>,
}

impl Gateway {
    /// The gateway of a LAN.
    pub fn new(config: &Config) -> Self {
        let gateway = config.subnet.gateway();
        let dns = (!config.resolvers.is_empty()).then_some(gateway);
        Self {
            mac: config.gateway_mac(),
            subnet: config.subnet,
            neighbours: Neighbours::default(),
            dhcp: dhcp::Server::new(config.subnet, dns),
            frames: Vec::new(),
        }
    }

    /// Its IP address.
    pub fn ip(&self) -> Ipv4Addr {
        self.subnet.gateway()
    }

    /// Its hardware address.
    pub fn mac(&self) -> EthernetAddress {
        self.mac
    }

    /// Takes its frames for the switch.
    pub fn frames(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.frames)
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push(frame);
        }
    }

    /// Hosts with this hardware address.
    pub fn hosts(&self, mac: EthernetAddress) -> Vec<Ipv4Addr> {
        self.neighbours.hosts(mac)
    }

    /// The hardware address of a guest, if it is known.
    pub fn neighbour(&self, ip: Ipv4Addr) -> Option<EthernetAddress> {
        self.neighbours.get(ip)
    }

    /// The header of frames for a guest; asks for the guest if it is not known.
    pub fn header_to(&mut self, ip: Ipv4Addr, now: Duration) -> Option<Header> {
        let Some(destination) = self.neighbours.get(ip) else {
            if self.neighbours.should_ask(ip, now) {
                let (here, there) = ((self.mac, self.ip()), (EthernetAddress::BROADCAST, ip));
                self.push(packet::arp(ArpOperation::Request, here, there));
            }
            return None;
        };
        Some(Header { destination, source: self.mac, protocol: EthernetProtocol::Ipv4 })
    }

    /// Takes a frame; `news` is told of each guest whose hardware address is new.
    pub fn frame<'a>(
        &mut self,
        frame: &'a [u8],
        now: Duration,
        news: &mut Vec<Ipv4Addr>,
    ) -> Heard<'a> {
        let Some(header) = Header::read(frame) else { return Heard::Nothing };
        if header.destination != self.mac && !header.destination.is_broadcast() {
            return Heard::Nothing;
        }
        let payload = &frame[HEADER..];
        match header.protocol {
            EthernetProtocol::Arp => {
                self.arp(&header, payload, now, news);
                Heard::Nothing
            }
            EthernetProtocol::Ipv4 => {
                self.ipv4(&header, payload, now, news).unwrap_or(Heard::Nothing)
            }
            _ => Heard::Nothing,
        }
    }

    fn learn(
        &mut self,
        ip: Ipv4Addr,
        mac: EthernetAddress,
        now: Duration,
        news: &mut Vec<Ipv4Addr>,
    ) {
        let guest = self.subnet.contains(ip) && ip != self.ip();
        if guest && mac != self.mac && self.neighbours.learn(ip, mac, now) {
            news.push(ip);
        }
    }

    fn arp(&mut self, header: &Header, payload: &[u8], now: Duration, news: &mut Vec<Ipv4Addr>) {
        let packet = ArpPacket::new_checked(payload).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: mac,
            source_protocol_addr: ip,
            target_protocol_addr: target,
            ..
        }) = packet
        else {
            return;
        };
        if mac != header.source {
            return;
        }
        self.learn(ip, mac, now, news);
        if operation == ArpOperation::Request && target == self.ip() && ip != target {
            self.push(packet::arp(ArpOperation::Reply, (self.mac, self.ip()), (mac, ip)));
        }
    }

    fn ipv4<'a>(
        &mut self,
        header: &Header,
        payload: &'a [u8],
        now: Duration,
        news: &mut Vec<Ipv4Addr>,
    ) -> Option<Heard<'a>> {
        let packet = Ipv4Packet::new_checked(payload).ok()?;
        let whole = !packet.more_frags() && packet.frag_offset() == 0;
        if packet.version() != 4 || !whole || !packet.verify_checksum() {
            return None;
        }
        // Only the packet, without what fills a short frame.
        let bytes = &payload[..usize::from(packet.total_len())];
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        let inside = packet.payload();
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        if packet.next_header() == IpProtocol::Udp && self.is_dhcp(&packet, inside) {
            self.dhcp(inside, now);
            return None;
        }
        let guest = self.subnet.contains(source) && source != self.ip();
        let world = destination == self.ip() || !self.subnet.contains(destination);
        if !guest || !world || !is_host(destination) || destination == self.subnet.broadcast() {
            return None;
        }
        self.learn(source, header.source, now, news);
        match packet.next_header() {
            IpProtocol::Tcp => tcp(&packet, bytes),
            IpProtocol::Udp => udp(&packet, bytes),
            IpProtocol::Icmp => self.echo(&packet, now),
            _ => {
                self.unreachable(bytes, Icmpv4DstUnreachable::ProtoUnreachable, now);
                None
            }
        }
    }

    fn is_dhcp(&self, packet: &Ipv4Packet<&[u8]>, payload: &[u8]) -> bool {
        let to_us = [Ipv4Addr::BROADCAST, self.ip(), self.subnet.broadcast()];
        to_us.contains(&packet.dst_addr())
            && UdpPacket::new_checked(payload).is_ok_and(|udp| {
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                udp.dst_port() == dhcp::PORT && udp.verify_checksum(&from, &to)
            })
    }

    fn dhcp(&mut self, payload: &[u8], now: Duration) {
        let Ok(datagram) = UdpPacket::new_checked(payload) else { return };
        if let Some(answer) = self.dhcp.message(datagram.payload(), now) {
            let header = Header {
                destination: answer.mac,
                source: self.mac,
                protocol: EthernetProtocol::Ipv4,
            };
            let here = SocketAddrV4::new(self.ip(), dhcp::PORT);
            self.push(packet::udp(&header, here, answer.to, &answer.payload));
        }
    }

    fn echo<'a>(&mut self, packet: &Ipv4Packet<&'a [u8]>, now: Duration) -> Option<Heard<'a>> {
        let (ident, seq, data) = packet::echo_request(packet.payload())?;
        let (guest, there) = (packet.src_addr(), packet.dst_addr());
        if there != self.ip() {
            return Some(Heard::Echo { guest, there, ident, seq, data });
        }
        self.echo_reply(there, guest, (ident, seq, data), now);
        None
    }

    /// Answers an echo request of a guest in the name of `there`.
    pub fn echo_reply(
        &mut self,
        there: Ipv4Addr,
        guest: Ipv4Addr,
        (ident, seq, data): (u16, u16, &[u8]),
        now: Duration,
    ) {
        if let Some(header) = self.header_to(guest, now) {
            self.push(packet::echo_reply(&header, (there, guest), ident, seq, data));
        }
    }

    /// Tells a guest that its packet cannot be delivered (RFC 792).
    pub fn unreachable(&mut self, packet: &[u8], reason: Icmpv4DstUnreachable, now: Duration) {
        let Ok(packet) = Ipv4Packet::new_checked(packet) else { return };
        if let Some(header) = self.header_to(packet.src_addr(), now) {
            self.push(packet::unreachable(&header, self.ip(), &packet, reason));
        }
    }

    /// Answers a TCP segment that belongs to no connection with a reset.
    pub fn reset(&mut self, packet: &[u8], now: Duration) {
        let Ok(packet) = Ipv4Packet::new_checked(packet) else { return };
        let path = (packet.dst_addr(), packet.src_addr());
        let segment = TcpPacket::new_checked(packet.payload());
        if let Some(header) = self.header_to(packet.src_addr(), now)
            && let Ok(segment) = segment
            && let Some(frame) = packet::reset(&header, path, &segment)
        {
            self.push(frame);
        }
    }

    /// Sends a datagram to a guest.
    pub fn datagram(
        &mut self,
        there: SocketAddrV4,
        guest: SocketAddrV4,
        payload: &[u8],
        now: Duration,
    ) {
        if payload.len() <= packet::DATAGRAM_MAX
            && let Some(header) = self.header_to(*guest.ip(), now)
        {
            self.push(packet::udp(&header, there, guest, payload));
        }
    }
}

/// Whether an address can be one host's.
fn is_host(ip: Ipv4Addr) -> bool {
    !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast() && ip.octets()[0] < 240
}

fn tcp<'a>(packet: &Ipv4Packet<&'a [u8]>, bytes: &'a [u8]) -> Option<Heard<'a>> {
    let segment = TcpPacket::new_checked(packet.payload()).ok()?;
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
    let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
    if segment.src_port() == 0 || segment.dst_port() == 0 {
        return None;
    }
    // Segments of a connection are checked by its end.
    if opens && !segment.verify_checksum(&from, &to) {
        return None;
    }
    Some(Heard::Tcp {
        guest: SocketAddrV4::new(source, segment.src_port()),
        there: SocketAddrV4::new(destination, segment.dst_port()),
        packet: bytes,
        opens,
    })
}

fn udp<'a>(packet: &Ipv4Packet<&'a [u8]>, bytes: &'a [u8]) -> Option<Heard<'a>> {
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let (from, to) = (IpAddress::Ipv4(source), IpAddress::Ipv4(destination));
    let ports = (datagram.src_port(), datagram.dst_port());
    if ports.0 == 0 || ports.1 == 0 || !datagram.verify_checksum(&from, &to) {
        return None;
    }
    Some(Heard::Udp {
        guest: SocketAddrV4::new(source, ports.0),
        there: SocketAddrV4::new(destination, ports.1),
        packet: bytes,
        payload: datagram.payload(),
    })
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
