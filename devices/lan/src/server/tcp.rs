//! TCP connections between guests and the host's sockets.
//!
//! Contract: a guest's SYN is answered when the host's connection stands, so that the guest sees
//! what the other end says: a refusal is a reset. Each side is read only as far as the other has
//! room. A half-closed connection stays half-closed on the other side, a reset is passed on.

use super::{Net, Side};
use crate::flow::Flow;
use crate::gateway::Gateway;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use smoltcp::socket::tcp::State;
use smoltcp::wire::Icmpv4DstUnreachable;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Connections at the same time.
pub const CONNECTIONS_MAX: usize = 512;
/// Connections accepted before others get their turn.
const ACCEPTS: usize = 64;
/// First port of the gateway's own connections (RFC 6335 6).
const PORTS: u16 = 49152;
/// Until a host that has no file descriptor to spare is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long another host may take to answer a guest's call.
const DIAL: Duration = Duration::from_secs(30);
/// The poll's resolution.
const TICK: Duration = Duration::from_millis(1);
/// Until a guest that does not answer ARP is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The guest's end, and the other end as the guest knows it.
pub type Ends = (SocketAddrV4, SocketAddrV4);

enum Stage {
    /// The host connects; the guest's SYN waits.
    Dialing(Vec<u8>),
    /// Both ends are there.
    Open(Box<Flow>),
}

struct Connection {
    ends: Ends,
    stage: Stage,
    stream: Option<TcpStream>,
    readable: bool,
    writable: bool,
    host_finished: bool,
    guest_finished: bool,
    deadline: Option<Duration>,
}

/// A port of the host that leads to a guest.
struct Listener {
    socket: TcpListener,
    guest: SocketAddrV4,
    readable: bool,
}

/// All connections.
#[derive(Default)]
pub struct Connections {
    all: BTreeMap<usize, Connection>,
    by_ends: BTreeMap<Ends, usize>,
    listeners: Vec<Listener>,
    /// Those with something to do.
    ready: BTreeSet<usize>,
    /// Those that wait for room in a guest's queue.
    blocked: BTreeSet<usize>,
    next: usize,
    accept_again: Option<Duration>,
}

impl Connections {
    /// Listens on a port of the host for `guest`.
    pub fn forward(
        &mut self,
        host: SocketAddr,
        guest: SocketAddrV4,
        registry: &Registry,
    ) -> io::Result<SocketAddr> {
        let mut socket = TcpListener::bind(host)?;
        let address = socket.local_addr()?;
        let token = Side::TcpListener.token(self.listeners.len());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.listeners.push(Listener { socket, guest, readable: false });
        Ok(address)
    }

    /// Clients wait at listener `index`.
    pub fn knock(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.readable = true;
        }
    }

    /// The host's socket of connection `id` has news.
    pub fn event(&mut self, id: usize, readable: bool, writable: bool) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.readable |= readable;
            connection.writable |= writable;
            self.ready.insert(id);
        }
    }

    /// A guest appeared (somewhere else): what it may have missed is sent again.
    pub fn kick(&mut self, guest: Ipv4Addr, now: Duration) {
        for (id, connection) in &mut self.all {
            if *connection.ends.0.ip() == guest
                && let Stage::Open(flow) = &mut connection.stage
            {
                flow.kick(now);
                self.ready.insert(*id);
            }
        }
    }

    /// A guest's hardware address is known now.
    pub fn wake(&mut self, guest: Ipv4Addr) {
        let theirs = |(id, connection): (&usize, &Connection)| {
            (*connection.ends.0.ip() == guest).then_some(*id)
        };
        self.ready.extend(self.all.iter().filter_map(theirs));
    }

    /// There is room in a guest's queue again.
    pub fn unblock(&mut self) {
        self.ready.append(&mut self.blocked);
    }

    /// When [`run`](Self::run) has something to do, if nothing else happens.
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let listening = self.accept_again.is_none() && self.listeners.iter().any(|l| l.readable);
        if listening || !self.ready.is_empty() {
            return Some(now);
        }
        let deadlines = self.all.values().filter_map(|connection| connection.deadline);
        deadlines.chain(self.accept_again).min()
    }

    /// Takes a TCP segment of a guest.
    pub fn segment(
        &mut self,
        ends: Ends,
        packet: &[u8],
        opens: bool,
        net: &Net<'_>,
        gateway: &mut Gateway,
    ) {
        if let Some(id) = self.by_ends.get(&ends) {
            let connection = self.all.get_mut(id).expect("the two tables agree");
            match &mut connection.stage {
                Stage::Dialing(syn) if opens => *syn = packet.to_vec(),
                Stage::Dialing(_) => {}
                // A guest may use the ends of a connection again that waits only for stragglers.
                Stage::Open(flow) if opens && flow.state() == State::TimeWait => {
                    let id = *id;
                    self.remove(id, net.registry);
                    return self.dial(ends, packet, net, gateway);
                }
                Stage::Open(flow) => flow.packet(packet, net.now),
            }
            self.ready.insert(*id);
        } else if opens {
            self.dial(ends, packet, net, gateway);
        } else {
            gateway.reset(packet, net.now);
        }
    }

    fn dial(&mut self, ends: Ends, packet: &[u8], net: &Net<'_>, gateway: &mut Gateway) {
        let Some(host) = net.destination(ends.1) else {
            return gateway.reset(packet, net.now);
        };
        if !self.make_room(net.registry) {
            // The guest asks again: by then there may be room.
            return;
        }
        match TcpStream::connect(host) {
            Ok(stream) => {
                let stage = Stage::Dialing(packet.to_vec());
                match self.add(ends, stage, stream, net.registry) {
                    Ok(connection) => connection.deadline = Some(net.now + DIAL),
                    Err(e) => log::warn!("a connection to {host}: {e}"),
                }
            }
            Err(e) => refuse(packet, &e, net.now, gateway),
        }
    }

    fn add(
        &mut self,
        ends: Ends,
        stage: Stage,
        mut stream: TcpStream,
        registry: &Registry,
    ) -> io::Result<&mut Connection> {
        let id = self.next;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Side::Tcp.token(id), interest)?;
        self.next += 1;
        let open = matches!(stage, Stage::Open(_));
        let connection = Connection {
            ends,
            stage,
            stream: Some(stream),
            readable: open,
            writable: open,
            host_finished: false,
            guest_finished: false,
            deadline: None,
        };
        self.by_ends.insert(ends, id);
        self.ready.insert(id);
        Ok(self.all.entry(id).insert_entry(connection).into_mut())
    }

    /// Whether one more connection fits, without the oldest one that waits only for stragglers if
    /// need be.
    fn make_room(&mut self, registry: &Registry) -> bool {
        if self.all.len() < CONNECTIONS_MAX {
            return true;
        }
        let old = self.all.iter().find(|(_, connection)| {
            matches!(&connection.stage, Stage::Open(flow) if flow.state() == State::TimeWait)
        });
        let Some(id) = old.map(|(id, _)| *id) else { return false };
        self.remove(id, registry);
        true
    }

    fn remove(&mut self, id: usize, registry: &Registry) {
        if let Some(mut connection) = self.all.remove(&id) {
            self.by_ends.remove(&connection.ends);
            self.ready.remove(&id);
            self.blocked.remove(&id);
            connection.hang_up(registry);
        }
    }

    /// Moves everything that can move. Frames for guests are appended to `frames`.
    pub fn run(&mut self, net: &Net<'_>, gateway: &mut Gateway, frames: &mut Vec<Vec<u8>>) {
        for index in 0..self.listeners.len() {
            self.accept(index, net);
        }
        for (id, connection) in &self.all {
            if connection.deadline.is_some_and(|deadline| deadline <= net.now) {
                self.ready.insert(*id);
            }
        }
        for id in std::mem::take(&mut self.ready) {
            let Some(connection) = self.all.get_mut(&id) else { continue };
            match connection.run(net, gateway, frames) {
                Outcome::Goes => {}
                Outcome::Blocked => {
                    self.blocked.insert(id);
                }
                Outcome::Over => self.remove(id, net.registry),
            }
        }
    }

    fn accept(&mut self, index: usize, net: &Net<'_>) {
        if self.accept_again.is_some_and(|at| net.now < at) || !self.listeners[index].readable {
            return;
        }
        self.accept_again = None;
        for _ in 0..ACCEPTS {
            let listener = &mut self.listeners[index];
            match listener.socket.accept() {
                Ok((stream, _)) => {
                    let guest = listener.guest;
                    self.accepted(stream, guest, net);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    listener.readable = false;
                    return;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    log::warn!("a forward cannot take a client: {e}");
                    self.accept_again = Some(net.now + PAUSE);
                    return;
                }
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, guest: SocketAddrV4, net: &Net<'_>) {
        let here = self.make_room(net.registry).then(|| self.free_port(guest, net)).flatten();
        let Some(here) = here else {
            log::warn!("a client is sent away: there are {CONNECTIONS_MAX} connections");
            return reset(stream);
        };
        let _ = stream.set_nodelay(true);
        let flow = Flow::connect(here, guest, super::random(), net.now);
        if let Err(e) = self.add((guest, here), Stage::Open(Box::new(flow)), stream, net.registry) {
            log::warn!("a forward cannot take a client: {e}");
        }
    }

    /// A port of the gateway for a connection to `guest`.
    fn free_port(&self, guest: SocketAddrV4, net: &Net<'_>) -> Option<SocketAddrV4> {
        let count = u16::MAX - PORTS;
        let start = (super::random() % u64::from(count)) as u16;
        let port = |n: u16| PORTS + ((u32::from(start) + u32::from(n)) % u32::from(count)) as u16;
        (0..count)
            .map(|n| SocketAddrV4::new(net.gateway, port(n)))
            .find(|here| !self.by_ends.contains_key(&(guest, *here)))
    }
}

enum Outcome {
    Goes,
    Blocked,
    Over,
}

impl Connection {
    fn run(&mut self, net: &Net<'_>, gateway: &mut Gateway, frames: &mut Vec<Vec<u8>>) -> Outcome {
        if let Stage::Dialing(_) = self.stage {
            match self.answered(net, gateway) {
                Some(true) => {}
                Some(false) => return Outcome::Over,
                None => return Outcome::Goes,
            }
        }
        if let Err(e) = self.relay() {
            log::debug!("the host's end of a connection to {}: {e}", self.ends.0);
            self.hang_up(net.registry);
            self.flow().abort();
        }
        if self.host_finished && self.guest_finished {
            self.hang_up(net.registry);
        }
        let guest = *self.ends.0.ip();
        let Some(header) = gateway.header_to(guest, net.now) else {
            // Nobody is there yet; the answer to ARP wakes this connection up.
            self.deadline = Some(net.now + ASK_AGAIN);
            return if self.flow().state() == State::Closed {
                Outcome::Over
            } else {
                Outcome::Goes
            };
        };
        let room = net.room(header.destination).saturating_sub(super::cable::QUEUE / 2);
        let blocked = self.flow().poll(net.now, header.bytes(), room, frames);
        if self.flow().is_over() {
            // With a stream that is still there, the guest has reset the connection.
            self.reset(net.registry);
            return Outcome::Over;
        }
        // All that could be sent is: what is due already can wait for the next tick of the poll.
        let deadline = self.flow().deadline(net.now).map(|at| at.max(net.now + TICK));
        self.deadline = deadline.filter(|_| !blocked);
        if blocked { Outcome::Blocked } else { Outcome::Goes }
    }

    fn flow(&mut self) -> &mut Flow {
        match &mut self.stage {
            Stage::Open(flow) => flow,
            Stage::Dialing(_) => unreachable!("only a connection that stands is relayed"),
        }
    }

    /// Whether the other end has taken the connection.
    fn answered(&mut self, net: &Net<'_>, gateway: &mut Gateway) -> Option<bool> {
        let stream = self.stream.as_ref().expect("a connection that is made has a stream");
        let Stage::Dialing(syn) = &self.stage else { return Some(true) };
        let failed = match stream.take_error() {
            Ok(error) => error,
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            refuse(syn, &e, net.now, gateway);
            return Some(false);
        }
        if stream.peer_addr().is_err() {
            if self.deadline.is_some_and(|deadline| deadline <= net.now) {
                refuse(syn, &io::ErrorKind::TimedOut.into(), net.now, gateway);
                return Some(false);
            }
            return None;
        }
        let _ = stream.set_nodelay(true);
        let mut flow = Flow::accept(self.ends.1, super::random(), net.now);
        flow.packet(syn, net.now);
        self.stage = Stage::Open(Box::new(flow));
        (self.readable, self.writable) = (true, true);
        Some(true)
    }

    /// Moves bytes both ways.
    fn relay(&mut self) -> io::Result<()> {
        let Stage::Open(flow) = &mut self.stage else { return Ok(()) };
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.readable && !self.host_finished && flow.can_send() {
            let read = flow.send(|room| split(stream.read(room)));
            match read {
                Some(Ok(0)) => {
                    self.host_finished = true;
                    flow.finish();
                }
                Some(Ok(_)) => {}
                Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(e)) => return Err(e),
                None => break,
            }
        }
        while self.writable && flow.can_receive() {
            match flow.receive(|bytes| split(stream.write(bytes))) {
                Some(Ok(_)) => {}
                Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Some(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(e)) => return Err(e),
                None => break,
            }
        }
        if flow.guest_has_finished() && !self.guest_finished {
            self.guest_finished = true;
            stream.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    /// Ends the host's end with a reset, if it is still there.
    fn reset(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            let _ = registry.deregister(&mut stream);
            reset(stream);
        }
    }

    /// Lets the host's end go.
    fn hang_up(&mut self, registry: &Registry) {
        if let Some(mut stream) = self.stream.take() {
            let _ = registry.deregister(&mut stream);
        }
        if let Stage::Open(flow) = &mut self.stage {
            flow.orphan();
        }
    }
}

fn split(done: io::Result<usize>) -> (usize, io::Result<usize>) {
    (*done.as_ref().unwrap_or(&0), done)
}

/// Tells a guest why its connection was not made.
fn refuse(syn: &[u8], e: &io::Error, now: Duration, gateway: &mut Gateway) {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    match e.kind() {
        NetworkUnreachable => gateway.unreachable(syn, Icmpv4DstUnreachable::NetUnreachable, now),
        HostUnreachable | TimedOut => {
            gateway.unreachable(syn, Icmpv4DstUnreachable::HostUnreachable, now);
        }
        _ => gateway.reset(syn, now),
    }
}

/// Ends a connection of the host with a reset.
fn reset(stream: TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}
