//! Ethernet frames: the header, and who said something about itself in one.

use smoltcp::wire::{ArpPacket, EthernetAddress, EthernetFrame, EthernetProtocol};

/// Bytes of the header.
pub const HEADER: usize = 14;
/// Shortest frame that is sent: 64 bytes with the FCS, which is not passed on (IEEE 802.3 3.2.8).
pub const FRAME_MIN: usize = 60;
/// Longest frame that is passed on.
pub const FRAME_MAX: usize = backends::net::MAX_FRAME;
/// EtherType of RARP (RFC 903), by which hypervisors announce where a machine is now.
const RARP: u16 = 0x8035;

/// The header's fields of a frame that can be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it goes.
    pub destination: EthernetAddress,
    /// Where it comes from.
    pub source: EthernetAddress,
    /// What is in it.
    pub protocol: EthernetProtocol,
}

impl Header {
    /// Reads the header; `None` for a frame that a switch throws away: too short, too long, from a
    /// group address, or to one of the addresses that no bridge passes on (IEEE 802.1D table 7-10).
    pub fn read(frame: &[u8]) -> Option<Self> {
        if !(HEADER..=FRAME_MAX).contains(&frame.len()) {
            return None;
        }
        let frame = EthernetFrame::new_unchecked(frame);
        let (destination, source) = (frame.dst_addr(), frame.src_addr());
        let local = destination.0[..5] == [0x01, 0x80, 0xC2, 0, 0] && destination.0[5] < 0x10;
        if !source.is_unicast() || source.0 == [0; 6] || local {
            return None;
        }
        Some(Self { destination, source, protocol: frame.ethertype() })
    }

    /// The header's bytes.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..6].copy_from_slice(&self.destination.0);
        bytes[6..12].copy_from_slice(&self.source.0);
        bytes[12..].copy_from_slice(&u16::from(self.protocol).to_be_bytes());
        bytes
    }
}

/// Whether a frame says nothing but where its sender is: RARP, or ARP about itself (RFC 5227 3).
pub fn is_announcement(header: &Header, frame: &[u8]) -> bool {
    if u16::from(header.protocol) == RARP {
        return true;
    }
    header.protocol == EthernetProtocol::Arp
        && ArpPacket::new_checked(&frame[HEADER..]).is_ok_and(|arp| {
            arp.hardware_len() == 6
                && arp.protocol_len() == 4
                && arp.source_protocol_addr() == arp.target_protocol_addr()
                && arp.source_hardware_addr() == header.source.0
        })
}
