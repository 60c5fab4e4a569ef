//! Guests' cables: where they are plugged in, and one of them.

use crate::framing::{FrameQueue, FrameReader, Intake, Overlong};
use backends::socket::{Address, bind_unix};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Bytes that wait for a guest that is slow.
pub const QUEUE: usize = 1024 * 1024;
/// A guest's computer that says nothing for about this long three times over is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where guests plug in.
pub enum Socket {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a Unix socket, which is removed in the end.
    Unix(UnixListener, PathBuf),
}

impl Socket {
    /// Binds `address`.
    pub fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(TcpListener::from_std(listener)))
            }
            Address::Unix(path) => {
                let listener = bind_unix(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener), path.clone()))
            }
        }
    }

    /// The address as a guest would name it.
    pub fn name(&self) -> io::Result<String> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.to_string()),
            Self::Unix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }

    /// The TCP port.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix(..) => None,
        }
    }

    /// For the event loop.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix(listener, _) => listener,
        }
    }

    /// The next guest.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
                rustix::net::sockopt::set_tcp_keepidle(&stream, KEEP_ALIVE)?;
                rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEP_ALIVE)?;
                rustix::net::sockopt::set_tcp_keepcnt(&stream, 2)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener, _) => Ok(Stream::Unix(listener.accept()?.0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A connected socket.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// For the event loop.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A guest's cable.
pub struct Cable {
    stream: Stream,
    reader: FrameReader,
    queue: FrameQueue,
    /// Whether reading may give something.
    pub readable: bool,
    /// Whether writing may take something.
    pub writable: bool,
    /// Whether the other side has said that it sends no more.
    pub closing: bool,
    /// Frames that found no room.
    pub dropped: u64,
}

impl Cable {
    /// A cable over `stream`.
    pub fn new(stream: Stream) -> Self {
        let (reader, queue) = (FrameReader::default(), FrameQueue::new(QUEUE));
        Self { stream, reader, queue, readable: true, writable: true, closing: false, dropped: 0 }
    }

    /// For the event loop.
    pub fn source(&mut self) -> &mut dyn Source {
        self.stream.source()
    }

    /// Reads once and gives each frame to `take`; tells whether the cable is still plugged in.
    pub fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), String> {
        match self.reader.fill(&mut self.stream) {
            // The edge of the next bytes comes after this read; that of the end may have come with
            // these.
            Ok(Intake::Some { full }) => self.readable = full || self.closing,
            Ok(Intake::Later) => self.readable = false,
            Ok(Intake::End) => return Err("it left".into()),
            Err(e) => return Err(e.to_string()),
        }
        loop {
            match self.reader.next_frame() {
                Ok(Some(frame)) => take(frame),
                Ok(None) => return Ok(()),
                Err(Overlong(len)) => return Err(format!("it announced a frame of {len} bytes")),
            }
        }
    }

    /// Sends a frame, if there is room.
    pub fn send(&mut self, frame: &[u8]) {
        if !self.queue.push(frame) {
            self.dropped += 1;
        }
    }

    /// Bytes for which there is room.
    pub fn room(&self) -> usize {
        self.queue.room()
    }

    /// Writes what waits, as far as the guest takes it; tells whether anything was written.
    pub fn flush(&mut self) -> io::Result<bool> {
        if self.queue.is_empty() || !self.writable {
            return Ok(false);
        }
        let before = self.queue.len();
        self.queue.flush(&mut self.stream)?;
        self.writable = self.queue.is_empty();
        Ok(self.queue.len() < before)
    }
}
