//! Packet capture in pcapng, which Wireshark and tcpdump read.
//!
//! Contract: one section, one interface per card, times in nanoseconds; each packet is written
//! whole, so the file is readable up to the last one whatever happens.

use std::io::{self, Write};

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
const LINKTYPE_ETHERNET: u16 = 1;
/// Option `if_name`.
const IF_NAME: u16 = 2;
/// Option `if_tsresol`: decimal digits after the second.
const IF_TSRESOL: u16 = 9;
/// Option `epb_flags`: bits 0-1 the direction.
const EPB_FLAGS: u16 = 2;

/// Which way a packet went, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the guest.
    Inbound = 1,
    /// From the guest.
    Outbound = 2,
}

/// A capture being written.
#[derive(Debug)]
pub struct Capture<W> {
    out: W,
}

impl<W: Write> Capture<W> {
    /// Begins a capture of `nics` cards.
    ///
    /// # Errors
    /// The host's failure.
    pub fn new(mut out: W, nics: u8) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        body.extend_from_slice(&1u16.to_le_bytes());
        body.extend_from_slice(&0u16.to_le_bytes());
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        write_block(&mut out, SECTION_HEADER, &body)?;
        for nic in 0..nics {
            let mut body = Vec::new();
            body.extend_from_slice(&LINKTYPE_ETHERNET.to_le_bytes());
            body.extend_from_slice(&[0; 2]);
            body.extend_from_slice(&0u32.to_le_bytes());
            option(&mut body, IF_NAME, format!("nic{nic}").as_bytes());
            option(&mut body, IF_TSRESOL, &[9]);
            option(&mut body, 0, &[]);
            write_block(&mut out, INTERFACE, &body)?;
        }
        out.flush()?;
        Ok(Self { out })
    }

    /// Adds a packet of card `nic`, seen at `time` nanoseconds since 1970.
    ///
    /// # Errors
    /// The host's failure.
    pub fn packet(
        &mut self,
        nic: u8,
        time: u64,
        direction: Direction,
        frame: &[u8],
    ) -> io::Result<()> {
        let mut body = Vec::with_capacity(frame.len() + 40);
        body.extend_from_slice(&u32::from(nic).to_le_bytes());
        body.extend_from_slice(&((time >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(time as u32).to_le_bytes());
        body.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        body.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        body.extend_from_slice(frame);
        pad(&mut body);
        option(&mut body, EPB_FLAGS, &(direction as u32).to_le_bytes());
        option(&mut body, 0, &[]);
        write_block(&mut self.out, ENHANCED_PACKET, &body)?;
        self.out.flush()
    }
}

fn write_block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32 + 12).to_le_bytes();
    let mut block = Vec::with_capacity(body.len() + 12);
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&len);
    block.extend_from_slice(body);
    block.extend_from_slice(&len);
    out.write_all(&block)
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits a capture into (type, body), checking the framing.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
        };
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let len = word(bytes, 4) as usize;
            assert_eq!(len % 4, 0);
            assert_eq!(word(bytes, len - 4) as usize, len, "both lengths agree");
            blocks.push((word(bytes, 0), bytes[8..len - 4].to_vec()));
            bytes = &bytes[len..];
        }
        blocks
    }

    #[test]
    fn packets_are_enhanced_packet_blocks() {
        let mut bytes = Vec::new();
        let mut capture = Capture::new(&mut bytes, 2).expect("memory");
        let time = 0x1234_5678_9ABC_DEF0;
        capture.packet(1, time, Direction::Outbound, b"frame").expect("memory");
        let blocks = blocks(&bytes);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, INTERFACE, INTERFACE, ENHANCED_PACKET]);
        let packet = &blocks[3].1;
        assert_eq!(packet[..4], [1, 0, 0, 0]);
        assert_eq!(packet[4..12], [0x78, 0x56, 0x34, 0x12, 0xF0, 0xDE, 0xBC, 0x9A]);
        assert_eq!(packet[12..20], [5, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&packet[20..28], b"frame\0\0\0");
        assert_eq!(packet[28..], [2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
