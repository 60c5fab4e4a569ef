//! Calling the peer.
//!
//! Contract: while no connection is up the peer is called every [`RETRY`], after a refusal every
//! [`RETRY_REFUSED`]; after a connection that lasted, at once. One line says that it is waited for.
//! A wrong pairing code is not tried again.

use super::handshake::HandshakeError;
use super::link::{self, STACK};
use super::listen::prepare;
use super::registry::Registry;
use backends::socket::{Address, Stream};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two calls.
const RETRY: Duration = Duration::from_millis(200);
/// Between two calls of a peer that will not have this side.
const RETRY_REFUSED: Duration = Duration::from_secs(2);
/// A connection that ends sooner is likely to end in the same way the next time.
const LASTED: Duration = Duration::from_secs(1);
/// A computer that does not answer is given up after this long.
const CONNECT_TIME: Duration = Duration::from_secs(2);

/// Calls `address` on a thread of its own.
pub(super) fn start(registry: &Arc<Registry>, address: Address) -> io::Result<()> {
    let registry = Arc::clone(registry);
    let thread = std::thread::Builder::new().name("channel caller".into()).stack_size(STACK);
    thread.spawn(move || call(&registry, &address))?;
    Ok(())
}

fn call(registry: &Arc<Registry>, address: &Address) {
    let mut waiting = false;
    while registry.wait_until_alone() {
        let rest = match connect(registry, address) {
            Err(e) => {
                if !std::mem::replace(&mut waiting, true) {
                    let line = format!("waiting for the peer at {address} ({e})");
                    registry.trouble(&line, &line);
                }
                RETRY
            }
            Ok(stream) => match registry.shake(&stream, true) {
                Ok(established) => {
                    waiting = false;
                    let begun = Instant::now();
                    link::run(registry, Arc::new(stream), address.to_string(), established);
                    if begun.elapsed() >= LASTED {
                        continue;
                    }
                    RETRY
                }
                Err(e) => match refused(registry, address, &e) {
                    Some(rest) => rest,
                    None => return,
                },
            },
        };
        if !registry.pause(rest) {
            return;
        }
    }
}

/// After a failed handshake: how long to wait; `None`: no more calls.
fn refused(registry: &Registry, address: &Address, e: &HandshakeError) -> Option<Duration> {
    let line = format!("{address}: {e}");
    match e {
        HandshakeError::Another => Some(RETRY),
        HandshakeError::WrongCode | HandshakeError::PairingClosed => {
            registry.trouble(&line, &format!("{line}; not calling again"));
            None
        }
        // As long as the peer is only about to start or to end.
        HandshakeError::Nobody | HandshakeError::Cut(_) => {
            registry.trouble(&e.to_string(), &line);
            Some(RETRY)
        }
        _ => {
            registry.trouble(&e.to_string(), &line);
            Some(RETRY_REFUSED)
        }
    }
}

fn connect(registry: &Registry, address: &Address) -> io::Result<Stream> {
    let stream = match address {
        Address::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        Address::Tcp(text) => {
            let secret = registry.secret();
            let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
            let connected = text.to_socket_addrs()?.find_map(|found| {
                let safe = secret.check_resolved(&found).map_err(io::Error::other);
                let stream = safe.and_then(|()| call_once(&found));
                stream.map_err(|e| last = e).ok()
            });
            Stream::Tcp(connected.ok_or(last)?)
        }
    };
    prepare(&stream)?;
    Ok(stream)
}

fn call_once(address: &SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, CONNECT_TIME)?;
    // Who calls a port of this computer again and again gets it as its own one day, and so itself.
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(io::ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}
