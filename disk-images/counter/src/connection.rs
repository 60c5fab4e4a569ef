//! One TCP socket of a listening port, from LISTEN to the end of a connection and back.

use crate::http::HttpSession;
use crate::line_protocol::LineSession;
use crate::log;
use crate::outbox::Outbox;
use crate::system::Shared;
use alloc::vec;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

/// The port of the line protocol.
pub const LINE_PORT: u16 = 7777;
/// The port of the web page.
pub const HTTP_PORT: u16 = 80;

const BUFFER_BYTES: usize = 4096;
/// How long a client may take to complete the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a silent peer is kept after keep-alive probes go unanswered.
const PEER_TIMEOUT: Duration = Duration::from_secs(120);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long an HTTP request, and the end of any connection, may take.
const PATIENCE_MICROS: u64 = 15_000_000;
/// Lines about connections on the console in one second.
const EVENTS_PER_SECOND: u32 = 20;

/// What the peer talks to.
enum Service {
    Line(LineSession),
    Http(HttpSession),
}

/// A connection under way.
struct Open {
    peer: IpEndpoint,
    service: Service,
    outbox: Outbox,
    /// When to give up, for connections that must not last.
    deadline: Option<u64>,
    is_closing: bool,
}

/// A socket of ours and the connection on it.
pub struct Connection {
    socket: SocketHandle,
    port: u16,
    open: Option<Open>,
}

/// Limits how many lines connections print.
#[derive(Default)]
pub struct EventLog {
    second: u64,
    printed: u32,
    left_out: u64,
}

impl EventLog {
    /// Whether a line may be printed at `now`; the first of a second tells how many were left out.
    fn admits(&mut self, now: u64) -> bool {
        let second = now / 1_000_000;
        if second != self.second {
            if self.left_out > 0 {
                log!("{} lines about connections left out", self.left_out);
            }
            *self = EventLog { second, printed: 0, left_out: 0 };
        }
        self.printed += 1;
        let admitted = self.printed <= EVENTS_PER_SECOND;
        self.left_out += u64::from(!admitted);
        admitted
    }
}

fn new_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
    tcp::Socket::new(buffer(), buffer())
}

fn listen(socket: &mut tcp::Socket<'static>, port: u16) {
    socket.set_timeout(Some(HANDSHAKE_TIMEOUT));
    socket.set_keep_alive(None);
    socket.set_nagle_enabled(false);
    socket.listen(port).expect("a closed socket can listen on a port that is not 0");
}

impl Connection {
    /// A socket that listens on `port`.
    pub fn new(sockets: &mut SocketSet<'static>, port: u16) -> Self {
        let mut socket = new_socket();
        listen(&mut socket, port);
        Connection { socket: sockets.add(socket), port, open: None }
    }

    /// Whether a client is connected.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins to end the connection, for power-off.
    pub fn shut_down(&mut self) {
        if let Some(open) = &mut self.open {
            open.outbox.close();
        }
    }

    /// Moves bytes between the socket and the service as far as they go. Tells whether there is
    /// something to send.
    pub fn serve(
        &mut self,
        sockets: &mut SocketSet<'static>,
        shared: &mut Shared,
        events: &mut EventLog,
    ) -> bool {
        let now = shared.clock.now();
        match sockets.get_mut::<tcp::Socket>(self.socket).state() {
            State::Listen | State::SynReceived => return false,
            State::Closed | State::TimeWait => {
                self.end(sockets, now, events);
                return true;
            }
            _ => {}
        }
        let socket = sockets.get_mut::<tcp::Socket>(self.socket);
        if self.open.is_none() {
            self.begin(socket, now, events);
        }
        let Some(open) = &mut self.open else {
            return false;
        };
        if open.deadline.is_some_and(|deadline| now >= deadline) {
            socket.abort();
            return true;
        }
        open.exchange(socket, shared, now)
    }

    fn begin(&mut self, socket: &mut tcp::Socket<'static>, now: u64, events: &mut EventLog) {
        let Some(peer) = socket.remote_endpoint() else {
            return;
        };
        socket.set_timeout(Some(PEER_TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        let (service, deadline) = match self.port {
            HTTP_PORT => (Service::Http(HttpSession::new()), Some(now + PATIENCE_MICROS)),
            _ => (Service::Line(LineSession::new()), None),
        };
        if events.admits(now) {
            log!("{peer} connected to port {}", self.port);
        }
        let outbox = Outbox::default();
        self.open = Some(Open { peer, service, outbox, deadline, is_closing: false });
    }

    /// Listens again. A socket in TIME-WAIT is replaced: its place is worth more than the wait.
    fn end(&mut self, sockets: &mut SocketSet<'static>, now: u64, events: &mut EventLog) {
        if let Some(open) = self.open.take()
            && events.admits(now)
        {
            log!("{} left port {}", open.peer, self.port);
        }
        if sockets.get::<tcp::Socket>(self.socket).state() == State::TimeWait {
            sockets.remove(self.socket);
            self.socket = sockets.add(new_socket());
        }
        listen(sockets.get_mut::<tcp::Socket>(self.socket), self.port);
    }
}

impl Open {
    fn exchange(
        &mut self,
        socket: &mut tcp::Socket<'static>,
        shared: &mut Shared,
        now: u64,
    ) -> bool {
        let mut has_sent = false;
        loop {
            let sent = self.send(socket, shared.counter.durable());
            let taken = self.receive(socket, shared);
            has_sent |= sent > 0;
            if sent + taken == 0 {
                break;
            }
        }
        let peer_is_done = !socket.may_recv();
        if self.outbox.is_empty() && (self.outbox.is_closing() || peer_is_done) && !self.is_closing
        {
            socket.close();
            self.is_closing = true;
            self.deadline = Some(now + PATIENCE_MICROS);
            has_sent = true;
        }
        has_sent
    }

    /// Hands the socket what it has room for and may be sent.
    fn send(&mut self, socket: &mut tcp::Socket<'static>, durable: u64) -> usize {
        let bytes = self.outbox.sendable(durable);
        if bytes.is_empty() {
            return 0;
        }
        let sent = socket.send_slice(bytes).unwrap_or(0);
        self.outbox.mark_sent(sent);
        sent
    }

    /// Hands the service what came, when its last answers are sent; after the last answer, throws
    /// it away.
    fn receive(&mut self, socket: &mut tcp::Socket<'static>, shared: &mut Shared) -> usize {
        let Open { outbox, service, .. } = self;
        if !outbox.is_empty() {
            return 0;
        }
        let take = |bytes: &mut [u8]| {
            let taken = match service {
                _ if outbox.is_closing() => bytes.len(),
                Service::Line(session) => session.receive(bytes, outbox, shared),
                Service::Http(session) => session.receive(bytes, outbox, shared),
            };
            (taken, taken)
        };
        if socket.can_recv() { socket.recv(take).unwrap_or(0) } else { 0 }
    }
}
