//! One TCP connection with a guest: the gateway's end of it.
//!
//! Contract: a flow is a TCP endpoint of its own, with the address that the guest believes to talk
//! to. It takes IP packets and gives IP packets in frames. Nothing is lost while the guest is away:
//! what the guest has not acknowledged is sent again, at the latest after [`REPEAT_MAX`], and at
//! once when [`Flow::kick`] says that the guest has appeared (somewhere else); a flow without
//! progress for longer than its patience is over.
//!
//! The endpoint's clock is its own: to send again at once, it is put forward to the endpoint's next
//! deadline.

use crate::ethernet::HEADER;
use crate::packet::MTU;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use std::net::SocketAddrV4;
use std::time::Duration;

/// Bytes that wait in each direction.
pub const BUFFER: usize = 256 * 1024;
/// First repetition of what was not acknowledged.
const REPEAT_FIRST: Duration = Duration::from_millis(250);
/// Longest time between two repetitions.
pub const REPEAT_MAX: Duration = Duration::from_secs(1);
/// Repetitions after a guest appeared, as long as it does not answer: the first frames may meet a
/// guest that is not yet listening.
const KICKS: [Duration; 6] = [
    Duration::from_millis(0),
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
];
/// Answers to packets of one turn; more would say the same.
const ANSWERS_MAX: usize = 16;
/// How long a guest may be silent before its connections end.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it may take to open a connection, or to end one that nobody on the host holds any more.
const PATIENCE_SHORT: Duration = Duration::from_secs(60);

/// The connection.
pub struct Flow {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// How far the endpoint's clock is ahead.
    ahead: Duration,
    /// When the guest appeared, and the next of [`KICKS`].
    kicked: Option<(Duration, usize)>,
    /// Since when something waits for an acknowledgement.
    waiting: Option<Duration>,
    /// The next repetition, and the time to the one after it.
    repeat: Option<(Duration, Duration)>,
    orphan: bool,
    /// Frames that answer packets at once, outside the endpoint's order of sending.
    answers: Vec<Vec<u8>>,
}

impl Flow {
    /// Waits for the guest's SYN as `here`.
    pub fn accept(here: SocketAddrV4, seed: u64, now: Duration) -> Self {
        let mut flow = Self::new(here, seed, now);
        flow.socket().listen(here).expect("a new socket listens, and the port is not 0");
        flow
    }

    /// Opens a connection from `here` to the guest's `there`.
    pub fn connect(here: SocketAddrV4, there: SocketAddrV4, seed: u64, now: Duration) -> Self {
        let mut flow = Self::new(here, seed, now);
        let socket = flow.sockets.get_mut::<Socket>(flow.socket);
        let connected = socket.connect(flow.interface.context(), there, here);
        connected.expect("a new socket connects, and no address or port is 0");
        flow.waiting = Some(now);
        flow
    }

    fn new(here: SocketAddrV4, seed: u64, now: Duration) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut wire = Wire { packet: None, header: [0; HEADER], room: 0, frames: &mut Vec::new() };
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|addresses| {
            let here = IpCidr::new(IpAddress::Ipv4(*here.ip()), 32);
            addresses.push(here).expect("room for one address");
        });
        let routes = interface.routes_mut();
        routes.add_default_ipv4_route(*here.ip()).expect("room for one route");
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        let (ahead, orphan) = (Duration::ZERO, false);
        let (kicked, waiting, repeat) = (None, None, None);
        let answers = Vec::new();
        Self { interface, sockets, socket, ahead, kicked, waiting, repeat, orphan, answers }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    fn peek(&self) -> &Socket<'static> {
        self.sockets.get(self.socket)
    }

    /// Where the connection stands.
    pub fn state(&self) -> State {
        self.peek().state()
    }

    /// Whether the connection is over and the guest has been told.
    pub fn is_over(&self) -> bool {
        self.state() == State::Closed && self.peek().remote_endpoint().is_none()
    }

    /// Whether the guest has sent everything and it was taken.
    pub fn guest_has_finished(&self) -> bool {
        use State::{CloseWait, Closing, LastAck, TimeWait};
        matches!(self.state(), CloseWait | Closing | LastAck | TimeWait)
            && self.peek().recv_queue() == 0
    }

    /// Whether bytes can be handed over for the guest.
    pub fn can_send(&self) -> bool {
        self.peek().can_send()
    }

    /// Whether bytes of the guest wait.
    pub fn can_receive(&self) -> bool {
        self.peek().can_recv()
    }

    /// Lets `fill` write bytes for the guest into a free stretch; it returns how many it wrote.
    pub fn send<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        self.socket().send(fill).ok()
    }

    /// Lets `take` read bytes of the guest; it returns how many it took.
    pub fn receive<R>(&mut self, take: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        self.socket().recv(take).ok()
    }

    /// No more bytes come for the guest.
    pub fn finish(&mut self) {
        self.socket().close();
    }

    /// Ends the connection with a reset.
    pub fn abort(&mut self) {
        self.socket().abort();
    }

    /// Nobody on the host holds the connection any more.
    pub fn orphan(&mut self) {
        self.orphan = true;
    }

    /// Whether something waits to be acknowledged by the guest.
    fn is_outstanding(&self) -> bool {
        use State::{Closing, FinWait1, LastAck, SynReceived, SynSent};
        self.peek().send_queue() > 0
            || matches!(self.state(), SynSent | SynReceived | FinWait1 | Closing | LastAck)
    }

    /// Takes an IP packet of the guest.
    pub fn packet(&mut self, packet: &[u8], now: Duration) {
        let before = (self.peek().send_queue(), self.state());
        let clock = instant(now + self.ahead);
        let Self { answers: frames, .. } = self;
        let mut wire = Wire { packet: Some(packet), header: [0; HEADER], room: 0, frames };
        let taken = self.interface.poll_ingress_single(clock, &mut wire, &mut self.sockets);
        debug_assert!(taken != PollIngressSingleResult::None, "the packet was there");
        self.answers.truncate(ANSWERS_MAX);
        let after = (self.peek().send_queue(), self.state());
        if after.0 < before.0 || after.1 != before.1 {
            self.waiting = None;
            self.repeat = None;
            self.kicked = None;
        }
    }

    /// The guest has appeared: what it has not acknowledged is sent again with the next polls.
    pub fn kick(&mut self, now: Duration) {
        if self.is_outstanding() {
            self.kicked = Some((now, 0));
        }
    }

    /// Appends frames for the guest to `frames`, of `room` bytes altogether and a packet; tells
    /// whether more could be sent if there was more room.
    pub fn poll(
        &mut self,
        now: Duration,
        header: [u8; HEADER],
        room: usize,
        frames: &mut Vec<Vec<u8>>,
    ) -> bool {
        frames.extend(self.answers.drain(..).map(|mut frame| {
            frame[..HEADER].copy_from_slice(&header);
            frame
        }));
        self.expire(now);
        self.repeat_what_is_due(now);
        let clock = instant(now + self.ahead);
        let mut wire = Wire { packet: None, header, room, frames };
        while self.interface.poll_egress(clock, &mut wire, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
        let short = wire.room == 0;
        if !self.is_outstanding() {
            (self.waiting, self.repeat, self.kicked) = (None, None, None);
        } else if self.waiting.is_none() {
            self.waiting = Some(now);
        }
        if self.is_outstanding() && self.repeat.is_none() {
            self.repeat = Some((now + REPEAT_FIRST, 2 * REPEAT_FIRST));
        }
        short && self.interface.poll_delay(clock, &self.sockets) == Some(NOW)
    }

    /// Ends the connection if the guest has been silent for too long.
    pub fn expire(&mut self, now: Duration) {
        let opening = matches!(self.state(), State::SynSent | State::SynReceived);
        let patience = if opening || self.orphan { PATIENCE_SHORT } else { PATIENCE };
        if self.waiting.is_some_and(|since| now.saturating_sub(since) >= patience) {
            self.abort();
        }
    }

    /// Puts the endpoint's clock forward to its deadline if a repetition is due.
    fn repeat_what_is_due(&mut self, now: Duration) {
        if !self.is_outstanding() {
            return;
        }
        let mut due = false;
        if let Some((since, next)) = self.kicked
            && now >= since + KICKS[next]
        {
            due = true;
            let passed = KICKS.iter().rposition(|kick| now >= since + *kick).unwrap_or(next);
            self.kicked = (passed + 1 < KICKS.len()).then_some((since, passed + 1));
            self.repeat = Some((now + REPEAT_FIRST, 2 * REPEAT_FIRST));
        }
        if let Some((at, pause)) = self.repeat
            && now >= at
        {
            due = true;
            self.repeat = Some((now + pause.min(REPEAT_MAX), 2 * pause.min(REPEAT_MAX)));
        }
        let clock = instant(now + self.ahead);
        if due && let Some(delay) = self.interface.poll_delay(clock, &self.sockets) {
            self.ahead += Duration::from(delay);
        }
    }

    /// When [`poll`](Self::poll) is to be called again, if nothing else happens.
    pub fn deadline(&mut self, now: Duration) -> Option<Duration> {
        if !self.answers.is_empty() {
            return Some(now);
        }
        let delay = self.interface.poll_delay(instant(now + self.ahead), &self.sockets);
        let own = delay.map(|delay| now + Duration::from(delay));
        let kick = self.kicked.map(|(since, next)| since + KICKS[next]);
        [own, kick, self.repeat.map(|(at, _)| at)].into_iter().flatten().min()
    }
}

const NOW: smoltcp::time::Duration = smoltcp::time::Duration::ZERO;

fn instant(time: Duration) -> Instant {
    Instant::from_micros(time.as_micros() as i64)
}

/// The endpoint's cable: at most one packet in, frames out.
struct Wire<'a> {
    packet: Option<&'a [u8]>,
    header: [u8; HEADER],
    room: usize,
    frames: &'a mut Vec<Vec<u8>>,
}

/// A packet for the endpoint.
struct Incoming<'a>(&'a [u8]);

/// Room for a packet of the endpoint.
struct Outgoing<'a> {
    header: &'a [u8; HEADER],
    room: &'a mut usize,
    frames: &'a mut Vec<Vec<u8>>,
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.packet.take()?;
        let Self { header, room, frames, .. } = self;
        Some((Incoming(packet), Outgoing { header, room, frames }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        let Self { header, room, frames, .. } = self;
        (*room > 0).then_some(Outgoing { header, room, frames })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; (HEADER + len).max(crate::ethernet::FRAME_MIN)];
        frame[..HEADER].copy_from_slice(self.header);
        let result = write(&mut frame[HEADER..HEADER + len]);
        *self.room = self.room.saturating_sub(frame.len());
        self.frames.push(frame);
        result
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
