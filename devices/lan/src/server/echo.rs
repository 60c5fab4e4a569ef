//! ICMP echo of guests to other hosts, over unprivileged ICMP sockets (icmp(7)).
//!
//! Contract: where the host does not allow such sockets (`net.ipv4.ping_group_range`), requests
//! stay unanswered, as on a network that filters them. At most [`PINGS_MAX`] identifiers at the
//! same time.

use super::{Net, Side};
use crate::gateway::Gateway;
use mio::net::UdpSocket;
use mio::{Interest, Registry};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv4Repr};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

/// Identifiers at the same time.
pub const PINGS_MAX: usize = 64;
/// How long one lasts without a request or an answer.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks for those that were idle too long.
const SWEEP: Duration = Duration::from_secs(5);

type Key = (Ipv4Addr, Ipv4Addr, u16);

struct Ping {
    key: Key,
    socket: UdpSocket,
    last: Duration,
}

/// All identifiers in use.
#[derive(Default)]
pub struct Pings {
    all: BTreeMap<usize, Ping>,
    by_key: BTreeMap<Key, usize>,
    readable: BTreeSet<usize>,
    next: usize,
    sweep: Option<Duration>,
    refused: bool,
}

impl Pings {
    /// The host's socket `id` has something.
    pub fn event(&mut self, id: usize) {
        self.readable.insert(id);
    }

    /// When [`run`](Self::run) has something to do, if nothing else happens.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        if self.readable.is_empty() { self.sweep } else { Some(now) }
    }

    /// Takes an echo request of a guest: `key` is the guest, the other host and the identifier.
    pub fn request(&mut self, key: Key, seq: u16, data: &[u8], net: &Net<'_>) {
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => match self.open(key, net) {
                Ok(id) => id,
                Err(e) => {
                    if !std::mem::replace(&mut self.refused, true) {
                        log::warn!("guests cannot ping other hosts: {e}");
                    }
                    return;
                }
            },
        };
        let ping = self.all.get_mut(&id).expect("the two tables agree");
        ping.last = net.now;
        // The host fills in the identifier and the checksum.
        let repr = Icmpv4Repr::EchoRequest { ident: 0, seq_no: seq, data };
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(
            &mut Icmpv4Packet::new_unchecked(&mut message[..]),
            &ChecksumCapabilities::default(),
        );
        if let Err(e) = ping.socket.send(&message) {
            log::debug!("an echo request to {}: {e}", key.1);
        }
    }

    fn open(&mut self, key: Key, net: &Net<'_>) -> io::Result<usize> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let protocol = Some(ipproto::ICMP);
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, protocol)?;
        rustix::net::connect(&socket, &SocketAddrV4::new(key.1, 0))?;
        let mut socket = UdpSocket::from_std(std::net::UdpSocket::from(socket));
        if self.all.len() >= PINGS_MAX {
            let oldest = self.all.iter().min_by_key(|(_, ping)| ping.last).map(|(id, _)| *id);
            self.remove(oldest.expect("a full table is not empty"), net.registry);
        }
        let id = self.next;
        net.registry.register(&mut socket, Side::Echo.token(id), Interest::READABLE)?;
        self.next += 1;
        self.all.insert(id, Ping { key, socket, last: net.now });
        self.by_key.insert(key, id);
        self.sweep.get_or_insert(net.now + SWEEP);
        Ok(id)
    }

    fn remove(&mut self, id: usize, registry: &Registry) {
        if let Some(mut ping) = self.all.remove(&id) {
            self.by_key.remove(&ping.key);
            self.readable.remove(&id);
            let _ = registry.deregister(&mut ping.socket);
        }
    }

    /// Takes the answers, and ends what was idle too long.
    pub fn run(&mut self, net: &Net<'_>, gateway: &mut Gateway) {
        let mut buffer = [0; 2048];
        for id in std::mem::take(&mut self.readable) {
            let Some(ping) = self.all.get_mut(&id) else { continue };
            // An error is the host's word on a request: the guest learns of it by silence.
            while let Ok(n) = ping.socket.recv(&mut buffer) {
                ping.last = net.now;
                let Ok(answer) = Icmpv4Packet::new_checked(&buffer[..n]) else { continue };
                let data = &buffer[answer.header_len()..n];
                if answer.msg_type() == Icmpv4Message::EchoReply
                    && data.len() <= crate::packet::DATAGRAM_MAX
                {
                    let (guest, there, ident) = ping.key;
                    let echo = (ident, answer.echo_seq_no(), data);
                    gateway.echo_reply(there, guest, echo, net.now);
                }
            }
        }
        if self.sweep.is_some_and(|at| at <= net.now) {
            let over = |ping: &Ping| net.now.saturating_sub(ping.last) >= IDLE;
            let idle = self.all.iter().filter(|(_, ping)| over(ping)).map(|(id, _)| *id);
            for id in idle.collect::<Vec<_>>() {
                self.remove(id, net.registry);
            }
            self.sweep = (!self.all.is_empty()).then_some(net.now + SWEEP);
        }
    }
}
