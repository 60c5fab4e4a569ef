//! A disk on an NBD server: `nbd://HOST:PORT/EXPORT`.
//!
//! Contract: as [`Disk`]. Each request has a time limit. A connection that fails is made again and
//! the request sent again (all requests may be repeated), until [`Patience::total`] is over; then
//! the request fails, and the guest sees a disk error. What the server itself refuses fails at
//! once.
//!
//! A server that is started again may have lost what it had in its cache. So writes that were not
//! yet flushed are kept, and sent again on each new connection before anything else: a flush that
//! succeeds speaks for all writes before it, on whatever connection they were made. When they take
//! more than 32 MiB, the disk flushes by itself.

mod address;
mod protocol;
#[cfg(test)]
mod tests;

pub use address::NbdAddress;

use super::fence::Fence;
use super::raw::{Access, MAX_SECTORS};
use super::{Disk, SECTOR, check_range};
use protocol::{Command, Export};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Most bytes of writes that are not flushed.
const KEPT_BYTES: usize = 32 << 20;

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, or the answer to one piece of a request.
    pub one: Duration,
    /// For all attempts at a request.
    pub total: Duration,
    /// Between two attempts.
    pub pause: Duration,
}

impl Patience {
    /// Less than the 30 seconds that guests wait for a disk.
    pub const DEFAULT: Self = Self {
        one: Duration::from_secs(6),
        total: Duration::from_secs(20),
        pause: Duration::from_millis(250),
    };
}

/// An export.
#[derive(Debug)]
pub struct NbdDisk {
    address: NbdAddress,
    patience: Patience,
    access: Access,
    export: Export,
    link: Option<Connection>,
    /// Writes since the last flush, in their order: byte offset and data.
    unflushed: Vec<(u64, Vec<u8>)>,
    unflushed_bytes: usize,
    /// Asked before each write, also when it is sent again.
    fence: Option<Fence>,
    /// Of who writes, on this computer.
    lock: Option<File>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Of the last request.
    cookie: u64,
}

/// A stream that is used until a deadline.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(late()) } else { Ok(Some(left)) }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")
}

fn in_time(result: io::Result<usize>) -> io::Result<usize> {
    result.map_err(|e| if e.kind() == io::ErrorKind::WouldBlock { late() } else { e })
}

impl Read for Timed<'_> {
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        in_time(self.stream.read(data))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        in_time(self.stream.write(data))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why an attempt failed.
enum Failed {
    /// The server has refused; the connection is sound.
    Refused(io::Error),
    /// The connection is of no use any more.
    Lost(io::Error),
}

impl From<io::Error> for Failed {
    fn from(e: io::Error) -> Self {
        Self::Lost(e)
    }
}

impl Connection {
    fn open(address: &NbdAddress, limit: Duration) -> io::Result<(Self, Export)> {
        let deadline = Instant::now() + limit;
        let mut failed = io::Error::other("the name has no address");
        for to in (address.host.as_str(), address.port).to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            match TcpStream::connect_timeout(&to, left) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let mut timed = Timed { stream: &stream, deadline };
                    let export = protocol::negotiate(&mut timed, &address.export);
                    let export = export.map_err(|e| match e.kind() {
                        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "it hung up"),
                        _ => e,
                    })?;
                    return Ok((Self { stream, cookie: 0 }, export));
                }
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// One request of at most a piece.
    fn request(
        &mut self,
        (command, fua): (Command, bool),
        place: (u64, u32),
        data: Data<'_>,
        limit: Duration,
    ) -> Result<(), Failed> {
        self.cookie += 1;
        let mut timed = Timed { stream: &self.stream, deadline: Instant::now() + limit };
        let sent = if let Data::Out(bytes) = &data { bytes } else { &[][..] };
        protocol::send(&mut timed, command, fua, self.cookie, place, sent)?;
        match protocol::reply(&mut timed, self.cookie)? {
            0 => {}
            // It leaves its clients in a moment; the next connection may do better.
            108 => return Err(Failed::Lost(protocol::refusal(108))),
            error => return Err(Failed::Refused(protocol::refusal(error))),
        }
        if let Data::In(bytes) = data {
            timed.read_exact(bytes)?;
        }
        Ok(())
    }
}

/// Where the data of a request are.
enum Data<'a> {
    None,
    In(&'a mut [u8]),
    Out(&'a [u8]),
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A courtesy; it never waits.
        let mut timed =
            Timed { stream: &self.stream, deadline: Instant::now() + Duration::from_millis(10) };
        let _ = protocol::send(&mut timed, Command::Disconnect, false, 0, (0, 0), &[]);
    }
}

impl NbdDisk {
    /// Opens the export at `address`. With [`Access::ReadOnly`] nothing is written until
    /// [`Disk::make_writable`].
    ///
    /// # Errors
    /// The server cannot be reached within [`Patience::one`], does not speak NBD, or has no such
    /// export, and what makes an export no disk for a guest. The text does not name the address.
    pub fn open(address: &NbdAddress, access: Access, patience: Patience) -> io::Result<Self> {
        let (link, export) = Connection::open(address, patience.one)?;
        if export.size < SECTOR as u64 {
            return Err(io::Error::other("the export is empty: a disk needs at least 512 bytes"));
        }
        if export.size / SECTOR as u64 > MAX_SECTORS {
            return Err(io::Error::other(
                "the export is too large: a disk has at most 2^48 sectors",
            ));
        }
        if access == Access::ReadWrite && export.read_only {
            return Err(io::Error::other("the export is read-only"));
        }
        Ok(Self {
            address: address.clone(),
            patience,
            access,
            export,
            link: Some(link),
            unflushed: Vec::new(),
            unflushed_bytes: 0,
            fence: None,
            lock: None,
        })
    }

    /// A file of this computer that stands for the export: who writes to the export has it locked.
    /// A reader locks it when it becomes a writer, and does not mind if it cannot: it has won the
    /// arbiter.
    ///
    /// # Errors
    /// Another process has it locked.
    pub fn lock(&mut self, file: File) -> io::Result<()> {
        if self.access == Access::ReadWrite {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let text = "another process of this computer writes to it";
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
                }
                Err(TryLockError::Error(e)) => log::debug!("{}: no lock: {e}", self.address),
                Ok(()) => {}
            }
        }
        self.lock = Some(file);
        Ok(())
    }

    /// Writes whole sectors at `lba`, durably when this returns (FUA).
    ///
    /// # Errors
    /// As [`Disk::write`] and [`Disk::flush`].
    pub fn write_through(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        self.write_pieces(lba, data, self.export.fua)?;
        if self.export.fua { Ok(()) } else { self.flush() }
    }

    fn write_pieces(&mut self, lba: u64, data: &[u8], fua: bool) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        if self.access == Access::ReadOnly {
            return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "opened for reading"));
        }
        let mut offset = lba * SECTOR as u64;
        for piece in data.chunks(self.export.piece as usize) {
            if self.unflushed_bytes + piece.len() > KEPT_BYTES {
                self.flush()?;
            }
            let place = (offset, piece.len() as u32);
            let fence = self.fence.clone();
            self.attempt(|link, limit| {
                leave(fence.as_ref())?;
                link.request((Command::Write, fua), place, Data::Out(piece), limit)
            })?;
            // A durable write is kept too when older ones may be sent again over it.
            if self.export.flush && (!fua || !self.unflushed.is_empty()) {
                self.unflushed.push((offset, piece.to_vec()));
                self.unflushed_bytes += piece.len();
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// Makes a connection on which all that was written before is there.
    fn connected(&mut self) -> Result<&mut Connection, Failed> {
        if self.link.is_none() {
            let (mut link, export) = Connection::open(&self.address, self.patience.one)?;
            if export != self.export {
                return Err(Failed::Lost(io::Error::other("the server has another export there")));
            }
            for (offset, data) in &self.unflushed {
                leave(self.fence.as_ref())?;
                let place = (*offset, data.len() as u32);
                link.request((Command::Write, false), place, Data::Out(data), self.patience.one)?;
            }
            log::info!("{}: connected again", self.address);
            self.link = Some(link);
        }
        Ok(self.link.as_mut().expect("as above"))
    }

    /// Tries a request until it is answered, or patience is over.
    fn attempt(
        &mut self,
        mut request: impl FnMut(&mut Connection, Duration) -> Result<(), Failed>,
    ) -> io::Result<()> {
        let deadline = Instant::now() + self.patience.total;
        let limit = self.patience.one;
        let mut warned = false;
        loop {
            let e = match self.connected().and_then(|link| request(link, limit)) {
                Ok(()) => return Ok(()),
                Err(Failed::Refused(e)) => return Err(e),
                Err(Failed::Lost(e)) => e,
            };
            self.link = None;
            if Instant::now() + self.patience.pause >= deadline {
                return Err(io::Error::new(e.kind(), format!("{}: {e}", self.address)));
            }
            if !std::mem::replace(&mut warned, true) {
                log::warn!("{}: {e}; trying again", self.address);
            }
            std::thread::sleep(self.patience.pause);
        }
    }
}

/// Waits for the leave to write.
fn leave(fence: Option<&Fence>) -> Result<(), Failed> {
    fence.map_or(Ok(()), Fence::wait).map_err(Failed::Refused)
}

impl Disk for NbdDisk {
    fn sectors(&self) -> u64 {
        self.export.size / SECTOR as u64
    }

    fn read(&mut self, lba: u64, data: &mut [u8]) -> io::Result<()> {
        check_range(self.sectors(), lba, data.len())?;
        let mut offset = lba * SECTOR as u64;
        let piece = self.export.piece as usize;
        for piece in data.chunks_mut(piece) {
            let place = (offset, piece.len() as u32);
            self.attempt(|link, limit| {
                link.request((Command::Read, false), place, Data::In(&mut *piece), limit)
            })?;
            offset += piece.len() as u64;
        }
        Ok(())
    }

    fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<()> {
        self.write_pieces(lba, data, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        // A server without the flag has no cache that could be lost.
        if self.export.flush && self.access == Access::ReadWrite {
            self.attempt(|link, limit| {
                link.request((Command::Flush, false), (0, 0), Data::None, limit)
            })?;
            self.unflushed.clear();
            self.unflushed_bytes = 0;
        }
        Ok(())
    }

    fn guard(&mut self, fence: &Fence) {
        self.fence = Some(fence.clone());
    }

    fn make_writable(&mut self) -> io::Result<()> {
        if self.export.read_only {
            return Err(io::Error::other("the export is read-only"));
        }
        self.access = Access::ReadWrite;
        if let Some(Err(e)) = self.lock.as_ref().map(File::try_lock) {
            log::warn!("{}: written without a lock: {e}", self.address);
        }
        Ok(())
    }
}
