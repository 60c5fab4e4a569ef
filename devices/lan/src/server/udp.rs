//! UDP flows between guests and the host's sockets, and the DNS relay, which is such a flow to the
//! host's resolver.
//!
//! Contract: each pair of ends has a socket of the host, at most [`FLOWS_MAX`]; a flow ends when it
//! has been idle, and the one that was idle longest makes room for a new one. Datagrams that do not
//! fit a packet are dropped.

use super::{Net, Side};
use crate::gateway::Gateway;
use crate::packet::{self, DATAGRAM_MAX};
use mio::net::UdpSocket;
use mio::{Interest, Registry};
use smoltcp::wire::{EthernetAddress, EthernetProtocol, Icmpv4DstUnreachable};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Flows at the same time: with everything else, fewer descriptors than the usual limit of 1,024.
pub const FLOWS_MAX: usize = 256;
/// How long a flow lasts without a datagram (RFC 4787 4.3).
const IDLE: Duration = Duration::from_secs(120);
/// How long a name server may take.
const IDLE_DNS: Duration = Duration::from_secs(15);
/// Between two looks for flows that were idle too long.
const SWEEP: Duration = Duration::from_secs(5);
/// Datagrams taken from a socket before others get their turn.
const BURST: usize = 64;
/// First port of the gateway's own ends.
const PORTS: u16 = 49152;

type Ends = (SocketAddrV4, SocketAddrV4);

/// The other end of a flow.
enum Peer {
    /// A connected socket of its own.
    Out(UdpSocket),
    /// A client of a forward.
    Client { listener: usize, address: SocketAddr },
}

struct UdpFlow {
    ends: Ends,
    peer: Peer,
    last: Duration,
    idle: Duration,
    /// The name server that this flow asks.
    resolver: Option<SocketAddr>,
}

struct Listener {
    socket: UdpSocket,
    guest: SocketAddrV4,
}

/// All flows.
#[derive(Default)]
pub struct Flows {
    all: BTreeMap<usize, UdpFlow>,
    by_ends: BTreeMap<Ends, usize>,
    by_client: BTreeMap<(usize, SocketAddr), usize>,
    listeners: Vec<Listener>,
    /// Sockets that may have datagrams.
    readable: BTreeSet<usize>,
    knocked: BTreeSet<usize>,
    next: usize,
    sweep: Option<Duration>,
    /// Name servers that refused lately, to be asked last.
    pub refused: Option<SocketAddr>,
}

impl Flows {
    /// Listens on a port of the host for `guest`.
    pub fn forward(
        &mut self,
        host: SocketAddr,
        guest: SocketAddrV4,
        registry: &Registry,
    ) -> io::Result<SocketAddr> {
        let mut socket = UdpSocket::bind(host)?;
        let address = socket.local_addr()?;
        let token = Side::UdpListener.token(self.listeners.len());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.listeners.push(Listener { socket, guest });
        Ok(address)
    }

    /// Clients have sent something to listener `index`.
    pub fn knock(&mut self, index: usize) {
        self.knocked.insert(index);
    }

    /// The host's socket of flow `id` has something.
    pub fn event(&mut self, id: usize) {
        self.readable.insert(id);
    }

    /// When [`run`](Self::run) has something to do, if nothing else happens.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let busy = !self.readable.is_empty() || !self.knocked.is_empty();
        if busy { Some(now) } else { self.sweep }
    }

    /// Takes a datagram of a guest.
    pub fn datagram(
        &mut self,
        ends: Ends,
        packet: &[u8],
        payload: &[u8],
        net: &Net<'_>,
        gateway: &mut Gateway,
    ) {
        let id = match self.by_ends.get(&ends) {
            Some(id) => *id,
            None => match self.open(ends, net) {
                Some(Ok(id)) => id,
                Some(Err(e)) => {
                    log::debug!("a datagram to {}: {e}", ends.1);
                    let why = Icmpv4DstUnreachable::HostUnreachable;
                    return gateway.unreachable(packet, why, net.now);
                }
                None => {
                    let why = Icmpv4DstUnreachable::PortUnreachable;
                    return gateway.unreachable(packet, why, net.now);
                }
            },
        };
        let flow = self.all.get_mut(&id).expect("the two tables agree");
        flow.last = net.now;
        let sent = match &flow.peer {
            Peer::Out(socket) => socket.send(payload),
            Peer::Client { listener, address } => {
                self.listeners[*listener].socket.send_to(payload, *address)
            }
        };
        if let Err(e) = sent
            && e.kind() != io::ErrorKind::WouldBlock
        {
            // Also the host's word on an earlier datagram.
            self.failed(id, &e, net, gateway);
        }
    }

    fn open(&mut self, ends: Ends, net: &Net<'_>) -> Option<io::Result<usize>> {
        let (host, dns) = net.datagrams_to(ends.1, self.refused)?;
        let idle = if dns { IDLE_DNS } else { IDLE };
        let any = match host {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let id = self.next;
        let socket = UdpSocket::bind(any).and_then(|mut socket| {
            socket.connect(host)?;
            net.registry.register(&mut socket, Side::Udp.token(id), Interest::READABLE)?;
            Ok(socket)
        });
        let peer = match socket {
            Ok(socket) => Peer::Out(socket),
            Err(e) => return Some(Err(e)),
        };
        let resolver = dns.then_some(host);
        self.add(UdpFlow { ends, peer, last: net.now, idle, resolver }, net);
        Some(Ok(id))
    }

    fn add(&mut self, flow: UdpFlow, net: &Net<'_>) {
        if self.all.len() >= FLOWS_MAX {
            let oldest = self.all.iter().min_by_key(|(_, flow)| flow.last).map(|(id, _)| *id);
            self.remove(oldest.expect("a full table is not empty"), net.registry);
        }
        self.by_ends.insert(flow.ends, self.next);
        if let Peer::Client { listener, address } = flow.peer {
            self.by_client.insert((listener, address), self.next);
        }
        self.all.insert(self.next, flow);
        self.next += 1;
        self.sweep.get_or_insert(net.now + SWEEP);
    }

    fn remove(&mut self, id: usize, registry: &Registry) {
        let Some(flow) = self.all.remove(&id) else { return };
        self.by_ends.remove(&flow.ends);
        self.readable.remove(&id);
        match flow.peer {
            Peer::Out(mut socket) => {
                let _ = registry.deregister(&mut socket);
            }
            Peer::Client { listener, address } => {
                self.by_client.remove(&(listener, address));
            }
        }
    }

    /// A socket says that the other end is not there: the guest is told, the flow ends.
    fn failed(&mut self, id: usize, e: &io::Error, net: &Net<'_>, gateway: &mut Gateway) {
        let Some(flow) = self.all.get(&id) else { return };
        log::debug!("datagrams to {}: {e}", flow.ends.1);
        let (guest, there) = flow.ends;
        let own = matches!(flow.peer, Peer::Out(_));
        let reason = match e.kind() {
            io::ErrorKind::ConnectionRefused => Icmpv4DstUnreachable::PortUnreachable,
            io::ErrorKind::NetworkUnreachable => Icmpv4DstUnreachable::NetUnreachable,
            _ => Icmpv4DstUnreachable::HostUnreachable,
        };
        if flow.resolver.is_some() {
            self.refused = flow.resolver;
        }
        let nobody = crate::ethernet::Header {
            destination: EthernetAddress::BROADCAST,
            source: gateway.mac(),
            protocol: EthernetProtocol::Ipv4,
        };
        let quoted = packet::udp(&nobody, guest, there, &[]);
        let quoted = &quoted[crate::ethernet::HEADER..];
        gateway.unreachable(quoted, reason, net.now);
        if own {
            self.remove(id, net.registry);
        }
    }

    /// Takes what the host's sockets have, and ends what was idle too long.
    pub fn run(&mut self, net: &Net<'_>, gateway: &mut Gateway) {
        let mut buffer = [0; 64 * 1024];
        for id in std::mem::take(&mut self.readable) {
            self.receive(id, &mut buffer, net, gateway);
        }
        for index in std::mem::take(&mut self.knocked) {
            self.serve(index, &mut buffer, net, gateway);
        }
        if self.sweep.is_some_and(|at| at <= net.now) {
            let over = |flow: &UdpFlow| net.now.saturating_sub(flow.last) >= flow.idle;
            let idle = self.all.iter().filter(|(_, flow)| over(flow)).map(|(id, _)| *id);
            for id in idle.collect::<Vec<_>>() {
                self.remove(id, net.registry);
            }
            self.sweep = (!self.all.is_empty()).then_some(net.now + SWEEP);
        }
    }

    fn receive(&mut self, id: usize, buffer: &mut [u8], net: &Net<'_>, gateway: &mut Gateway) {
        for _ in 0..BURST {
            let Some(flow) = self.all.get_mut(&id) else { return };
            let Peer::Out(socket) = &flow.peer else { return };
            match socket.recv(buffer) {
                Ok(n) => {
                    flow.last = net.now;
                    deliver(flow.ends, &buffer[..n], net, gateway);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => return self.failed(id, &e, net, gateway),
            }
        }
        self.readable.insert(id);
    }

    fn serve(&mut self, index: usize, buffer: &mut [u8], net: &Net<'_>, gateway: &mut Gateway) {
        for _ in 0..BURST {
            let Some(listener) = self.listeners.get(index) else { return };
            let (n, client) = match listener.socket.recv_from(buffer) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The host's word on an answer to some client.
                Err(_) => continue,
            };
            let guest = listener.guest;
            let id = match self.by_client.get(&(index, client)) {
                Some(id) => *id,
                None => match self.client(index, client, guest, net) {
                    Some(id) => id,
                    None => continue,
                },
            };
            let flow = self.all.get_mut(&id).expect("the two tables agree");
            flow.last = net.now;
            deliver(flow.ends, &buffer[..n], net, gateway);
        }
        self.knocked.insert(index);
    }

    /// A new client of a forward: a port of the gateway stands for it.
    fn client(
        &mut self,
        listener: usize,
        address: SocketAddr,
        guest: SocketAddrV4,
        net: &Net<'_>,
    ) -> Option<usize> {
        let start = (super::random() % 0x4000) as u16;
        let here = (0..0x3FFF)
            .map(|n| SocketAddrV4::new(net.gateway, PORTS + ((start + n) & 0x3FFF)))
            .find(|here| !self.by_ends.contains_key(&(guest, *here)))?;
        let id = self.next;
        let peer = Peer::Client { listener, address };
        let ends = (guest, here);
        self.add(UdpFlow { ends, peer, last: net.now, idle: IDLE, resolver: None }, net);
        Some(id)
    }
}

fn deliver(ends: Ends, payload: &[u8], net: &Net<'_>, gateway: &mut Gateway) {
    if payload.len() > DATAGRAM_MAX {
        log::debug!("a datagram of {} bytes for {} is dropped", payload.len(), ends.0);
        return;
    }
    gateway.datagram(ends.1, ends.0, payload, net.now);
}
