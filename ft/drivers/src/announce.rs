//! Telling a network that a machine has come to another place.
//!
//! Contract: whole Ethernet frames that switches learn the card's place from: a reverse ARP request
//! (RFC 903), which nobody need answer, and where the guest's address is known a gratuitous ARP
//! request (RFC 5227 section 3). Both may get lost, or come before a switch forwards again, so they
//! are sent several times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Milliseconds after the beginning at which a place is announced: soon again, then more slowly.
const TIMES: [u64; 5] = [0, 50, 150, 350, 750];

/// Bytes of a frame without FCS at least.
const LEAST: usize = 60;
const ARP: [u8; 2] = [0x08, 0x06];
const RARP: [u8; 2] = [0x80, 0x35];
const IPV4: [u8; 2] = [0x08, 0x00];

/// What is known of the guest's addresses, from the frames that it sends.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    by_card: BTreeMap<u8, [u8; 4]>,
}

impl Addresses {
    /// The guest sends `frame` on card `nic`.
    pub fn saw(&mut self, nic: u8, frame: &[u8]) {
        let (Some(kind), Some(source)) = (frame.get(12..14), frame.get(6..12)) else { return };
        let address = if kind == ARP && frame.get(22..28) == Some(source) {
            frame.get(28..32)
        } else if kind == IPV4 {
            frame.get(26..30)
        } else {
            None
        };
        if let Some(address) = address.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
            && address != [0; 4]
        {
            self.by_card.insert(nic, address);
        }
    }

    /// The frames that announce card `nic` with the address `mac`.
    #[must_use]
    pub fn announcements(&self, nic: u8, mac: [u8; 6]) -> Vec<Vec<u8>> {
        let mut frames = vec![frame(RARP, 3, mac, [0; 4], mac, [0; 4])];
        if let Some(&address) = self.by_card.get(&nic) {
            frames.push(frame(ARP, 1, mac, address, [0; 6], address));
        }
        frames
    }
}

/// Announcements that are to be sent.
#[derive(Debug)]
pub struct Announcer {
    frames: Vec<(u8, Vec<u8>)>,
    began: Instant,
    /// How often they were.
    sent: usize,
}

impl Announcer {
    /// `frames`, each with the number of its card, from `now` on.
    #[must_use]
    pub fn new(frames: Vec<(u8, Vec<u8>)>, now: Instant) -> Self {
        Self { frames, began: now, sent: 0 }
    }

    fn next(&self) -> Option<Instant> {
        let ms = TIMES.get(self.sent).filter(|_| !self.frames.is_empty())?;
        Some(self.began + Duration::from_millis(*ms))
    }

    /// What is to be sent now, if anything is.
    pub fn due(&mut self, now: Instant) -> Option<&[(u8, Vec<u8>)]> {
        let due = self.next().is_some_and(|at| at <= now);
        self.sent += usize::from(due);
        due.then_some(&self.frames)
    }

    /// How long nothing is to be sent; `None`: never again.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Option<Duration> {
        self.next().map(|at| at.saturating_duration_since(now))
    }
}

/// An ARP packet (RFC 826) to everybody.
fn frame(
    kind: [u8; 2],
    operation: u8,
    mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend(mac);
    frame.extend(kind);
    // Ethernet, IPv4, lengths of their addresses, operation.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend(target_mac);
    frame.extend(target);
    frame.resize(LEAST, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    #[test]
    fn a_place_is_announced_five_times() {
        let began = Instant::now();
        let mut announcer = Announcer::new(vec![(1, vec![7])], began);
        let mut times = Vec::new();
        let mut now = began;
        while let Some(left) = announcer.patience(now) {
            now += left;
            assert_eq!(announcer.due(now), Some(&[(1, vec![7])][..]));
            assert_eq!(announcer.due(now), None, "once");
            times.push((now - began).as_millis() as u64);
        }
        assert_eq!(times, TIMES);
        assert_eq!(announcer.due(now + Duration::from_secs(9)), None);
        assert_eq!(Announcer::new(vec![], began).patience(began), None);
    }

    #[test]
    fn a_card_is_announced_with_the_address_it_was_seen_with() {
        let mut addresses = Addresses::default();
        let only = addresses.announcements(0, MAC);
        assert_eq!(only.len(), 1);
        assert_eq!(
            (only[0].len(), &only[0][..14]),
            (60, &[&[0xFF; 6][..], &MAC, &RARP].concat()[..])
        );
        assert_eq!(only[0][14..22], [0, 1, 8, 0, 6, 4, 0, 3]);
        // A DHCP client has no address yet.
        let mut packet = [&[0xFF; 6][..], &MAC, &IPV4, &[0x45; 12], &[0; 8]].concat();
        addresses.saw(0, &packet);
        assert_eq!(addresses.announcements(0, MAC).len(), 1);
        packet[26..30].copy_from_slice(&[10, 0, 2, 15]);
        addresses.saw(0, &packet);
        let both = addresses.announcements(0, MAC);
        assert_eq!(both[1][12..14], ARP);
        assert_eq!(
            (&both[1][28..32], &both[1][38..42]),
            (&[10, 0, 2, 15][..], &[10, 0, 2, 15][..])
        );
        let mut learned = Addresses::default();
        learned.saw(0, &both[1]);
        assert_eq!(learned.announcements(0, MAC), both);
        assert_eq!(learned.announcements(1, MAC).len(), 1, "another card");
        for len in 0..packet.len().min(34) {
            learned.saw(0, &packet[..len]);
        }
    }
}
