//! The process: one thread that waits for the host's sockets and moves bytes between them, the
//! switch and the gateway.
//!
//! Contract: it waits only in the poll, and not longer than until the next deadline of a table;
//! with nothing to do it sleeps. What is read in one turn is bounded, so that no guest and no
//! client keeps the others waiting for long.

mod cable;
mod echo;
mod tcp;
mod udp;

use crate::config::{Config, Protocol};
use crate::gateway::{Gateway, Heard};
use crate::switch::{PortId, Switch, Target};
use backends::net::capture::{Capture, Direction};
use cable::{Cable, Socket};
use mio::net::UnixStream;
use mio::{Events, Interest, Poll, Registry, Token};
use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Guests at the same time.
pub const CABLES_MAX: usize = 64;
/// The gateway's port of the switch.
const GATEWAY: PortId = PortId(0);
/// Reads from one cable before others get their turn.
const READS: usize = 4;
/// Until a host that has no file descriptor to spare is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two rounds of forgetting silent addresses; they do not count any more anyway.
const SWEEP: Duration = Duration::from_secs(30);

/// Whose event it is; the token's upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Control,
    Socket,
    Cable,
    TcpListener,
    UdpListener,
    Tcp,
    Udp,
    Echo,
}

const SIDES: [Side; 8] = [
    Side::Control,
    Side::Socket,
    Side::Cable,
    Side::TcpListener,
    Side::UdpListener,
    Side::Tcp,
    Side::Udp,
    Side::Echo,
];

impl Side {
    const SHIFT: u32 = usize::BITS - 4;

    fn token(self, id: usize) -> Token {
        Token((self as usize) << Self::SHIFT | id)
    }

    fn of(token: Token) -> (Self, usize) {
        (SIDES[token.0 >> Self::SHIFT], token.0 & ((1 << Self::SHIFT) - 1))
    }
}

/// A number that is hard to guess.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers, connections are easier to guess and work all the same.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u64::from_ne_bytes(bytes)
}

/// What the tables need to know about the rest.
struct Net<'a> {
    now: Duration,
    registry: &'a Registry,
    gateway: Ipv4Addr,
    /// The port where guests plug in, which is no service for guests: no cable leads through
    /// itself.
    own_port: Option<u16>,
    config: &'a Config,
    switch: &'a Switch,
    cables: &'a BTreeMap<PortId, Cable>,
}

/// The [`Net`] of a [`Lan`], at a time: its other fields stay free, as no function leaves them.
macro_rules! net {
    ($lan:ident, $now:ident) => {
        Net {
            now: $now,
            registry: $lan.poll.registry(),
            gateway: $lan.gateway.ip(),
            own_port: $lan.own_port,
            config: &$lan.config,
            switch: &$lan.switch,
            cables: &$lan.cables,
        }
    };
}

impl Net<'_> {
    /// Where a guest's connection to `there` goes on the host.
    fn destination(&self, there: SocketAddrV4) -> Option<SocketAddr> {
        let own = *there.ip() == self.gateway && self.own_port == Some(there.port());
        self.datagrams_to(there, None).map(|(host, _)| host).filter(|_| !own)
    }

    /// Where a guest's datagrams to `there` go, and whether that is a name server; `refused` is
    /// asked last.
    fn datagrams_to(
        &self,
        there: SocketAddrV4,
        refused: Option<SocketAddr>,
    ) -> Option<(SocketAddr, bool)> {
        if *there.ip() != self.gateway {
            return (!there.ip().is_loopback()).then_some((there.into(), false));
        }
        if there.port() == 53 {
            let resolvers = &self.config.resolvers;
            let willing = resolvers.iter().find(|resolver| Some(**resolver) != refused);
            return willing.or(resolvers.first()).map(|resolver| (*resolver, true));
        }
        let host = SocketAddr::from((Ipv4Addr::LOCALHOST, there.port()));
        self.config.host_services.then_some((host, false))
    }

    /// Bytes that the queue to `address` takes.
    fn room(&self, address: EthernetAddress) -> usize {
        let port = self.switch.port_of(address);
        port.and_then(|port| self.cables.get(&port)).map_or(cable::QUEUE, Cable::room)
    }
}

/// A forward as it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// What is forwarded.
    pub protocol: Protocol,
    /// Where clients come.
    pub host: SocketAddr,
    /// Where it leads.
    pub guest: SocketAddrV4,
}

/// The LAN, ready to run.
pub struct Lan {
    config: Config,
    poll: Poll,
    start: Instant,
    control: UnixStream,
    stop: std::os::unix::net::UnixStream,
    socket: Socket,
    cables: BTreeMap<PortId, Cable>,
    next_port: usize,
    plug_in_again: Option<Duration>,
    switch: Switch,
    gateway: Gateway,
    connections: tcp::Connections,
    flows: udp::Flows,
    pings: echo::Pings,
    capture: Option<Capture<BufWriter<File>>>,
    name: String,
    own_port: Option<u16>,
    forwards: Vec<Forwarded>,
    swept: Duration,
}

/// What was wrong with what the LAN was told.
fn wrong(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> String {
    move |e| format!("{what}: {e}")
}

impl Lan {
    /// Binds all addresses.
    ///
    /// # Errors
    /// An address or file that cannot be used, in one line.
    pub fn new(config: Config) -> Result<Self, String> {
        config.check()?;
        let poll = Poll::new().map_err(|e| e.to_string())?;
        let registry = poll.registry();
        let mut socket = Socket::bind(&config.listen).map_err(wrong(&config.listen))?;
        let name = socket.name().map_err(wrong(&config.listen))?;
        registry
            .register(socket.source(), Side::Socket.token(0), Interest::READABLE)
            .map_err(wrong(&config.listen))?;
        let (mut connections, mut flows) = (tcp::Connections::default(), udp::Flows::default());
        let mut forwards = Vec::new();
        for forward in &config.forwards {
            let guest = forward.target(&config.subnet);
            let bound = match forward.protocol {
                Protocol::Tcp => connections.forward(forward.host, guest, registry),
                Protocol::Udp => flows.forward(forward.host, guest, registry),
            };
            let host = bound.map_err(wrong(format!("{}:{}", forward.protocol, forward.host)))?;
            forwards.push(Forwarded { protocol: forward.protocol, host, guest });
        }
        let capture = match &config.pcap {
            Some(path) => Some(
                File::create(path)
                    .and_then(|file| Capture::new(BufWriter::new(file), 1))
                    .map_err(wrong(path.display()))?,
            ),
            None => None,
        };
        let (mut control, stop) = control().map_err(|e| e.to_string())?;
        registry
            .register(&mut control, Side::Control.token(0), Interest::READABLE)
            .map_err(|e| e.to_string())?;
        let mut switch = Switch::default();
        switch.add_port(GATEWAY);
        Ok(Self {
            own_port: socket.port(),
            gateway: Gateway::new(&config),
            config,
            poll,
            start: Instant::now(),
            control,
            stop,
            socket,
            cables: BTreeMap::new(),
            next_port: GATEWAY.0 + 1,
            plug_in_again: None,
            switch,
            connections,
            flows,
            pings: echo::Pings::default(),
            capture,
            name,
            forwards,
            swept: Duration::ZERO,
        })
    }

    /// Where guests plug in: `HOST:PORT` or `unix:PATH`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The forwards with their real ports.
    pub fn forwards(&self) -> &[Forwarded] {
        &self.forwards
    }

    /// A byte written here ends [`run`](Self::run); it may be handed to signal handlers.
    ///
    /// # Errors
    /// The host has no file descriptor to spare.
    pub fn stop(&self) -> io::Result<std::os::unix::net::UnixStream> {
        self.stop.try_clone()
    }

    /// Runs until it is stopped.
    ///
    /// # Errors
    /// The host's failure.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            let wait = self.wait();
            match self.poll.poll(&mut events, wait) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            for event in &events {
                let (side, id) = Side::of(event.token());
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                match side {
                    Side::Control => {
                        let mut byte = [0];
                        if self.control.read(&mut byte).is_ok() {
                            return Ok(());
                        }
                    }
                    Side::Socket => self.plug_in(),
                    Side::Cable => {
                        if let Some(cable) = self.cables.get_mut(&PortId(id)) {
                            cable.readable |= readable;
                            cable.writable |= writable;
                            cable.closing |= event.is_read_closed();
                        }
                    }
                    Side::TcpListener => self.connections.knock(id),
                    Side::UdpListener => self.flows.knock(id),
                    Side::Tcp => self.connections.event(id, readable, writable),
                    Side::Udp => self.flows.event(id),
                    Side::Echo => self.pings.event(id),
                }
            }
            self.turn();
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// How long nothing happens by itself.
    fn wait(&self) -> Option<Duration> {
        if self.cables.values().any(|cable| cable.readable) {
            return Some(Duration::ZERO);
        }
        let now = self.now();
        let tables = [
            self.connections.deadline(now),
            self.flows.deadline(now),
            self.pings.deadline(now),
            self.plug_in_again,
        ];
        // The poll counts in milliseconds and rounds up.
        tables.into_iter().flatten().min().map(|deadline| deadline.saturating_sub(now))
    }

    /// Takes new guests.
    fn plug_in(&mut self) {
        self.plug_in_again = None;
        loop {
            let stream = match self.socket.accept() {
                Ok(stream) => stream,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => {
                    // No file descriptor to spare: whoever waits is taken later.
                    log::warn!("{}: {e}", self.name);
                    self.plug_in_again = Some(self.now() + PAUSE);
                    return;
                }
            };
            if self.cables.len() >= CABLES_MAX {
                log::warn!("a guest is sent away: there are {CABLES_MAX}");
                continue;
            }
            let port = PortId(self.next_port);
            let mut cable = Cable::new(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let token = Side::Cable.token(port.0);
            if let Err(e) = self.poll.registry().register(cable.source(), token, interest) {
                log::warn!("{}: {e}", self.name);
                continue;
            }
            self.next_port += 1;
            self.switch.add_port(port);
            self.cables.insert(port, cable);
            log::info!("guest {} is plugged in", port.0);
        }
    }

    fn unplug(&mut self, port: PortId, why: &str) {
        if let Some(mut cable) = self.cables.remove(&port) {
            let _ = self.poll.registry().deregister(cable.source());
            log::info!("guest {} is unplugged: {why}; {} frames lost", port.0, cable.dropped);
        }
        self.switch.remove_port(port);
        self.connections.unblock();
    }

    /// Moves everything that can move now.
    fn turn(&mut self) {
        if self.plug_in_again.is_some_and(|at| at <= self.now()) {
            self.plug_in();
        }
        for port in self.cables.keys().copied().collect::<Vec<_>>() {
            self.read(port);
        }
        let mut frames = Vec::new();
        let now = self.now();
        let net = net!(self, now);
        self.flows.run(&net, &mut self.gateway);
        self.pings.run(&net, &mut self.gateway);
        self.connections.run(&net, &mut self.gateway, &mut frames);
        self.answer(frames, now);
        self.flush();
        if now.saturating_sub(self.swept) >= SWEEP {
            self.switch.age(now);
            self.swept = now;
        }
    }

    /// Takes what a guest has sent.
    fn read(&mut self, port: PortId) {
        // The cable is not in the table meanwhile; nothing goes back to where it came from.
        let Some(mut cable) = self.cables.remove(&port) else { return };
        let mut end = None;
        for _ in 0..READS {
            if !cable.readable || end.is_some() {
                break;
            }
            let now = self.now();
            end = cable.read(|frame| self.frame(port, frame, now)).err();
        }
        self.cables.insert(port, cable);
        if let Some(why) = end {
            self.unplug(port, &why);
        }
    }

    /// Passes a frame of a guest on.
    fn frame(&mut self, from: PortId, frame: &[u8], now: Duration) {
        let verdict = self.switch.frame(from, frame, now);
        if let Some(mac) = verdict.appeared {
            for guest in self.gateway.hosts(mac) {
                self.connections.kick(guest, now);
            }
        }
        self.capture(Direction::Outbound, frame);
        match verdict.target {
            Target::Nowhere => {}
            Target::Port(GATEWAY) => self.for_gateway(frame, now),
            Target::Port(port) => {
                if let Some(cable) = self.cables.get_mut(&port) {
                    cable.send(frame);
                }
            }
            Target::Others => {
                self.cables.values_mut().for_each(|cable| cable.send(frame));
                self.for_gateway(frame, now);
            }
        }
    }

    fn for_gateway(&mut self, frame: &[u8], now: Duration) {
        let mut news = Vec::new();
        let heard = self.gateway.frame(frame, now, &mut news);
        for guest in news {
            self.connections.kick(guest, now);
            // Also those that have nothing outstanding yet wait for the address.
            self.connections.wake(guest);
        }
        let net = net!(self, now);
        match heard {
            Heard::Nothing => {}
            Heard::Tcp { guest, there, packet, opens } => {
                self.connections.segment((guest, there), packet, opens, &net, &mut self.gateway);
            }
            Heard::Udp { guest, there, packet, payload } => {
                self.flows.datagram((guest, there), packet, payload, &net, &mut self.gateway);
            }
            Heard::Echo { guest, there, ident, seq, data } => {
                if !there.is_loopback() {
                    self.pings.request((guest, there, ident), seq, data, &net);
                }
            }
        }
    }

    /// Passes the gateway's frames on.
    fn answer(&mut self, connections: Vec<Vec<u8>>, now: Duration) {
        for frame in self.gateway.frames().into_iter().chain(connections) {
            let verdict = self.switch.frame(GATEWAY, &frame, now);
            self.capture(Direction::Inbound, &frame);
            match verdict.target {
                Target::Nowhere => {}
                Target::Port(port) => {
                    if let Some(cable) = self.cables.get_mut(&port) {
                        cable.send(&frame);
                    }
                }
                Target::Others => self.cables.values_mut().for_each(|cable| cable.send(&frame)),
            }
        }
    }

    /// Writes what waits for guests.
    fn flush(&mut self) {
        let mut gone = Vec::new();
        let mut written = false;
        for (port, cable) in &mut self.cables {
            match cable.flush() {
                Ok(some) => written |= some,
                Err(e) => gone.push((*port, e.to_string())),
            }
        }
        if written {
            self.connections.unblock();
        }
        for (port, why) in gone {
            self.unplug(port, &why);
        }
    }

    fn capture(&mut self, direction: Direction, frame: &[u8]) {
        let Some(capture) = &mut self.capture else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Err(e) = capture.packet(0, time.as_nanos() as u64, direction, frame) {
            log::warn!("the capture ends: {e}");
            self.capture = None;
        }
    }
}

/// Both ends of the pipe that stops the loop.
fn control() -> io::Result<(UnixStream, std::os::unix::net::UnixStream)> {
    let (control, stop) = std::os::unix::net::UnixStream::pair()?;
    control.set_nonblocking(true)?;
    stop.set_nonblocking(true)?;
    Ok((UnixStream::from_std(control), stop))
}
