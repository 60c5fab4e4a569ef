//! The witness itself.
//!
//! Contract: at most [`MAX_CONNECTIONS`] connections at a time, each a thread with a small stack;
//! when there is one more, the one that has been there longest is turned away, so that those who
//! say nothing keep nobody out. A connection ends when no whole request has come for [`IDLE`], or
//! after [`MAX_REQUESTS`].

use super::state::State;
use super::{Answer, Direction, GREETING, Lines, Proof, Request, nonce};
use crate::arbiter::{hex, parse_hex};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use super::state::WitnessError;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// For a request to come whole, and for a reply to be taken.
const IDLE: Duration = Duration::from_secs(10);
/// Requests of one connection.
const MAX_REQUESTS: usize = 1000;
/// After the host could not accept a connection.
const BREATH: Duration = Duration::from_millis(100);
/// Bytes of a connection's thread.
const STACK: usize = 128 * 1024;

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    proof: Option<Proof>,
    /// By number, the oldest first.
    connections: Mutex<BTreeMap<u64, TcpStream>>,
}

/// The registers, ready to be served.
#[derive(Debug)]
pub struct Witness(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes hold is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witness {
    /// Opens the registers in the file at `state`, created when missing. With `key`, only who has
    /// it is answered.
    ///
    /// # Errors
    /// See [`WitnessError`].
    pub fn open(state: &Path, key: Option<&[u8; 32]>) -> Result<Self, WitnessError> {
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(State::open(state)?),
            proof: key.map(Proof::new),
            connections: Mutex::default(),
        })))
    }

    /// Serves whoever connects to `listener`, until the state cannot be kept any more.
    pub fn serve(&self, listener: &TcpListener) -> WitnessError {
        for number in 0u64.. {
            if lock(&self.0.state).is_broken() {
                break;
            }
            let accepted = listener.accept().map(|(stream, _)| stream);
            if let Err(e) = accepted.and_then(|stream| self.admit(number, stream)) {
                log::warn!("a connection cannot be served: {e}");
                std::thread::sleep(BREATH);
            }
        }
        WitnessError::Io(io::Error::other("the state cannot be kept any more: start again"))
    }

    fn admit(&self, number: u64, stream: TcpStream) -> io::Result<()> {
        let shared = self.0.clone();
        let handle = stream.try_clone()?;
        {
            let mut connections = lock(&shared.connections);
            if connections.len() >= MAX_CONNECTIONS
                && let Some((_, oldest)) = connections.pop_first()
            {
                let _ = oldest.shutdown(Shutdown::Both);
            }
            connections.insert(number, handle);
        }
        let thread = std::thread::Builder::new().name("claimant".into()).stack_size(STACK);
        let serving = shared.clone();
        let spawned = thread.spawn(move || {
            if let Err(e) = serving.converse(stream) {
                log::debug!("a connection ended: {e}");
            }
            lock(&serving.connections).remove(&number);
        });
        if spawned.is_err() {
            lock(&shared.connections).remove(&number);
        }
        spawned.map(|_| ())
    }
}

impl Shared {
    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(IDLE))?;
        let server = nonce()?;
        let mode = if self.proof.is_some() { "keyed" } else { "plain" };
        stream.write_all(format!("{GREETING} {} {mode}\n", hex(server)).as_bytes())?;
        let mut lines = Lines::new(stream.try_clone()?);
        for _ in 0..MAX_REQUESTS {
            let line = match lines.next(Instant::now() + IDLE) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(()),
                Err(e) => {
                    let _ = stream.write_all(b"- error no request\n");
                    return Err(e);
                }
            };
            let (mac, answer) = self.answer(&line, server);
            stream.write_all(format!("{mac} {}\n", answer.text()).as_bytes())?;
            if matches!(answer, Answer::Error(_)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The answer to a line, and its MAC.
    fn answer(&self, line: &str, server: u128) -> (String, Answer) {
        let unproved = |text: &str| ("-".to_owned(), Answer::Error(text.into()));
        let mut words = line.splitn(3, ' ');
        let (Some(client), Some(mac), Some(body)) =
            (words.next().and_then(parse_hex), words.next(), words.next())
        else {
            return unproved("not a request");
        };
        let proved = match &self.proof {
            Some(proof) => proof.holds(mac, Direction::Request, server, client, body),
            None => mac == "-",
        };
        if !proved {
            return unproved("not proved by the key");
        }
        let answer = match Request::parse(body) {
            Some(request) => self.carry_out(request),
            None => Answer::Error("not a request".into()),
        };
        let sign = |proof: &Proof| proof.sign(Direction::Reply, server, client, &answer.text());
        (self.proof.as_ref().map_or_else(|| "-".into(), sign), answer)
    }

    fn carry_out(&self, request: Request) -> Answer {
        let mut state = lock(&self.state);
        match request {
            Request::Claim { vm, epoch, claimant } => match state.claim(vm, epoch, claimant) {
                Ok(verdict) => Answer::Verdict(verdict),
                Err(e) => {
                    log::error!("a claim was not recorded: {e}");
                    Answer::Error(e.to_string())
                }
            },
            Request::Latest { vm } => Answer::Latest(state.latest(vm)),
        }
    }
}
