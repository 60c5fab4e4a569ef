//! The claimant's end: one connection for a question.
//!
//! Contract: a call ends within the time limit, with an answer that the server proved, or an error.

use super::{Answer, Direction, GREETING, Lines, Proof, Request, invalid, nonce};
use crate::arbiter::{Arbiter, Claimed, Verdict, hex, parse_hex};
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// A witness as arbiter.
#[derive(Debug)]
pub struct WitnessArbiter {
    address: String,
    proof: Option<Proof>,
    limit: Duration,
}

impl WitnessArbiter {
    /// Asks the witness at `address` (HOST:PORT), which has the same key or none; each call may
    /// take `limit`.
    #[must_use]
    pub fn new(address: String, key: Option<&[u8; 32]>, limit: Duration) -> Self {
        Self { address, proof: key.map(Proof::new), limit }
    }

    fn ask(&self, request: Request) -> io::Result<Answer> {
        self.converse(request).map_err(|e| {
            let text = match e.kind() {
                io::ErrorKind::TimedOut => "it does not answer".into(),
                io::ErrorKind::UnexpectedEof => "it hung up".into(),
                _ => e.to_string(),
            };
            io::Error::new(e.kind(), format!("witness {}: {text}", self.address))
        })
    }

    fn converse(&self, request: Request) -> io::Result<Answer> {
        let deadline = Instant::now() + self.limit;
        let stream = self.connect(deadline)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(self.limit))?;
        let mut lines = Lines::new(stream);
        let greeting = lines.next(deadline)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let server = self.greeted(&greeting)?;
        let client = nonce()?;
        let body = request.text();
        let sign = |proof: &Proof| proof.sign(Direction::Request, server, client, &body);
        let mac = self.proof.as_ref().map_or_else(|| "-".into(), sign);
        let text = format!("{} {mac} {body}\n", hex(client));
        lines.stream.write_all(text.as_bytes())?;
        let reply = lines.next(deadline)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let (mac, body) = reply.split_once(' ').ok_or_else(|| invalid("it speaks nonsense"))?;
        let answer = Answer::parse(body).ok_or_else(|| invalid("it speaks nonsense"))?;
        if let Answer::Error(text) = answer {
            return Err(io::Error::other(text));
        }
        match &self.proof {
            Some(proof) if !proof.holds(mac, Direction::Reply, server, client, body) => {
                Err(invalid("its answer is not proved by the key"))
            }
            _ => Ok(answer),
        }
    }

    fn connect(&self, deadline: Instant) -> io::Result<TcpStream> {
        let mut failed = io::Error::other("the name has no address");
        for address in self.address.to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => return Ok(stream),
                Err(e) => failed = e,
            }
        }
        Err(failed)
    }

    /// The server's nonce.
    fn greeted(&self, line: &str) -> io::Result<u128> {
        let rest = line.strip_prefix(GREETING).and_then(|rest| rest.strip_prefix(' '));
        let (server, mode) =
            rest.and_then(|rest| rest.split_once(' ')).ok_or_else(|| invalid("not a witness"))?;
        let server = parse_hex(server).ok_or_else(|| invalid("not a witness"))?;
        match (mode, &self.proof) {
            ("keyed", Some(_)) | ("plain", None) => Ok(server),
            ("keyed", None) => Err(invalid("it wants a key and there is none here")),
            ("plain", Some(_)) => Err(invalid("it has no key: start it with --key")),
            _ => Err(invalid("not a witness")),
        }
    }
}

impl Arbiter for WitnessArbiter {
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        match self.ask(Request::Claim { vm, epoch, claimant })? {
            Answer::Verdict(verdict) => Ok(verdict),
            _ => Err(invalid("the witness answered another question")),
        }
    }

    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>> {
        match self.ask(Request::Latest { vm })? {
            Answer::Latest(latest) => Ok(latest),
            _ => Err(invalid("the witness answered another question")),
        }
    }
}
