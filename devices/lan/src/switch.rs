//! A learning Ethernet switch.
//!
//! Contract: a frame goes to the port where its destination was last heard, to all others while
//! that is not known, and never back. An address that is heard on another port belongs to that port
//! from this frame on: so a backup takes over by announcing itself. Addresses are forgotten [`AGE`]
//! after they were last heard, or with their port; a port holds at most [`ADDRESSES_PER_PORT`] of
//! them.

use crate::ethernet::{Header, is_announcement};
use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a silent address is kept (IEEE 802.1D table 7-5).
pub const AGE: Duration = Duration::from_secs(300);
/// Addresses that one port can hold.
pub const ADDRESSES_PER_PORT: usize = 64;

/// A port's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId(pub usize);

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Nowhere,
    /// To one port.
    Port(PortId),
    /// To every port but the one where it came from.
    Others,
}

/// What follows from a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Where it goes.
    pub target: Target,
    /// An address that is now somewhere else than before, or that announced itself.
    pub appeared: Option<EthernetAddress>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    port: PortId,
    heard: Duration,
}

/// The table of addresses and the ports they were heard on.
#[derive(Debug, Default)]
pub struct Switch {
    places: BTreeMap<EthernetAddress, Place>,
    /// Addresses of each port.
    ports: BTreeMap<PortId, usize>,
}

impl Switch {
    /// Plugs a cable in.
    pub fn add_port(&mut self, port: PortId) {
        self.ports.insert(port, 0);
    }

    /// Pulls a cable: its addresses are forgotten.
    pub fn remove_port(&mut self, port: PortId) {
        self.ports.remove(&port);
        self.places.retain(|_, place| place.port != port);
    }

    /// The port of an address, if it is known.
    pub fn port_of(&self, address: EthernetAddress) -> Option<PortId> {
        self.places.get(&address).map(|place| place.port)
    }

    /// Addresses known.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no address is known.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Takes a frame that arrived on `from`.
    pub fn frame(&mut self, from: PortId, frame: &[u8], now: Duration) -> Verdict {
        let lost = Verdict { target: Target::Nowhere, appeared: None };
        let Some(header) = Header::read(frame) else { return lost };
        let moved = self.learn(header.source, from, now);
        let appeared = (moved || is_announcement(&header, frame)).then_some(header.source);
        let known = self.places.get(&header.destination).copied();
        let target = match known {
            _ if !header.destination.is_unicast() => Target::Others,
            Some(place) if place.port == from => Target::Nowhere,
            Some(place) if now.saturating_sub(place.heard) < AGE => Target::Port(place.port),
            _ => Target::Others,
        };
        Verdict { target, appeared }
    }

    /// Notes where an address is; tells whether that is new.
    fn learn(&mut self, address: EthernetAddress, port: PortId, now: Duration) -> bool {
        if let Some(place) = self.places.get_mut(&address) {
            let before = std::mem::replace(place, Place { port, heard: now });
            if before.port == port {
                return false;
            }
            // A port that is over its number because of a move learns nothing new until it is
            // below.
            *self.ports.entry(port).or_default() += 1;
            if let Some(held) = self.ports.get_mut(&before.port) {
                *held = held.saturating_sub(1);
            }
            return true;
        }
        let held = self.ports.entry(port).or_default();
        if *held >= ADDRESSES_PER_PORT {
            return false;
        }
        *held += 1;
        self.places.insert(address, Place { port, heard: now });
        true
    }

    /// Forgets the addresses that have been silent for [`AGE`].
    pub fn age(&mut self, now: Duration) {
        let ports = &mut self.ports;
        self.places.retain(|_, place| {
            let stays = now.saturating_sub(place.heard) < AGE;
            if !stays && let Some(held) = ports.get_mut(&place.port) {
                *held = held.saturating_sub(1);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: [u8; 6] = [0x52, 0, 0, 0, 0, 0xA];
    const B: [u8; 6] = [0x52, 0, 0, 0, 0, 0xB];
    const ALL: [u8; 6] = [0xFF; 6];
    const ONE: PortId = PortId(1);
    const TWO: PortId = PortId(2);
    const THREE: PortId = PortId(3);

    fn switch() -> Switch {
        let mut switch = Switch::default();
        [ONE, TWO, THREE].into_iter().for_each(|port| switch.add_port(port));
        switch
    }

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[8, 0], &[0; 46]].concat()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_learns_and_floods_what_it_does_not_know() {
        let mut switch = switch();
        let verdict = switch.frame(ONE, &frame(B, A), at(0));
        assert_eq!(verdict, Verdict { target: Target::Others, appeared: Some(EthernetAddress(A)) });
        assert_eq!(switch.frame(TWO, &frame(A, B), at(0)).target, Target::Port(ONE));
        let again = switch.frame(ONE, &frame(B, A), at(1));
        assert_eq!(again, Verdict { target: Target::Port(TWO), appeared: None });
        assert_eq!(switch.frame(ONE, &frame(ALL, A), at(1)).target, Target::Others);
        assert_eq!(switch.frame(TWO, &frame(B, B), at(1)).target, Target::Nowhere, "never back");
    }

    #[test]
    fn an_address_moves_with_its_first_frame_elsewhere() {
        let mut switch = switch();
        switch.frame(ONE, &frame(ALL, A), at(0));
        let moved = switch.frame(TWO, &frame(ALL, A), at(1));
        assert_eq!(moved.appeared, Some(EthernetAddress(A)));
        assert_eq!(switch.frame(THREE, &frame(A, B), at(1)).target, Target::Port(TWO));
    }

    #[test]
    fn announcements_count_even_without_a_move() {
        let mut switch = switch();
        switch.frame(ONE, &frame(ALL, A), at(0));
        let mut rarp = frame(ALL, A);
        rarp[12..14].copy_from_slice(&[0x80, 0x35]);
        assert_eq!(switch.frame(ONE, &rarp, at(1)).appeared, Some(EthernetAddress(A)));
        let arp = |sender: u8, target: u8| {
            let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
            arp.extend(A);
            arp.extend([10, 0, 2, sender]);
            arp.extend([0; 6]);
            arp.extend([10, 0, 2, target]);
            [&ALL[..], &A, &[8, 6], &arp].concat()
        };
        let appeared = Some(EthernetAddress(A));
        assert_eq!(switch.frame(ONE, &arp(15, 15), at(1)).appeared, appeared);
        assert_eq!(switch.frame(ONE, &arp(15, 2), at(1)).appeared, None, "a question is none");
    }

    #[test]
    fn silence_and_pulled_cables_make_it_forget() {
        let mut switch = switch();
        switch.frame(ONE, &frame(ALL, A), at(0));
        switch.frame(TWO, &frame(ALL, B), at(100));
        assert_eq!(switch.frame(THREE, &frame(A, B), at(300)).target, Target::Others, "too old");
        switch.age(at(300));
        assert_eq!(switch.port_of(EthernetAddress(A)), None);
        assert_eq!(switch.port_of(EthernetAddress(B)), Some(THREE));
        switch.remove_port(THREE);
        assert!(switch.is_empty());
        assert_eq!(switch.frame(ONE, &frame(B, A), at(301)).target, Target::Others);
    }

    #[test]
    fn a_port_that_invents_addresses_fills_only_its_own_share() {
        let mut switch = switch();
        for n in 0..10_000u32 {
            let mut source = [2, 0, 0, 0, 0, 0];
            source[2..].copy_from_slice(&n.to_be_bytes());
            switch.frame(ONE, &frame(ALL, source), at(0));
        }
        assert_eq!(switch.len(), ADDRESSES_PER_PORT);
        switch.frame(TWO, &frame(ALL, A), at(1));
        assert_eq!(switch.frame(THREE, &frame(A, B), at(1)).target, Target::Port(TWO));
        switch.age(at(300));
        let fresh = switch.frame(ONE, &frame(ALL, [2, 9, 9, 9, 9, 9]), at(300));
        assert!(fresh.appeared.is_some(), "there is room again");
    }

    #[test]
    fn frames_that_are_none_go_nowhere() {
        let mut switch = switch();
        let from_a_group = frame(ALL, [1, 0, 0, 0, 0, 1]);
        let from_nobody = frame(ALL, [0; 6]);
        let spanning_tree = frame([1, 0x80, 0xC2, 0, 0, 0], A);
        let giant = [frame(ALL, A), vec![0; 20_000]].concat();
        for bad in [&[][..], &[0; 13], &from_a_group, &from_nobody, &spanning_tree, &giant] {
            let verdict = switch.frame(ONE, bad, at(0));
            assert_eq!(verdict, Verdict { target: Target::Nowhere, appeared: None });
        }
        assert!(switch.is_empty());
    }

    proptest! {
        #[test]
        fn the_table_stays_bounded_and_sound(
            frames in proptest::collection::vec(
                (1usize..4, any::<[u8; 2]>(), any::<[u8; 2]>(), 0u64..1000, any::<bool>()), 0..400)
        ) {
            let mut switch = switch();
            for (port, to, from, time, pull) in frames {
                let address = |tail: [u8; 2]| [tail[0] & 3, 0, 0, 0, 0, tail[1]];
                let frame = frame(address(to), address(from));
                let verdict = switch.frame(PortId(port), &frame, at(time));
                prop_assert_ne!(verdict.target, Target::Port(PortId(port)));
                if pull {
                    switch.remove_port(PortId(port));
                    switch.add_port(PortId(port));
                }
                let mut held = BTreeMap::new();
                for place in switch.places.values() {
                    *held.entry(place.port).or_insert(0) += 1;
                }
                for (port, number) in &switch.ports {
                    prop_assert_eq!(*number, held.remove(port).unwrap_or(0));
                }
                prop_assert!(held.is_empty());
            }
        }
    }
}
