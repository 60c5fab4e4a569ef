//! Recording: every input passes here on its way to the guest.
//!
//! Contract: an input is in the log before it is in the guest, and everything in the log stands in
//! the order in which it happened. Entries reach the file within [`DELAY`], so that little is
//! missing when the process is killed. The log of a backup begins with its machine's state as it
//! came; what goes wrong with it ends the log and not the backup.

use crate::check::{self, Schedule};
use crate::copy::DiskLog;
use crate::guest::Guest;
use crate::outcome::Exit;
use crate::session::{DiskSource, Session};
use crate::wire;
use devices::io::{DiskOperation, Input};
use ft::log::{Body, Instant, LogWriter};
use std::io::{self, Write};
use std::time;

/// Longest that an entry waits for the file.
pub const DELAY: time::Duration = time::Duration::from_secs(1);

/// Writes a log, or nothing.
#[derive(Default)]
pub struct Recorder {
    log: Option<Log>,
}

struct Log {
    writer: LogWriter,
    out: Box<dyn Write>,
    bytes: u64,
    /// Since when entries wait.
    waiting: Option<time::Instant>,
    disks: Vec<DiskLog>,
    checks: Schedule,
    /// The machine has come this far, and no entry says so.
    passed: Option<Instant>,
    /// A log that cannot be written is given up.
    expendable: bool,
}

/// The instant of an entry made now; `halted`: time has moved without instructions since the last
/// one.
pub(crate) fn instant(guest: &impl Guest, halted: bool) -> Instant {
    Instant { icount: guest.icount().0, halted_ns: halted.then(|| guest.now().0) }
}

/// The bytes that log `input`; `disks` are what the log's reader knows.
pub(crate) fn entry(disks: &mut [DiskLog], input: &Input) -> Vec<u8> {
    match input {
        Input::DiskDone { disk, request, result } => {
            disks[usize::from(*disk)].answer(*disk, *request, result)
        }
        _ => wire::encode_input(input).expect("no answer of a disk"),
    }
}

/// The last entry of a log: the machine ended with `exit`.
pub(crate) fn end(guest: &mut impl Guest, exit: Exit) -> Body {
    let end = (exit, check::whole(&guest.digest()));
    Body::End(postcard::to_allocvec(&end).expect("plain data can be encoded"))
}

impl Recorder {
    /// Begins a log on `out` for the machine of `session`.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn new(out: Box<dyn Write>, build: &str, session: &Session) -> io::Result<Self> {
        let mut log = Log::new(out, build, session);
        log.write()?;
        Ok(Self { log: Some(log) })
    }

    /// Begins a log on `out` for a machine like that of `session` in the middle of its life. Its
    /// state is to follow, piece by piece, then [`Recorder::arrived`].
    #[must_use]
    pub fn joining(out: Box<dyn Write>, build: &str, session: &Session) -> Self {
        let log = Log { expendable: true, ..Log::new(out, build, session) };
        let mut recorder = Self { log: Some(log) };
        recorder.flush();
        recorder
    }

    /// A piece of the machine's state, of [`crate::transfer`].
    pub fn piece(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.push(Instant::default(), &Body::Snapshot(bytes.to_vec()));
            self.flush();
        }
    }

    /// The machine is there, at `at`, and the hash of its state is `whole`; `requests` wait for the
    /// answers of its disks.
    pub fn arrived(&mut self, at: Instant, whole: u128, requests: &[(u8, u64, DiskOperation)]) {
        for (disk, request, operation) in requests {
            self.asked(*disk, *request, operation);
        }
        self.entry(at, &Body::Digest(whole.to_le_bytes().to_vec()));
        self.flush();
    }

    /// The machine follows another log, and has come to this entry of it, which is no input.
    pub fn entry(&mut self, at: Instant, body: &Body) {
        let Some(log) = &mut self.log else { return };
        match body {
            Body::Progress => {
                log.passed = Some(at);
                log.waiting.get_or_insert_with(time::Instant::now);
            }
            body => log.push(at, body),
        }
    }

    /// The machine follows another log, and takes this input of it at `at`.
    pub fn input(&mut self, at: Instant, input: &Input) {
        if let Some(log) = &mut self.log {
            log.input(at, input);
        }
    }

    /// The machine follows no other log from here on, and stands at `icount`.
    pub fn goes_live(&mut self, icount: u64) {
        if let Some(log) = &mut self.log {
            log.settle();
            log.checks = Schedule::from(icount);
        }
    }

    /// Writes what waits.
    pub fn flush(&mut self) {
        if let Err(e) = self.write() {
            log::error!("the record: {e}");
            self.log = None;
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        match log.write() {
            Err(e) if log.expendable => {
                log::error!("the record has ended, the machine goes on: {e}");
                self.log = None;
                Ok(())
            }
            result => result,
        }
    }

    /// Applies `input` to the guest, and logs it.
    pub fn inject(&mut self, guest: &mut impl Guest, halted: bool, input: Input) {
        if let Some(log) = &mut self.log {
            log.input(instant(guest, halted), &input);
        }
        guest.inject(input);
    }

    /// The guest has asked a disk for something.
    pub fn asked(&mut self, disk: u8, request: u64, operation: &DiskOperation) {
        if let Some(log) = &mut self.log {
            log.disks[usize::from(disk)].ask(request, operation);
        }
    }

    /// The count at which the next digest is due; the guest must not run past it.
    #[must_use]
    pub fn next_digest(&self) -> Option<u64> {
        self.log.as_ref().map(|log| log.checks.next())
    }

    /// Logs a digest if one is due here, the next one `steps` intervals later; whether one was.
    pub fn digest_if_due(&mut self, guest: &mut impl Guest, halted: bool, steps: u64) -> bool {
        let Some(log) = &mut self.log else { return false };
        let Some(check) = log.checks.check(guest, steps) else { return false };
        log.push(instant(guest, halted), &Body::Digest(check));
        true
    }

    /// Writes what has waited long enough.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn tick(&mut self) -> io::Result<()> {
        match &self.log {
            Some(log) if log.waiting.is_some_and(|since| since.elapsed() >= DELAY) => self.write(),
            _ => Ok(()),
        }
    }

    /// How long nothing needs to be written; `None`: nothing waits.
    #[must_use]
    pub fn patience(&self) -> Option<time::Duration> {
        let since = self.log.as_ref()?.waiting?;
        Some(DELAY.saturating_sub(since.elapsed()))
    }

    /// Closes the log.
    ///
    /// # Errors
    /// The log cannot be written.
    pub fn end(&mut self, guest: &mut impl Guest, halted: bool, exit: Exit) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.push(instant(guest, halted), &end(guest, exit));
        self.write()?;
        self.log.as_mut().map_or(Ok(()), |log| log.out.flush())
    }

    /// Bytes and entries so far.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        self.log.as_ref().map_or((0, 0), |log| (log.bytes, log.writer.entries()))
    }
}

impl Log {
    fn new(out: Box<dyn Write>, build: &str, session: &Session) -> Self {
        let disks = session.disks.iter().map(|s| DiskLog::new(*s != DiskSource::Log)).collect();
        let (writer, checks) = (LogWriter::new(), Schedule::from(0));
        let (waiting, passed, expendable) = (None, None, false);
        let mut log = Self { writer, out, bytes: 0, waiting, disks, checks, passed, expendable };
        let start = Body::Start { build: build.into(), config: session.encode() };
        log.push(Instant::default(), &start);
        log
    }

    fn push(&mut self, at: Instant, body: &Body) {
        // What this entry says, too.
        self.passed = None;
        self.waiting.get_or_insert_with(time::Instant::now);
        self.writer.push(at, body);
    }

    fn input(&mut self, at: Instant, input: &Input) {
        let bytes = entry(&mut self.disks, input);
        self.push(at, &Body::Input(bytes));
        self.checks.input(input);
    }

    /// Says how far the machine has come.
    fn settle(&mut self) {
        if let Some(at) = self.passed.take() {
            self.push(at, &Body::Progress);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.settle();
        self.waiting = None;
        self.writer.flush();
        let bytes = self.writer.take();
        self.bytes += bytes.len() as u64;
        self.out.write_all(&bytes)
    }
}
