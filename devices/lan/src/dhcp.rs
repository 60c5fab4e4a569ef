//! A DHCP server (RFC 2131) that gives each hardware address the same IP address every time.
//!
//! Contract: at most [`LEASES_MAX`] leases; when all are taken, the one that ended longest ago goes
//! to the newcomer, and while none has ended nobody gets one. Answers go by [`Answer::to`] to the
//! client's hardware address or to all.

use crate::config::Subnet;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Leases that the server keeps.
pub const LEASES_MAX: usize = 1024;
/// How long a lease holds.
pub const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an address that was offered is kept for the client.
const OFFER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Lease {
    mac: EthernetAddress,
    ends: Duration,
}

/// A message for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The client's hardware address, or all.
    pub mac: EthernetAddress,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    subnet: Subnet,
    dns: Option<Ipv4Addr>,
    leases: BTreeMap<Ipv4Addr, Lease>,
}

impl Server {
    /// A server of `subnet` that names `dns` as the name server.
    pub fn new(subnet: Subnet, dns: Option<Ipv4Addr>) -> Self {
        Self { subnet, dns, leases: BTreeMap::new() }
    }

    /// Takes the payload of a datagram to the server's port.
    pub fn message(&mut self, payload: &[u8], now: Duration) -> Option<Answer> {
        let packet = DhcpPacket::new_checked(payload).ok()?;
        let message = DhcpRepr::parse(&packet).ok()?;
        let mac = message.client_hardware_address;
        if !mac.is_unicast() || message.relay_agent_ip != Ipv4Addr::UNSPECIFIED {
            return None;
        }
        match message.message_type {
            DhcpMessageType::Discover => {
                let ip = self.address_for(&message, now)?;
                self.leases.insert(ip, Lease { mac, ends: now + OFFER });
                Some(self.answer(&message, DhcpMessageType::Offer, ip))
            }
            DhcpMessageType::Request => self.request(&message, now),
            DhcpMessageType::Inform => {
                Some(self.answer(&message, DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED))
            }
            DhcpMessageType::Release => {
                // The address stays the client's as long as nobody needs it (RFC 2131 4.3.4).
                if let Some(lease) = self.leases.get_mut(&message.client_ip)
                    && lease.mac == mac
                {
                    lease.ends = now;
                }
                None
            }
            DhcpMessageType::Decline => {
                // Somebody else has it (RFC 2131 4.3.3): nobody gets it until the lease's end.
                let ip = message.requested_ip?;
                let lease = self.leases.get_mut(&ip).filter(|lease| lease.mac == mac)?;
                *lease = Lease { mac: EthernetAddress([0; 6]), ends: now + LEASE };
                None
            }
            _ => None,
        }
    }

    /// DHCPREQUEST (RFC 2131 4.3.2).
    fn request(&mut self, message: &DhcpRepr<'_>, now: Duration) -> Option<Answer> {
        let gateway = self.subnet.gateway();
        if message.server_identifier.is_some_and(|server| server != gateway) {
            // The client took another server's offer.
            return None;
        }
        let mac = message.client_hardware_address;
        let wanted = message.requested_ip.unwrap_or(message.client_ip);
        let theirs = match self.leases.get(&wanted) {
            Some(lease) => lease.mac == mac,
            // A client that comes back after this server was started again keeps its address.
            None => self.is_free(wanted) && self.make_room(now),
        };
        if !theirs {
            return Some(self.answer(message, DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED));
        }
        // A client has one address: another one that it held is free again.
        self.leases.retain(|ip, lease| lease.mac != mac || *ip == wanted);
        self.leases.insert(wanted, Lease { mac, ends: now + LEASE });
        Some(self.answer(message, DhcpMessageType::Ack, wanted))
    }

    /// Whether `ip` can be leased and is not.
    fn is_free(&self, ip: Ipv4Addr) -> bool {
        let leased = self.subnet.contains(ip) && ip >= self.subnet.first_guest();
        leased && !self.leases.contains_key(&ip)
    }

    /// Forgets the oldest lease that is over, if there are too many.
    fn make_room(&mut self, now: Duration) -> bool {
        if self.leases.len() < LEASES_MAX {
            return true;
        }
        self.oldest(now).is_some_and(|ip| self.leases.remove(&ip).is_some())
    }

    fn oldest(&self, now: Duration) -> Option<Ipv4Addr> {
        let over = self.leases.iter().filter(|(_, lease)| lease.ends <= now);
        over.min_by_key(|(_, lease)| lease.ends).map(|(ip, _)| *ip)
    }

    /// The address for a DHCPDISCOVER (RFC 2131 4.3.1): the client's last one, the one that it asks
    /// for, or the first free one.
    fn address_for(&mut self, message: &DhcpRepr<'_>, now: Duration) -> Option<Ipv4Addr> {
        let mac = message.client_hardware_address;
        let last = self.leases.iter().find(|(_, lease)| lease.mac == mac).map(|(ip, _)| *ip);
        if last.is_some() {
            return last;
        }
        if !self.make_room(now) {
            return None;
        }
        let wanted = message.requested_ip.filter(|ip| self.is_free(*ip));
        let free = || self.subnet.leases().find(|ip| !self.leases.contains_key(ip));
        wanted.or_else(free).or_else(|| self.oldest(now))
    }

    fn answer(&self, message: &DhcpRepr<'_>, kind: DhcpMessageType, ip: Ipv4Addr) -> Answer {
        let gateway = self.subnet.gateway();
        let refused = kind == DhcpMessageType::Nak;
        let timed = !refused && ip != Ipv4Addr::UNSPECIFIED;
        let mut repr = DhcpRepr {
            message_type: kind,
            client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { message.client_ip },
            your_ip: ip,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: (!refused).then_some(gateway),
            subnet_mask: (!refused).then_some(self.subnet.mask()),
            broadcast: message.broadcast || refused,
            requested_ip: None,
            client_identifier: message.client_identifier,
            server_identifier: Some(gateway),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: timed.then_some(LEASE.as_secs() as u32),
            // The client takes 1/2 and 7/8 of the lease (RFC 2131 4.4.5).
            renew_duration: None,
            rebind_duration: None,
            ..message.clone()
        };
        if let Some(dns) = self.dns
            && !refused
        {
            repr.dns_servers = Some([dns].into_iter().collect());
        }
        // A client with an address gets the answer there, one that cannot hear it yet by broadcast
        // (RFC 2131 4.1).
        let known = !refused && message.client_ip != Ipv4Addr::UNSPECIFIED;
        let (mac, to) = match known {
            true => (message.client_hardware_address, message.client_ip),
            false if repr.broadcast => (EthernetAddress::BROADCAST, Ipv4Addr::BROADCAST),
            false => (message.client_hardware_address, ip),
        };
        let mut payload = vec![0; repr.buffer_len().max(300)];
        let written = repr.emit(&mut DhcpPacket::new_unchecked(&mut payload[..]));
        written.expect("the buffer has the length that the message asks for");
        Answer { mac, to: SocketAddrV4::new(to, DHCP_CLIENT_PORT), payload }
    }
}

/// The server's port.
pub const PORT: u16 = DHCP_SERVER_PORT;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    const DAY: Duration = LEASE;

    fn server() -> Server {
        Server::new(Subnet::default(), Some(Ipv4Addr::new(10, 0, 2, 2)))
    }

    fn ip(host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 2, host)
    }

    /// A client's message (RFC 2131 2), with options.
    fn message(mac: EthernetAddress, kind: u8, ciaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0, 0xCA, 0xFE, 0xBA, 0xBE, 0, 3, 0, 0];
        bytes.extend(ciaddr);
        bytes.resize(28, 0);
        bytes.extend(mac.0);
        bytes.resize(236, 0);
        bytes.extend([0x63, 0x82, 0x53, 0x63, 53, 1, kind]);
        bytes.extend(options);
        bytes.push(255);
        bytes
    }

    /// The value of an option of an answer.
    fn option(payload: &[u8], wanted: u8) -> Option<&[u8]> {
        let mut rest = &payload[240..];
        while let [code, len, tail @ ..] = rest {
            let (value, after) = tail.split_at(usize::from(*len));
            if *code == wanted {
                return Some(value);
            }
            if *code == 255 {
                return None;
            }
            rest = after;
        }
        None
    }

    fn mac(n: u16) -> EthernetAddress {
        let [a, b] = n.to_be_bytes();
        EthernetAddress([2, 0, 0, 0, a, b])
    }

    /// An address for `mac`, by all four messages.
    fn lease(server: &mut Server, mac: EthernetAddress, now: Duration) -> Option<Ipv4Addr> {
        let offer = server.message(&message(mac, 1, [0; 4], &[]), now)?;
        let offered: [u8; 4] = offer.payload[16..20].try_into().expect("four bytes");
        let mut options = vec![50, 4];
        options.extend(offered);
        options.extend([54, 4, 10, 0, 2, 2]);
        let ack = server.message(&message(mac, 3, [0; 4], &options), now)?;
        assert_eq!(option(&ack.payload, 53), Some(&[5][..]));
        assert_eq!(ack.payload[16..20], offered);
        Some(offered.into())
    }

    #[test]
    fn the_bytes_of_an_exchange() {
        let mut server = server();
        let offer = server.message(&message(MAC, 1, [0; 4], &[55, 3, 1, 3, 6]), DAY);
        let offer = offer.expect("an offer");
        assert_eq!((offer.mac, offer.to), (MAC, SocketAddrV4::new(ip(15), 68)));
        let payload = &offer.payload;
        assert_eq!(payload[..12], [2, 1, 6, 0, 0xCA, 0xFE, 0xBA, 0xBE, 0, 3, 0, 0]);
        assert_eq!(payload[12..28], [0, 0, 0, 0, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(payload[28..34], MAC.0);
        assert_eq!(payload[236..240], [0x63, 0x82, 0x53, 0x63]);
        for (code, value) in [
            (53, &[2][..]),
            (54, &[10, 0, 2, 2]),
            (1, &[255, 255, 255, 0]),
            (3, &[10, 0, 2, 2]),
            (6, &[10, 0, 2, 2]),
            (51, &86_400u32.to_be_bytes()),
        ] {
            assert_eq!(option(payload, code), Some(value), "option {code}");
        }
        assert_eq!(lease(&mut server, MAC, DAY), Some(ip(15)));
        // Renewal, straight from the client's address.
        let ack = server.message(&message(MAC, 3, [10, 0, 2, 15], &[]), DAY).expect("an answer");
        assert_eq!(option(&ack.payload, 53), Some(&[5][..]));
        assert_eq!((ack.mac, *ack.to.ip()), (MAC, ip(15)));
    }

    #[test]
    fn each_card_keeps_its_address_and_strangers_are_refused() {
        let mut server = server();
        assert_eq!(lease(&mut server, MAC, DAY), Some(ip(15)));
        assert_eq!(lease(&mut server, mac(1), DAY), Some(ip(16)));
        assert_eq!(lease(&mut server, MAC, 3 * DAY), Some(ip(15)), "even after its end");
        server.message(&message(MAC, 7, [10, 0, 2, 15], &[54, 4, 10, 0, 2, 2]), 3 * DAY);
        assert_eq!(
            lease(&mut server, mac(2), 3 * DAY),
            Some(ip(17)),
            "a released one stays its own"
        );
        assert_eq!(lease(&mut server, MAC, 3 * DAY), Some(ip(15)));
        for taken in [15, 2, 255, 3] {
            let wants = message(mac(9), 3, [0; 4], &[50, 4, 10, 0, 2, taken]);
            let nak = server.message(&wants, 3 * DAY).expect("an answer");
            assert_eq!(option(&nak.payload, 53), Some(&[6][..]), "10.0.2.{taken}");
            assert_eq!(nak.mac, EthernetAddress::BROADCAST);
            assert_eq!(option(&nak.payload, 3), None);
        }
        // A client of an earlier run of this server keeps what it has.
        let ack = server.message(&message(mac(9), 3, [10, 0, 2, 77], &[]), 3 * DAY);
        assert_eq!(option(&ack.expect("an answer").payload, 53), Some(&[5][..]));
        let other_server = message(mac(8), 3, [0; 4], &[54, 4, 10, 0, 2, 9, 50, 4, 10, 0, 2, 40]);
        assert_eq!(server.message(&other_server, 3 * DAY), None);
    }

    #[test]
    fn a_declined_address_is_left_alone() {
        let mut server = server();
        assert_eq!(lease(&mut server, MAC, DAY), Some(ip(15)));
        let decline = message(MAC, 4, [0; 4], &[50, 4, 10, 0, 2, 15]);
        assert_eq!(server.message(&decline, DAY), None);
        assert_eq!(lease(&mut server, MAC, DAY), Some(ip(16)));
        assert_eq!(lease(&mut server, mac(1), DAY), Some(ip(17)));
    }

    #[test]
    fn the_network_fills_up_and_old_leases_make_room() {
        let mut server = server();
        for n in 0..240 {
            assert_eq!(lease(&mut server, mac(n), DAY), Some(ip(15 + n as u8)));
        }
        assert_eq!(lease(&mut server, MAC, DAY), None, "all are taken");
        assert_eq!(lease(&mut server, mac(5), DAY + DAY / 2), Some(ip(20)), "but for their owners");
        assert_eq!(lease(&mut server, MAC, 2 * DAY), Some(ip(15)), "the first one is over");
        assert_eq!(lease(&mut server, mac(5), 2 * DAY), Some(ip(20)));
    }

    #[test]
    fn a_flood_of_cards_is_bounded() {
        let mut server = Server::new("10.0.0.0/16".parse().expect("a network"), None);
        for n in 0..3000 {
            server.message(&message(mac(n), 1, [0; 4], &[]), DAY);
        }
        assert_eq!(server.leases.len(), LEASES_MAX);
        let later = DAY + OFFER;
        let offer = server.message(&message(MAC, 1, [0; 4], &[]), later).expect("an offer");
        assert_eq!(option(&offer.payload, 6), None, "no name server");
        assert_eq!(server.leases.len(), LEASES_MAX);
    }

    proptest! {
        #[test]
        fn hostile_messages_are_harmless(
            kind in 0u8..12, ciaddr in any::<[u8; 4]>(), cut in 0usize..400,
            options in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut server = server();
            for kind in [1, kind] {
                let mut bytes = message(MAC, kind, ciaddr, &options);
                bytes.truncate(cut);
                if let Some(answer) = server.message(&bytes, DAY) {
                    prop_assert!(answer.payload.len() <= crate::packet::DATAGRAM_MAX);
                }
            }
            prop_assert!(server.leases.keys().all(|ip| Subnet::default().contains(*ip)));
        }
    }
}
