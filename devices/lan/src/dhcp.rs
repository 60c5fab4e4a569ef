//! A DHCP server (RFC 2131) that gives each hardware address the same IP address every time.
//!
//! Contract: at most [`LEASES_MAX`] leases; when all are taken, the one that ended longest ago goes to the newcomer, and
//! while none has ended nobody gets one. Answers go by [`Answer::to`] to the client's hardware address or to all.

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

    /// The address for a DHCPDISCOVER (RFC 2131 4.3.1): the client's last one, the one that it asks for, or the first
    /// free one.
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
        let seconds = |share: u32| timed.then_some(LEASE.as_secs() as u32 / 8 * share);
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
            lease_duration: seconds(8),
            renew_duration: seconds(4),
            rebind_duration: seconds(7),
            ..message.clone()
        };
        if let Some(dns) = self.dns
            && !refused
        {
            repr.dns_servers = Some([dns].into_iter().collect());
        }
        // A client with an address gets the answer there, one that cannot hear it yet by broadcast (RFC 2131 4.1).
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
