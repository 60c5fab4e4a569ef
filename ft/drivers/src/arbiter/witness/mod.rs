//! The arbiter `witness:HOST:PORT`: a small server, `ftemu witness`, that keeps the registers in a
//! file.
//!
//! The protocol is lines of ASCII over TCP, each ended by a line feed and at most [`MAX_LINE`]
//! bytes long with it. Words are separated by one space. VM, OWNER, CLAIMANT and nonces are 32
//! hexadecimal digits in lower case, epochs are decimal, a MAC is 64 hexadecimal digits or `-`
//! where there is none.
//!
//! ```text
//! server   ftemu-witness 1 SERVER-NONCE keyed|plain        once, when a connection begins
//! client   CLIENT-NONCE MAC REQUEST                        any number, one after the other
//! server   MAC REPLY                                       to each
//!
//! REQUEST  claim VM EPOCH CLAIMANT | latest VM
//! REPLY    won | lost EPOCH OWNER        to a claim
//!          latest EPOCH OWNER | never    to latest
//!          error TEXT                    no verdict; the server closes the connection
//! ```
//!
//! With a key both sides prove that they have it. K = HMAC-SHA256(key, `ftemu-witness 1`), and a
//! MAC is HMAC-SHA256(K, DIRECTION SP SERVER-NONCE SP CLIENT-NONCE SP BODY), DIRECTION `request` or
//! `reply`, BODY the request or reply, all as the bytes on the wire. Both draw their nonces at
//! random, the server one for a connection, the client one for a request, so no line is good at
//! another time. Nothing is secret; it is not encrypted. An error may come without a MAC (to who
//! has shown none) and then proves nothing. A client with a key takes no verdict from a server
//! without one, nor the other way round. Without a key whoever reaches the port may claim.
//!
//! Contract: a verdict is given after its record is durable. Hostile bytes cost a connection each,
//! of a bounded number, for a bounded time.

mod client;
mod server;
mod state;

pub use client::WitnessArbiter;
pub use server::{Witness, WitnessError};

use super::{Claimed, Verdict, hex, parse_decimal, parse_hex};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest line, with its line feed.
pub const MAX_LINE: usize = 512;
/// What the server begins with, before its nonce.
const GREETING: &str = "ftemu-witness 1";

/// A key that both sides have.
#[derive(Clone)]
struct Proof(Hmac<Sha256>);

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

impl Proof {
    fn new(key: &[u8; 32]) -> Self {
        let with = |key: &[u8]| Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
        let derived = with(key).chain_update(GREETING).finalize().into_bytes();
        Self(with(&derived))
    }

    fn over(&self, direction: Direction, server: u128, client: u128, body: &str) -> Hmac<Sha256> {
        let direction = match direction {
            Direction::Request => "request",
            Direction::Reply => "reply",
        };
        let text = format!("{direction} {} {} {body}", hex(server), hex(client));
        self.0.clone().chain_update(text)
    }

    fn sign(&self, direction: Direction, server: u128, client: u128, body: &str) -> String {
        let mac = self.over(direction, server, client, body).finalize().into_bytes();
        mac.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `mac` is the one of `body`; takes the same time wherever it differs.
    fn holds(
        &self,
        mac: &str,
        direction: Direction,
        server: u128,
        client: u128,
        body: &str,
    ) -> bool {
        let (Some(high), Some(low)) = (mac.get(..32), mac.get(32..)) else { return false };
        let (Some(high), Some(low)) = (parse_hex(high), parse_hex(low)) else { return false };
        let mac = [high.to_be_bytes(), low.to_be_bytes()].concat();
        self.over(direction, server, client, body).verify_slice(&mac).is_ok()
    }
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Claim { vm: u128, epoch: u64, claimant: u128 },
    Latest { vm: u128 },
}

impl Request {
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.splitn(5, ' ').collect();
        match words[..] {
            ["claim", vm, epoch, claimant] => Some(Self::Claim {
                vm: parse_hex(vm)?,
                epoch: parse_decimal(epoch)?,
                claimant: parse_hex(claimant)?,
            }),
            ["latest", vm] => Some(Self::Latest { vm: parse_hex(vm)? }),
            _ => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Claim { vm, epoch, claimant } => {
                format!("claim {} {epoch} {}", hex(vm), hex(claimant))
            }
            Self::Latest { vm } => format!("latest {}", hex(vm)),
        }
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Verdict(Verdict),
    Latest(Option<Claimed>),
    Error(String),
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        if let Some(text) = text.strip_prefix("error ") {
            return Some(Self::Error(text.into()));
        }
        let words: Vec<&str> = text.splitn(4, ' ').collect();
        let claimed =
            |epoch, owner| Some(Claimed { epoch: parse_decimal(epoch)?, owner: parse_hex(owner)? });
        match words[..] {
            ["won"] => Some(Self::Verdict(Verdict::Won)),
            ["lost", epoch, owner] => Some(Self::Verdict(Verdict::Lost(claimed(epoch, owner)?))),
            ["latest", epoch, owner] => Some(Self::Latest(Some(claimed(epoch, owner)?))),
            ["never"] => Some(Self::Latest(None)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Verdict(Verdict::Won) => "won".into(),
            Self::Verdict(Verdict::Lost(c)) => format!("lost {} {}", c.epoch, hex(c.owner)),
            Self::Latest(Some(c)) => format!("latest {} {}", c.epoch, hex(c.owner)),
            Self::Latest(None) => "never".into(),
            Self::Error(text) => {
                // What the host says may be long, and not of one line.
                let printable = text.chars().filter(|c| matches!(c, ' '..='~')).take(200);
                format!("error {}", printable.collect::<String>())
            }
        }
    }
}

/// A number for once.
fn nonce() -> io::Result<u128> {
    let mut bytes = [0; 16];
    let mut have = 0;
    while have < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        have += rustix::rand::getrandom(&mut bytes[have..], flags)?;
    }
    Ok(u128::from_ne_bytes(bytes))
}

/// Reads lines of ASCII, each before a deadline.
#[derive(Debug)]
struct Lines {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// The next line without its end; `None` at the end of the stream.
    fn next(&mut self, deadline: Instant) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).take(end).collect();
                let ascii = line.iter().all(|b| matches!(b, b' '..=b'~'));
                let line = ascii.then(|| line.iter().map(|b| char::from(*b)).collect());
                return line.map(Some).ok_or_else(|| invalid("not a line of text"));
            }
            if self.buffer.len() >= MAX_LINE {
                return Err(invalid("a line is too long"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut piece = [0; MAX_LINE];
            let room = MAX_LINE - self.buffer.len();
            match self.stream.read(&mut piece[..room]) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(e) => return Err(e),
            }
        }
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mac_is_good_for_one_line_in_one_place() {
        let proof = Proof::new(&[7; 32]);
        let mac = proof.sign(Direction::Request, 1, 2, "latest 3");
        assert!(proof.holds(&mac, Direction::Request, 1, 2, "latest 3"));
        assert!(!proof.holds(&mac, Direction::Reply, 1, 2, "latest 3"));
        assert!(!proof.holds(&mac, Direction::Request, 0, 2, "latest 3"));
        assert!(!proof.holds(&mac, Direction::Request, 1, 0, "latest 3"));
        assert!(!proof.holds(&mac, Direction::Request, 1, 2, "latest 4"));
        assert!(!Proof::new(&[8; 32]).holds(&mac, Direction::Request, 1, 2, "latest 3"));
        for bad in ["", "-", &mac[1..], &mac.to_uppercase(), &"\u{e9}".repeat(32)] {
            assert!(!proof.holds(bad, Direction::Request, 1, 2, "latest 3"), "{bad}");
        }
    }

    #[test]
    fn the_mac_is_the_one_of_the_description() {
        // python3: k = hmac.digest(bytes(range(32)), b"ftemu-witness 1", "sha256")
        //          hmac.new(k, b"reply %032x %032x won" % (1, 2), "sha256").hexdigest()
        let key = std::array::from_fn(|i| i as u8);
        assert_eq!(Proof::new(&key).sign(Direction::Reply, 1, 2, "won"), PYTHON);
    }

    const PYTHON: &str = "b6f21e11a785e7cfa253cad6dd9850f20e0158fdc0525e71c81b10ad6e0c796c";

    #[test]
    fn requests_and_answers_come_back() {
        let claimed = Claimed { epoch: u64::MAX, owner: u128::MAX };
        for request in [
            Request::Claim { vm: 1, epoch: 0, claimant: u128::MAX },
            Request::Claim { vm: u128::MAX, epoch: u64::MAX, claimant: 0 },
            Request::Latest { vm: 5 },
        ] {
            assert_eq!(Request::parse(&request.text()), Some(request));
            assert!(request.text().len() + 99 < MAX_LINE);
        }
        for answer in [
            Answer::Verdict(Verdict::Won),
            Answer::Verdict(Verdict::Lost(claimed)),
            Answer::Latest(Some(claimed)),
            Answer::Latest(None),
            Answer::Error("full".into()),
        ] {
            assert_eq!(Answer::parse(&answer.text()), Some(answer));
        }
        let long = Answer::Error("a\nb\u{e9}".repeat(1000)).text();
        assert!(long.len() < 250 && !long.contains('\n') && long.is_ascii());
    }

    proptest! {
        #[test]
        fn other_texts_are_refused(text in "[a-z0-9 -]{0,60}") {
            if let Some(request) = Request::parse(&text) {
                prop_assert_eq!(request.text(), text.clone());
            }
            let _ = Answer::parse(&text);
        }
    }
}
