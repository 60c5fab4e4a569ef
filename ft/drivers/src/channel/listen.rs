//! Waiting for peers.
//!
//! Contract: who connects costs a thread with a small stack for
//! [`HANDSHAKE_TIME`](super::HANDSHAKE_TIME) at most; when more than [`HANDSHAKES_MAX`] are at it,
//! the oldest is turned away, so that those who connect and say nothing keep nobody out. A Unix
//! socket is for its owner alone and is removed at the end.

use super::handshake::HandshakeError;
use super::link::{self, STACK};
use super::registry::Registry;
use backends::socket::{Address, Stream, bind_unix};
use rustix::net::sockopt;
use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Handshakes at a time.
const HANDSHAKES_MAX: usize = 16;
/// After the host could not accept a connection.
const BREATH: Duration = Duration::from_millis(100);
/// Data that the peer's kernel does not acknowledge, or has no room for, for this long ends a
/// connection. Heartbeats end it much earlier; this is for the kernel's sake.
const USER_TIMEOUT_MS: u32 = 10_000;
/// An idle connection is probed after this long, and then every second.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(text) => TcpListener::bind(text).map(Self::Tcp),
            Address::Unix(path) => {
                let listener = bind_unix(path)?;
                std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    fn handle(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            Self::Unix(listener, _) => listener.try_clone().map(OwnedFd::from),
        }
    }

    fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Stream::Tcp(stream), peer.to_string()))
            }
            Self::Unix(listener, path) => {
                let (stream, _) = listener.accept()?;
                Ok((Stream::Unix(stream), path.display().to_string()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Sets what the channel needs of a TCP socket.
pub(super) fn prepare(stream: &Stream) -> io::Result<()> {
    if let Stream::Tcp(stream) = stream {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(1))?;
        sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT_MS)?;
    }
    Ok(())
}

/// Handshakes that are going on, by order of arrival.
#[derive(Default)]
struct Handshakes(Mutex<BTreeMap<u64, Arc<Stream>>>);

impl Handshakes {
    fn with<R>(&self, what: impl FnOnce(&mut BTreeMap<u64, Arc<Stream>>) -> R) -> R {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, number: u64, stream: &Arc<Stream>) {
        self.with(|going_on| {
            if going_on.len() >= HANDSHAKES_MAX
                && let Some((_, oldest)) = going_on.pop_first()
            {
                oldest.shutdown();
            }
            going_on.insert(number, Arc::clone(stream));
        });
    }

    fn end(&self, number: u64) {
        self.with(|going_on| drop(going_on.remove(&number)));
    }
}

/// Listens at `address` on a thread of its own; gives the TCP port.
pub(super) fn start(registry: &Arc<Registry>, address: &Address) -> io::Result<Option<u16>> {
    let listener = Listener::bind(address)?;
    let port = match &listener {
        Listener::Tcp(listener) => Some(listener.local_addr()?.port()),
        Listener::Unix(..) => None,
    };
    registry.listens(listener.handle()?);
    let registry = Arc::clone(registry);
    let thread = std::thread::Builder::new().name("channel listener".into()).stack_size(STACK);
    thread.spawn(move || listen(&registry, &listener))?;
    Ok(port)
}

fn listen(registry: &Arc<Registry>, listener: &Listener) {
    let handshakes = Arc::new(Handshakes::default());
    let mut number = 0;
    while !registry.is_stopped() {
        match listener.accept() {
            Ok((stream, peer)) if !registry.is_stopped() => {
                number += 1;
                let stream = Arc::new(stream);
                handshakes.begin(number, &stream);
                welcome(registry, &handshakes, number, stream, peer);
            }
            Ok(_) => break,
            Err(e) => {
                if registry.pause(BREATH) {
                    registry.trouble(&e.to_string(), &format!("cannot accept connections: {e}"));
                }
            }
        }
    }
    handshakes.with(|going_on| going_on.values().for_each(|stream| stream.shutdown()));
}

/// Talks to one caller on a thread of its own.
fn welcome(
    registry: &Arc<Registry>,
    handshakes: &Arc<Handshakes>,
    number: u64,
    stream: Arc<Stream>,
    peer: String,
) {
    let (theirs, going_on) = (Arc::clone(registry), Arc::clone(handshakes));
    let body = move || {
        let result = prepare(&stream).map_err(HandshakeError::from);
        let result = result.and_then(|()| theirs.shake(&stream, false));
        going_on.end(number);
        match result {
            Ok(established) => link::run(&theirs, stream, peer, established),
            // Somebody looked whether the port is open; or both sides called at the same time.
            Err(e @ (HandshakeError::Nobody | HandshakeError::Another)) => {
                log::debug!("{peer}: {e}");
            }
            Err(e) => theirs.trouble(&e.to_string(), &format!("turned {peer} away: {e}")),
        }
    };
    let thread = std::thread::Builder::new().name("channel".into()).stack_size(STACK);
    if let Err(e) = thread.spawn(body) {
        handshakes.end(number);
        registry.trouble("threads", &format!("no thread for a connection: {e}"));
    }
}
