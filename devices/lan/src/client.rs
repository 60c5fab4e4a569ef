//! A client of the guest `counter`: increments over one TCP connection, and misses nothing that is
//! wrong with the answers.
//!
//! Contract: one command is under way at a time, so each answer must be the number after the last
//! one. A greater one means that numbers were lost to this client, a smaller or equal one that a
//! number came twice; both are counted and the client goes on. A connection that ends, an answer
//! that is no number and a silence longer than the patience end the session. Times between answers
//! are kept from `GAP_MIN` on, the latest `GAPS_MAX` of them.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Shortest time between two answers that is remembered.
const GAP_MIN: Duration = Duration::from_millis(1);
/// Times between two answers that are remembered.
const GAPS_MAX: usize = 65_536;
/// Between two attempts to reach a guest that is not up yet.
const RETRY: Duration = Duration::from_millis(20);
/// Longest answer.
const ANSWER_MAX: usize = 4096;

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the guest's line protocol is reached.
    pub address: SocketAddr,
    /// How long to try until the guest is up.
    pub connect_within: Duration,
    /// Longest silence that is borne.
    pub patience: Duration,
    /// Pause between an answer and the next increment.
    pub pause: Duration,
}

/// Why a session ended early.
#[derive(Debug)]
pub enum Trouble {
    /// No guest answered in time.
    NoAnswer(io::Error),
    /// The connection was lost.
    Lost(io::Error),
    /// The guest said something else than a number.
    Odd(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(e) => write!(f, "the guest does not answer: {e}"),
            Self::Lost(e) => write!(f, "the connection is lost: {e}"),
            Self::Odd(text) => write!(f, "the guest says '{text}' instead of a number"),
        }
    }
}

/// A time without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The answer before.
    pub from: Instant,
    /// The answer after.
    pub to: Instant,
}

impl Gap {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to - self.from
    }
}

/// What was seen so far.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The number before the first increment.
    pub first: u64,
    /// The latest number.
    pub last: u64,
    /// Increments that were answered.
    pub increments: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came again.
    pub repeated: u64,
    /// When the latest answer came.
    pub answered: Instant,
    gaps: VecDeque<Gap>,
}

impl Seen {
    fn new(first: u64, now: Instant) -> Self {
        let (increments, lost, repeated) = (0, 0, 0);
        let gaps = VecDeque::new();
        Self { first, last: first, increments, lost, repeated, answered: now, gaps }
    }

    /// Takes the answer to an increment.
    fn answer(&mut self, number: u64, now: Instant) {
        if number > self.last {
            self.lost += number - self.last - 1;
        } else {
            self.repeated += 1;
        }
        self.increments += 1;
        self.last = self.last.max(number);
        let gap = Gap { from: self.answered, to: now };
        if gap.length() >= GAP_MIN {
            if self.gaps.len() >= GAPS_MAX {
                self.gaps.pop_front();
            }
            self.gaps.push_back(gap);
        }
        self.answered = now;
    }

    /// The longest time without an answer that touches the time from `at` to `within` after it;
    /// `None` if all were shorter than a millisecond.
    pub fn gap_around(&self, at: Instant, within: Duration) -> Option<Gap> {
        let touches = |gap: &&Gap| gap.to >= at && gap.from <= at + within;
        self.gaps.iter().filter(touches).max_by_key(|gap| gap.length()).copied()
    }

    /// Whether every number came once.
    pub fn is_right(&self) -> bool {
        self.lost == 0 && self.repeated == 0
    }
}

/// One connection.
struct Line {
    stream: TcpStream,
    input: BufReader<TcpStream>,
    answer: Vec<u8>,
}

impl Line {
    fn open(plan: &Plan) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&plan.address, plan.connect_within)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(plan.patience))?;
        stream.set_write_timeout(Some(plan.patience))?;
        let input = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, input, answer: Vec::new() })
    }

    fn ask(&mut self, command: &[u8]) -> Result<u64, Trouble> {
        self.stream.write_all(command).map_err(Trouble::Lost)?;
        self.answer.clear();
        let mut limited = io::Read::take(&mut self.input, ANSWER_MAX as u64);
        match limited.read_until(b'\n', &mut self.answer) {
            Ok(_) => {}
            // What a read that has timed out says.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let why = "nothing came for longer than the patience";
                return Err(Trouble::Lost(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            Err(e) => return Err(Trouble::Lost(e)),
        }
        if !self.answer.ends_with(b"\n") {
            return Err(Trouble::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
        let text = String::from_utf8_lossy(&self.answer);
        text.trim_end().parse().map_err(|_| Trouble::Odd(text.trim_end().to_owned()))
    }
}

/// Reaches the guest and asks for its number; tries again while the guest is not up.
fn reach(plan: &Plan) -> Result<(Line, u64), Trouble> {
    let end = Instant::now() + plan.connect_within;
    loop {
        let failed = match Line::open(plan) {
            Ok(mut line) => match line.ask(b"GET\n") {
                Ok(number) => return Ok((line, number)),
                Err(Trouble::Lost(e) | Trouble::NoAnswer(e)) => e,
                Err(odd) => return Err(odd),
            },
            Err(e) => e,
        };
        if Instant::now() >= end {
            return Err(Trouble::NoAnswer(failed));
        }
        std::thread::sleep(RETRY);
    }
}

/// A client at work on a thread of its own.
pub struct Session {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Trouble>>,
}

impl Session {
    /// Reaches the guest and begins to increment.
    ///
    /// # Errors
    /// Nobody answers in time, or not as `counter` does; the host has no thread to spare.
    pub fn start(plan: Plan) -> Result<Self, Trouble> {
        let (line, first) = reach(&plan)?;
        let seen = Arc::new(Mutex::new(Seen::new(first, Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (seen.clone(), stop.clone());
        let work = move || work(line, &plan, &shared, &stopped);
        let thread = std::thread::Builder::new().name("client".into()).spawn(work);
        Ok(Self { seen, stop, thread: thread.map_err(Trouble::NoAnswer)? })
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Increments that were answered so far, and when the latest answer came.
    pub fn progress(&self) -> (u64, Instant) {
        let seen = lock(&self.seen);
        (seen.increments, seen.answered)
    }

    /// Whether the session has ended by itself, in trouble.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for `count` more answers; tells whether they came within `patience`.
    pub fn wait_for(&self, count: u64, patience: Duration) -> bool {
        let (end, goal) = (Instant::now() + patience, self.progress().0 + count);
        while self.progress().0 < goal {
            if self.has_ended() || Instant::now() >= end {
                return self.progress().0 >= goal;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Ends the session after the answer that is under way.
    pub fn finish(self) -> (Seen, Option<Trouble>) {
        self.stop.store(true, Ordering::Relaxed);
        let end = self.thread.join().expect("the client does not panic");
        let seen = lock(&self.seen).clone();
        (seen, end.err())
    }
}

fn work(mut line: Line, plan: &Plan, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<(), Trouble> {
    while !stop.load(Ordering::Relaxed) {
        let number = line.ask(b"INCR\n")?;
        lock(seen).answer(number, Instant::now());
        if !plan.pause.is_zero() {
            std::thread::sleep(plan.pause);
        }
    }
    // The guest ends the connection in order; that it is gone already is no trouble.
    let _ = line.stream.write_all(b"QUIT\n");
    Ok(())
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that answers each line with what `answer` gives for the number of increments so
    /// far.
    fn server(answer: impl Fn(u64) -> Option<String> + Send + 'static) -> Plan {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut output = stream.try_clone().expect("a descriptor");
            let mut count = 0;
            for line in BufReader::new(stream).lines() {
                let text = match line.as_deref() {
                    Ok("GET") => Some("41".to_owned()),
                    Ok("INCR") => {
                        count += 1;
                        answer(count)
                    }
                    _ => return,
                };
                let Some(text) = text else { return };
                if output.write_all(format!("{text}\n").as_bytes()).is_err() {
                    return;
                }
            }
        });
        let second = Duration::from_secs(1);
        let pause = Duration::from_micros(100);
        Plan { address, connect_within: 10 * second, patience: 10 * second, pause }
    }

    fn right(count: u64) -> Option<String> {
        Some((41 + count).to_string())
    }

    #[test]
    fn right_answers_are_counted() {
        let session = Session::start(server(right)).expect("a server");
        assert!(session.wait_for(100, Duration::from_secs(60)));
        let (seen, trouble) = session.finish();
        assert!(trouble.is_none() && seen.is_right(), "{seen:?} {trouble:?}");
        assert_eq!((seen.first, seen.last), (41, 41 + seen.increments));
    }

    #[test]
    fn lost_and_repeated_numbers_are_seen() {
        let session = Session::start(server(|count| match count {
            5 => right(count + 3),
            6..9 => right(count),
            20 => right(19),
            _ => right(count),
        }));
        let session = session.expect("a server");
        assert!(session.wait_for(30, Duration::from_secs(60)));
        let (seen, _) = session.finish();
        // The fifth answer left 46 to 48 out, the next three were old, 60 came twice and 61 never.
        assert_eq!((seen.lost, seen.repeated), (4, 4), "{seen:?}");
        assert!(!seen.is_right());
    }

    #[test]
    fn a_silence_is_the_gap_around_its_time() {
        let silence = Duration::from_millis(120);
        let plan = server(move |count| {
            if count == 50 {
                std::thread::sleep(silence);
            }
            right(count)
        });
        let session = Session::start(plan).expect("a server");
        assert!(session.wait_for(40, Duration::from_secs(60)));
        let before = Instant::now();
        assert!(session.wait_for(60, Duration::from_secs(60)));
        let (seen, _) = session.finish();
        let gap = seen.gap_around(before, Duration::from_secs(60)).expect("a gap");
        assert!(gap.length() >= silence, "{gap:?}");
        let early = seen.gap_around(before - Duration::from_secs(60), Duration::ZERO);
        assert_eq!(early, None, "before the first answer there is none");
    }

    #[test]
    fn trouble_has_its_name() {
        let cut = Session::start(server(|count| right(count).filter(|_| count < 10)));
        let cut = cut.expect("a server");
        assert!(!cut.wait_for(20, Duration::from_secs(60)));
        let (seen, trouble) = cut.finish();
        assert!(matches!(trouble, Some(Trouble::Lost(_))), "{trouble:?}");
        assert_eq!(seen.increments, 9);
        let odd = Session::start(server(|_| Some("ERR no".into()))).expect("a server");
        assert!(!odd.wait_for(1, Duration::from_secs(60)));
        assert!(matches!(odd.finish().1, Some(Trouble::Odd(text)) if text == "ERR no"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let short = Duration::from_millis(50);
        let plan = Plan { address, connect_within: short, patience: short, pause: short };
        assert!(matches!(Session::start(plan), Err(Trouble::NoAnswer(_))));
        let mute = server(|_| {
            std::thread::sleep(Duration::from_secs(3));
            None
        });
        let mute = Session::start(Plan { patience: short, ..mute }).expect("a server");
        assert!(!mute.wait_for(1, Duration::from_secs(60)));
        assert!(
            matches!(mute.finish().1, Some(Trouble::Lost(e)) if e.kind() == io::ErrorKind::TimedOut)
        );
    }
}
