//! Stream sockets by address: TCP or Unix, connecting or listening.
//!
//! Contract: [`Link::open`] reports what is wrong with an address at once; [`Link::next`] gives one
//! peer after another and retries while the other side is away.

use rustix::net::SendFlags;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(500);

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `HOST:PORT`.
    Tcp(String),
    /// A path in the file system.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An address and who calls whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// Wait for the peer instead of calling it.
    pub listen: bool,
}

impl Endpoint {
    /// Waits on a Unix socket.
    #[must_use]
    pub fn listen_unix(path: PathBuf) -> Self {
        Self { address: Address::Unix(path), listen: true }
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP, without delay.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Another handle of the same connection.
    ///
    /// # Errors
    /// The host has no file descriptor to spare.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Ends the connection: readers and writers on all handles return.
    pub fn shutdown(&self) {
        self.shut(Shutdown::Both);
    }

    /// Nothing goes out any more: the peer reads to the end of what has.
    pub fn shutdown_writes(&self) {
        self.shut(Shutdown::Write);
    }

    fn shut(&self, which: Shutdown) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(which),
            Self::Unix(stream) => stream.shutdown(which),
        };
    }
}

impl Stream {
    /// Writes as many bytes as the host's kernel takes without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes none; the connection has failed.
    pub fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = match self {
            Self::Tcp(stream) => rustix::net::send(stream, bytes, flags),
            Self::Unix(stream) => rustix::net::send(stream, bytes, flags),
        };
        Ok(sent?)
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(buffer),
            Stream::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).write(bytes),
            Stream::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Source {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Connect(Address, Mutex<Option<Stream>>),
}

/// A source of connections.
pub struct Link(Source);

impl Link {
    /// Binds or connects.
    ///
    /// # Errors
    /// The address cannot be bound, or nobody answers there.
    pub fn open(endpoint: &Endpoint) -> io::Result<Self> {
        Ok(Self(match (&endpoint.address, endpoint.listen) {
            (Address::Tcp(address), true) => Source::Tcp(TcpListener::bind(address)?),
            (Address::Unix(path), true) => Source::Unix(bind_unix(path)?, path.clone()),
            (address, false) => {
                Source::Connect(address.clone(), Mutex::new(Some(connect(address)?)))
            }
        }))
    }

    /// The next connection; waits for it.
    ///
    /// # Errors
    /// The listening socket fails.
    pub fn next(&self) -> io::Result<Stream> {
        match &self.0 {
            Source::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Source::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Source::Connect(address, first) => {
                if let Some(stream) = first.lock().ok().and_then(|mut first| first.take()) {
                    return Ok(stream);
                }
                loop {
                    std::thread::sleep(RETRY);
                    match connect(address) {
                        Ok(stream) => return Ok(stream),
                        Err(e) => log::debug!("{address}: {e}"),
                    }
                }
            }
        }
    }

    /// The TCP port that is listened on.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        match &self.0 {
            Source::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            _ => None,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Source::Unix(_, path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn connect(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
    }
}

/// Binds `path`, replacing a socket that nobody listens on any more.
///
/// # Errors
/// Somebody listens there, or the host refuses.
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let dead = UnixStream::connect(path)
                .is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
            if !dead {
                return Err(e);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_made_again() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = Address::Tcp(listener.local_addr().expect("address").to_string());
        let link = Link::open(&Endpoint { address, listen: false }).expect("connect");
        for _ in 0..2 {
            let ours = link.next().expect("connection");
            let (mut theirs, _) = listener.accept().expect("accept");
            theirs.write_all(b"x").expect("write");
            let mut byte = [0];
            (&ours).read_exact(&mut byte).expect("read");
            assert_eq!(&byte, b"x");
            ours.shutdown();
        }
    }

    #[test]
    fn what_is_wrong_with_an_address_shows_at_once() {
        let dead = Endpoint { address: Address::Unix("/no/such/socket".into()), listen: false };
        assert!(Link::open(&dead).is_err());
        let odd = Endpoint { address: Address::Tcp("127.0.0.1:http!".into()), listen: true };
        assert!(Link::open(&odd).is_err());
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).expect("bind"));
        let endpoint = Endpoint::listen_unix(path.clone());
        let link = Link::open(&endpoint).expect("the old socket is dead");
        assert!(Link::open(&endpoint).is_err(), "the new one is not");
        drop(link);
        assert!(!path.exists(), "removed at the end");
    }
}
