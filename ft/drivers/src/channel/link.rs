//! One connection that is up: its queue, its writer thread and its reader thread.
//!
//! Contract: the reader thread posts `Up`, the messages and one `Down`, also when writing fails:
//! what the kernel has received before is still read first. Who holds the [`Sealer`] writes: the
//! writer thread, or, for a short message while nothing else goes out, the sender itself, which
//! saves the time that it takes to wake a thread.

use super::handshake::Established;
use super::life::Life;
use super::record::{Opener, Sealer};
use super::registry::Registry;
use super::{ChannelEvent, Greeting};
use backends::socket::Stream;
use backends::threads::be_preferred;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Queued bytes at which a connection is given up: its user has not looked at the queue.
pub const QUEUE_MAX: u64 = 1 << 30;
/// What is queued may still go out for this long after the connection was closed.
const LINGER: Duration = Duration::from_secs(1);
/// A blocked write looks this often whether it is still wanted.
const WRITE_SLICE: Duration = Duration::from_millis(200);
/// Why a connection ended that the peer has replaced.
pub(super) const AGAIN: &str = "the peer has called again";
/// A message up to this length may be written by its sender, bytes.
const SHORT: usize = 4096;
/// Stack of the threads here.
pub(super) const STACK: usize = 256 * 1024;

#[derive(Debug)]
enum State {
    Open,
    /// Closed by this side: the queue goes out until then.
    Closing(Instant),
    /// Nothing goes out any more.
    Ended,
}

#[derive(Debug)]
struct Queue {
    messages: Vec<Vec<u8>>,
    /// What writes; `None` while somebody does.
    sealer: Option<Sealer>,
    state: State,
    /// Why this side ended the connection.
    why: Option<String>,
    /// This side wants no more messages from the peer.
    deaf: bool,
    /// What the peer has sent before it called again is still read.
    reads_out: bool,
    /// The writer waits for a message.
    idle: bool,
    /// What may be said when there is nothing to say.
    sign: Option<Vec<u8>>,
    /// When something was last said.
    spoke: Instant,
}

impl Queue {
    /// What is to be said now because nothing else was for long.
    fn sign_due(&mut self, life: &Life) -> Option<Vec<u8>> {
        let quiet = matches!(self.state, State::Open) && self.messages.is_empty();
        let silent = life.silence().is_some_and(|silence| self.spoke.elapsed() >= silence);
        if !quiet || !silent || self.sealer.is_none() || !life.is_alive() {
            return None;
        }
        let sign = self.sign.clone()?;
        self.spoke = Instant::now();
        Some(sign)
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: Arc<Stream>,
    queue: Mutex<Queue>,
    filled: Condvar,
    queued: AtomicU64,
}

impl Link {
    pub(super) fn new(stream: Arc<Stream>, sealer: Sealer) -> Self {
        let queue = Queue {
            messages: Vec::new(),
            sealer: Some(sealer),
            state: State::Open,
            why: None,
            deaf: false,
            reads_out: false,
            idle: false,
            sign: None,
            spoke: Instant::now(),
        };
        Self { stream, queue: Mutex::new(queue), filled: Condvar::new(), queued: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is sound between any two statements.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn send(&self, bytes: Vec<u8>, sign: Option<Vec<u8>>) -> bool {
        let mut queue = self.lock();
        if !matches!(queue.state, State::Open) {
            return false;
        }
        let length = bytes.len() as u64;
        if self.queued.load(Ordering::Relaxed) + length > QUEUE_MAX {
            drop(queue);
            self.end("more is queued than can ever be sent");
            return false;
        }
        queue.spoke = Instant::now();
        if sign.is_some() && std::mem::replace(&mut queue.sign, sign).is_none() {
            // From now on the writer has to look at the clock.
            self.filled.notify_one();
        }
        if bytes.len() <= SHORT
            && queue.messages.is_empty()
            && let Some(sealer) = queue.sealer.take_if(|sealer| sealer.is_empty())
        {
            drop(queue);
            self.write_now(&bytes, sealer);
            return true;
        }
        self.queued.fetch_add(length, Ordering::Relaxed);
        queue.messages.push(bytes);
        self.wake_writer(queue);
        true
    }

    fn wake_writer(&self, mut queue: MutexGuard<'_, Queue>) {
        let idle = std::mem::take(&mut queue.idle);
        drop(queue);
        if idle {
            self.filled.notify_one();
        }
    }

    /// Writes a message as far as the host's kernel takes it without waiting; the writer thread
    /// does the rest.
    fn write_now(&self, message: &[u8], mut sealer: Sealer) {
        let sealed = sealer.push(message, &mut Instantly(&self.stream));
        let written = sealed.and_then(|()| sealer.flush(&mut Instantly(&self.stream)));
        let mut queue = self.lock();
        let rest = match written {
            Ok(()) => !queue.messages.is_empty(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            Err(e) => {
                drop(queue);
                return self.failed(&e);
            }
        };
        queue.sealer = Some(sealer);
        if rest || !matches!(queue.state, State::Open) {
            self.wake_writer(queue);
        }
    }

    fn failed(&self, error: &io::Error) {
        let gone =
            matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        let why = if gone { "the peer is gone".into() } else { format!("sending failed: {error}") };
        self.lock().why.get_or_insert(why);
        self.shut();
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Ends the connection when the queue is out.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        if matches!(queue.state, State::Open) {
            queue.state = State::Closing(Instant::now() + LINGER);
            queue.why = Some("closed".into());
            queue.deaf = true;
        }
        drop(queue);
        self.filled.notify_one();
    }

    /// The peer has called again: nothing goes out here any more, and what it has sent before is
    /// read until [`Link::end`].
    pub(super) fn replaced(&self) {
        let mut queue = self.lock();
        queue.why.get_or_insert_with(|| AGAIN.into());
        queue.reads_out = true;
        drop(queue);
        self.shut();
    }

    /// Ends the connection now.
    pub(super) fn end(&self, why: &str) {
        let mut queue = self.lock();
        queue.deaf = true;
        queue.reads_out = false;
        queue.why.get_or_insert_with(|| why.into());
        drop(queue);
        self.shut();
    }

    /// Nothing goes out any more; what has arrived already can still be read.
    fn shut(&self) {
        let mut queue = self.lock();
        queue.state = State::Ended;
        queue.messages = Vec::new();
        let reads_out = queue.reads_out;
        drop(queue);
        self.filled.notify_one();
        if reads_out {
            self.stream.shutdown_writes();
        } else {
            self.stream.shutdown();
        }
    }

    /// Waits for something to write, or until a sign of life is due; `None`: there will be nothing.
    fn next_batch(&self, life: &Life) -> Option<(Vec<Vec<u8>>, Sealer)> {
        let mut queue = self.lock();
        loop {
            let work = !queue.messages.is_empty();
            if let Some(sealer) = queue.sealer.take_if(|sealer| work || !sealer.is_empty()) {
                return Some((std::mem::take(&mut queue.messages), sealer));
            }
            let over = !matches!(queue.state, State::Open);
            if over && (queue.sealer.is_some() || matches!(queue.state, State::Ended)) {
                return None;
            }
            queue.idle = true;
            let silence = life.silence().unwrap_or(LINGER);
            let waited = self.filled.wait_timeout(queue, silence);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            if let Some(sign) = queue.sign_due(life) {
                self.queued.fetch_add(sign.len() as u64, Ordering::Relaxed);
                queue.messages.push(sign);
            }
        }
    }

    fn write_all(&self, life: &Life) -> io::Result<()> {
        let mut sink = Patient(self);
        while let Some((batch, mut sealer)) = self.next_batch(life) {
            for message in batch {
                sealer.push(&message, &mut sink)?;
                self.queued.fetch_sub(message.len() as u64, Ordering::Relaxed);
            }
            sealer.flush(&mut sink)?;
            self.lock().sealer = Some(sealer);
        }
        Ok(())
    }

    fn write(&self, life: &Life) {
        be_preferred();
        match self.write_all(life) {
            Ok(()) => self.shut(),
            Err(e) => self.failed(&e),
        }
    }

    /// Reads until the end, and says why it came.
    fn read(&self, conn: u64, mut opener: Opener, registry: &Registry) -> String {
        loop {
            match opener.next(&mut &*self.stream) {
                Err(e) => return self.lock().why.clone().unwrap_or_else(|| e.to_string()),
                Ok(_) if self.lock().deaf => {}
                Ok(bytes) => {
                    if !registry.post(ChannelEvent::Message { conn, bytes }) {
                        return "nobody reads the channel any more".into();
                    }
                }
            }
        }
    }
}

/// Writes to the socket for as long as the connection is wanted.
struct Patient<'a>(&'a Link);

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.0.stream).write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            match self.0.lock().state {
                State::Open => {}
                State::Closing(until) if Instant::now() < until => {}
                _ => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes to the socket what the host's kernel takes at once.
struct Instantly<'a>(&'a Stream);

impl Write for Instantly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs the connection that `established` describes to its end, on this thread.
pub(super) fn run(
    registry: &Arc<Registry>,
    stream: Arc<Stream>,
    peer: String,
    established: Established,
) {
    let Established { sealer, opener, peer: greeting, .. } = established;
    let instance = greeting.instance;
    let result = steady(&stream).map(|()| {
        let link = Arc::new(Link::new(stream, sealer));
        let writer = Arc::clone(&link);
        let registry = Arc::clone(registry);
        // It must not miss that the channel is stopped: the registry counts it from here on.
        let conn = registry.add(instance, Arc::clone(&link));
        let body = move || {
            writer.write(&registry.life);
            registry.writer_ended();
        };
        let thread = std::thread::Builder::new().name("channel writer".into()).stack_size(STACK);
        (conn, link, thread.spawn(body))
    });
    let (conn, link, writer) = match result {
        Ok(started) => started,
        Err(e) => {
            registry.unclaim(instance);
            return registry.trouble(&e.to_string(), &format!("{peer}: {e}"));
        }
    };
    let greeting: Box<Greeting> = Box::new(greeting);
    registry.wait_for_older(instance, conn);
    registry.post(ChannelEvent::Up { conn, peer, greeting });
    be_preferred();
    let why = match writer {
        Ok(_) => link.read(conn, opener, registry),
        Err(e) => {
            registry.writer_ended();
            format!("no thread: {e}")
        }
    };
    link.end(&why);
    registry.post(ChannelEvent::Down { conn, why });
    registry.remove(instance, conn);
}

/// Timeouts of a connection that is up.
fn steady(stream: &Stream) -> io::Result<()> {
    match stream {
        Stream::Tcp(stream) => {
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(Some(WRITE_SLICE))?;
        }
        Stream::Unix(stream) => {
            stream.set_read_timeout(None)?;
            stream.set_write_timeout(Some(WRITE_SLICE))?;
        }
    }
    Ok(())
}
