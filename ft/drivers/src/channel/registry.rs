//! What the threads of a channel share: the connections, the secret, and which lines were said.

use super::greeting::Greeting;
use super::handshake::{Established, HandshakeError, Proof, Side};
use super::inbox::Outbox;
use super::life::Life;
use super::link::{AGAIN, Link};
use super::pairing::ATTEMPTS_MAX;
use super::secret::{Key, Secret};
use super::{ChannelEvent, HANDSHAKE_TIME};
use backends::socket::Stream;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections that may be up at a time.
const LINKS_MAX: usize = 16;
/// The same line is said this often.
const REPEAT: Duration = Duration::from_secs(60);
/// Lines remembered for that.
const LINES_MAX: usize = 64;
/// A channel that ends waits so long for what is queued.
const FINISH_TIME: Duration = Duration::from_millis(1500);
/// A connection that comes up waits so long for the `Down` of the one that it replaces,
const REPLACE_TIME: Duration = Duration::from_secs(1);
/// and leaves it this much of that to read what the peer had sent there.
const READ_OUT_TIME: Duration = Duration::from_millis(100);

/// A connection with one run of the program.
#[derive(Debug)]
struct Claim {
    since: Instant,
    /// Once it is up.
    conn: Option<u64>,
}

#[derive(Debug)]
struct State {
    /// By number, with the peer's instance; until the `Down` is posted.
    links: BTreeMap<u64, (u64, Arc<Link>)>,
    /// Is shut down when the channel ends.
    listener: Option<OwnedFd>,
    /// By the peer's instance.
    claims: BTreeMap<u64, Claim>,
    last_conn: u64,
    writers: usize,
    secret: Secret,
    /// Guesses of the pairing code.
    attempts: u32,
    said: Vec<(String, Instant)>,
    stopped: bool,
}

/// What the threads of a channel share.
#[derive(Debug)]
pub(super) struct Registry {
    /// The life of the channel's user.
    pub(super) life: Life,
    greeting: Greeting,
    outbox: Outbox,
    state: Mutex<State>,
    changed: Condvar,
}

impl Registry {
    pub(super) fn new(greeting: Greeting, secret: Secret, outbox: Outbox) -> Self {
        let state = State {
            links: BTreeMap::new(),
            listener: None,
            claims: BTreeMap::new(),
            last_conn: 0,
            writers: 0,
            secret,
            attempts: 0,
            said: Vec::new(),
            stopped: false,
        };
        let life = Life::new();
        Self { life, greeting, outbox, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made in one statement, or harmless when it is cut short.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts to the driver. `false`: nobody reads any more.
    pub(super) fn post(&self, event: ChannelEvent) -> bool {
        self.outbox.post(event)
    }

    /// Posts a line for the user unless `reason` was given within a minute.
    pub(super) fn trouble(&self, reason: &str, line: &str) {
        let now = Instant::now();
        let mut state = self.lock();
        state.said.retain(|(_, at)| now.duration_since(*at) < REPEAT);
        if state.stopped || state.said.iter().any(|(said, _)| said == reason) {
            return;
        }
        if state.said.len() >= LINES_MAX {
            state.said.remove(0);
        }
        state.said.push((reason.into(), now));
        drop(state);
        self.post(ChannelEvent::Trouble(line.into()));
    }

    pub(super) fn link(&self, conn: u64) -> Option<Arc<Link>> {
        self.lock().links.get(&conn).map(|(_, link)| Arc::clone(link))
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// Waits for at most `time`; `false`: the channel is stopped.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let result = self.changed.wait_timeout_while(state, time, |state| !state.stopped);
        !result.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    /// Waits until no connection is up; `false`: the channel is stopped.
    pub(super) fn wait_until_alone(&self) -> bool {
        let busy = |state: &mut State| !state.stopped && !state.claims.is_empty();
        let state = self.changed.wait_while(self.lock(), busy);
        !state.unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// The secret as it is now.
    pub(super) fn secret(&self) -> Secret {
        self.lock().secret.clone()
    }

    /// Whether one more guess of the pairing code may be made.
    fn permit(&self) -> bool {
        let mut state = self.lock();
        state.attempts += 1;
        state.attempts <= ATTEMPTS_MAX && matches!(state.secret, Secret::Pairing { .. })
    }

    /// Takes the connection that a handshake leads to, unless there is one with this peer already
    /// and the peer has not `decided` that this is the one.
    fn claim(&self, instance: u64, decided: bool) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if state.stopped || state.claims.len() >= LINKS_MAX {
            return false;
        }
        if let Some(claim) = state.claims.get(&instance) {
            // Both sides may call at the same time: the first connection stays. Later a peer calls
            // only because its end of the old connection is gone.
            if !decided && now.duration_since(claim.since) < HANDSHAKE_TIME {
                return false;
            }
            if let Some((_, old)) = claim.conn.and_then(|conn| state.links.get(&conn)) {
                old.replaced();
            }
        }
        state.claims.insert(instance, Claim { since: now, conn: None });
        true
    }

    /// Gives up a claim whose connection did not come up.
    pub(super) fn unclaim(&self, instance: u64) {
        let mut state = self.lock();
        if state.claims.get(&instance).is_some_and(|claim| claim.conn.is_none()) {
            state.claims.remove(&instance);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Numbers a connection; one with the same peer that it replaces goes down first.
    pub(super) fn add(&self, instance: u64, link: Arc<Link>) -> u64 {
        let mut state = self.lock();
        state.last_conn += 1;
        let conn = state.last_conn;
        if let Some(claim) = state.claims.get_mut(&instance) {
            claim.conn = Some(conn);
        }
        if state.stopped {
            link.end("closed");
        }
        state.links.insert(conn, (instance, link));
        state.writers += 1;
        state.said.clear();
        conn
    }

    /// The `Down` of a connection is posted.
    pub(super) fn remove(&self, instance: u64, conn: u64) {
        let mut state = self.lock();
        state.links.remove(&conn);
        if state.claims.get(&instance).is_some_and(|claim| claim.conn == Some(conn)) {
            state.claims.remove(&instance);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits, not for ever, for the `Down` of the connection that `conn` replaces.
    pub(super) fn wait_for_older(&self, instance: u64, conn: u64) {
        let older = |state: &mut State| {
            let mut links = state.links.range(..conn);
            !state.stopped && links.any(|(_, (with, _))| *with == instance)
        };
        let waited = self.changed.wait_timeout_while(self.lock(), READ_OUT_TIME, older);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        for (_, (_, link)) in state.links.range(..conn).filter(|(_, (with, _))| *with == instance) {
            link.end(AGAIN);
        }
        drop(self.changed.wait_timeout_while(state, REPLACE_TIME, older));
    }

    pub(super) fn writer_ended(&self) {
        self.lock().writers -= 1;
        self.changed.notify_all();
    }

    /// Keeps the listening socket, to end it with the channel.
    pub(super) fn listens(&self, listener: OwnedFd) {
        self.lock().listener = Some(listener);
    }

    /// No new connections from here on.
    fn halt(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        state.stopped = true;
        if let Some(listener) = state.listener.take() {
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        self.changed.notify_all();
        state
    }

    /// Ends everything now.
    pub(super) fn stop(&self) {
        for (_, link) in self.halt().links.values() {
            link.end("closed");
        }
    }

    /// Closes every connection and waits, not for ever, until all is sent.
    pub(super) fn finish(&self) {
        let state = self.halt();
        for (_, link) in state.links.values() {
            link.close();
        }
        drop(self.changed.wait_timeout_while(state, FINISH_TIME, |state| state.writers > 0));
    }

    /// Does the handshake on `stream`; on success the peer's claim is taken.
    pub(super) fn shake(
        &self,
        stream: &Stream,
        initiator: bool,
    ) -> Result<Established, HandshakeError> {
        let secret = self.secret();
        let permit = || self.permit();
        let proof = match &secret {
            Secret::Local => Proof::Local,
            Secret::Key(key) => Proof::Key(key.clone()),
            Secret::Pairing { code, .. } => Proof::Pairing(*code, &permit),
        };
        let claimed = Cell::new(None);
        let admit = |instance, decided| {
            let taken = self.claim(instance, decided);
            claimed.set(taken.then_some(instance));
            taken
        };
        let side = Side { initiator, greeting: &self.greeting, proof, admit: &admit };
        let mut wire = Timed { stream, until: Instant::now() + HANDSHAKE_TIME };
        let result = side.shake(&mut wire);
        match (&result, claimed.get()) {
            (Err(_), Some(instance)) => self.unclaim(instance),
            (Ok(Established { key: Some(key), .. }), _) => self.paired(key),
            _ => {}
        }
        result
    }

    /// From here on `key` is the secret.
    fn paired(&self, key: &Key) {
        let old = std::mem::replace(&mut self.lock().secret, Secret::Key(key.clone()));
        if let Secret::Pairing { store: Some(path), .. } = old
            && let Err(e) = key.store(&path)
        {
            let line = format!("{}: the key was not written: {e}", path.display());
            self.trouble(&line, &line);
        }
    }
}

/// A socket whose reads and writes all end at one time.
struct Timed<'a> {
    stream: &'a Stream,
    until: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?;
        match self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(left)?,
            Stream::Unix(stream) => stream.set_read_timeout(left)?,
        }
        (&mut { self.stream }).read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left()?;
        match self.stream {
            Stream::Tcp(stream) => stream.set_write_timeout(left)?,
            Stream::Unix(stream) => stream.set_write_timeout(left)?,
        }
        (&mut { self.stream }).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
