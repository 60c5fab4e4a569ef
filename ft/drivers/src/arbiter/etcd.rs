//! The arbiter `etcd://HOST:PORT`: a key of etcd, by its JSON gateway (etcd 3.4 and later,
//! `/v3/kv/…`, no TLS).
//!
//! The register of a machine is the key `ftemu/VM`, its value `EPOCH OWNER`. A claim reads the key
//! (a linearizable read, through the majority), and if the claim is newer writes it in a
//! transaction that holds only if the key's `mod_revision` is still the one that was read (0: there
//! is no key); otherwise it reads again. etcd answers a transaction when a majority has it on disk.
//! A revision never comes back, so nothing can be overlooked between reading and writing.
//!
//! Contract: bytes of the server are bounded; whatever is not an answer of etcd is an error.

use super::{Arbiter, Claimed, Verdict, hex, judge, parse_decimal, parse_hex};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// How often others may be faster before it is an error.
const ATTEMPTS: usize = 100;

/// A cluster of etcd as arbiter.
#[derive(Debug)]
pub struct EtcdArbiter {
    address: String,
    seconds: u64,
}

/// What the key holds, and since which revision; no claim and 0 if there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    latest: Option<Claimed>,
    revision: u64,
}

impl EtcdArbiter {
    /// Asks the member of the cluster at `address` (HOST:PORT); each of its answers may take
    /// `limit`, in whole seconds.
    #[must_use]
    pub fn new(address: String, limit: Duration) -> Self {
        Self { address, seconds: limit.as_secs().max(1) }
    }

    fn post(&self, path: &str, body: &Value) -> io::Result<Value> {
        let failed = |text: String| io::Error::other(format!("etcd {}: {text}", self.address));
        let response = minreq::post(format!("http://{}/v3/kv/{path}", self.address))
            .with_header("Content-Type", "application/json")
            .with_body(body.to_string())
            .with_timeout(self.seconds)
            .with_max_redirects(0)
            .with_max_headers_size(MAX_ANSWER)
            .with_max_status_line_length(MAX_ANSWER)
            .send_lazy()
            .map_err(|e| failed(e.to_string()))?;
        let status = response.status_code;
        let mut bytes = Vec::new();
        for byte in response {
            bytes.push(byte.map_err(|e| failed(e.to_string()))?.0);
            if bytes.len() > MAX_ANSWER {
                return Err(failed("its answer is too long".into()));
            }
        }
        if status != 200 {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            return Err(failed(format!("HTTP status {status}: {}", text.escape_debug())));
        }
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("it speaks no JSON: {e}")))
    }

    fn read(&self, vm: u128) -> io::Result<Seen> {
        let answer = self.post("range", &json!({ "key": key(vm) }))?;
        seen(&answer).ok_or_else(|| {
            let text = format!("etcd {}: the key {} holds no claim", self.address, name(vm));
            io::Error::new(io::ErrorKind::InvalidData, text)
        })
    }

    /// Writes `claim` if the key is still at `revision`; whether it was.
    fn write(&self, vm: u128, revision: u64, claim: Claimed) -> io::Result<bool> {
        let key = key(vm);
        let value = BASE64_STANDARD.encode(format!("{} {}", claim.epoch, hex(claim.owner)));
        let answer = self.post(
            "txn",
            &json!({
                "compare": [{
                    "key": key,
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": revision.to_string(),
                }],
                "success": [{ "request_put": { "key": key, "value": value } }],
            }),
        )?;
        if answer["header"]["revision"].as_str().is_none() {
            let text = format!("etcd {}: it answers no transaction", self.address);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        // The gateway leaves out what is false.
        Ok(answer["succeeded"].as_bool().unwrap_or(false))
    }
}

fn name(vm: u128) -> String {
    format!("ftemu/{}", hex(vm))
}

fn key(vm: u128) -> String {
    BASE64_STANDARD.encode(name(vm))
}

/// What an answer to a range request shows; `None`: no such thing.
fn seen(answer: &Value) -> Option<Seen> {
    answer["header"]["revision"].as_str()?;
    let Some(found) = answer.get("kvs").and_then(|kvs| kvs.get(0)) else {
        return Some(Seen { latest: None, revision: 0 });
    };
    let value = BASE64_STANDARD.decode(found["value"].as_str()?).ok()?;
    let (epoch, owner) = str::from_utf8(&value).ok()?.split_once(' ')?;
    let latest = Claimed { epoch: parse_decimal(epoch)?, owner: parse_hex(owner)? };
    let revision = found["mod_revision"].as_str()?.parse().ok()?;
    Some(Seen { latest: Some(latest), revision })
}

impl Arbiter for EtcdArbiter {
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        for _ in 0..ATTEMPTS {
            let seen = self.read(vm)?;
            if let Some(verdict) = judge(seen.latest, epoch, claimant) {
                return Ok(verdict);
            }
            if self.write(vm, seen.revision, Claimed { epoch, owner: claimant })? {
                return Ok(Verdict::Won);
            }
        }
        Err(io::Error::other(format!("etcd {}: others are always faster", self.address)))
    }

    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>> {
        self.read(vm).map(|seen| seen.latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn answers_are_read_strictly() {
        let answer = |kvs: Value| json!({ "header": { "revision": "9" }, "kvs": kvs });
        let value = |text: &str| BASE64_STANDARD.encode(text);
        let good = format!("7 {}", hex(5));
        let one = |value: String| seen(&answer(json!([{ "value": value, "mod_revision": "8" }])));
        let latest = Some(Claimed { epoch: 7, owner: 5 });
        assert_eq!(one(value(&good)), Some(Seen { latest, revision: 8 }));
        let none = Some(Seen { latest: None, revision: 0 });
        assert_eq!(seen(&json!({ "header": { "revision": "9" } })), none);
        assert_eq!(seen(&answer(json!([]))), none);
        for bad in ["", "7", "7 5", " ", "-1 0", &good.replace('7', "x")] {
            assert_eq!(one(value(bad)), None, "{bad}");
        }
        assert_eq!(one("***".into()), None);
        assert_eq!(seen(&json!({})), None);
        assert_eq!(seen(&answer(json!([{ "value": value(&good), "mod_revision": 8 }]))), None);
    }

    #[test]
    fn whatever_is_not_etcd_is_an_error() {
        let answers: [&[u8]; 7] = [
            b"",
            b"\xFF\x00",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad",
            b"HTTP/1.1 301 Away\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n{",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n{",
        ];
        for answer in answers {
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
            let address = listener.local_addr().expect("bound").to_string();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a client");
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            });
            let mut etcd = EtcdArbiter::new(address, Duration::from_secs(5));
            assert!(etcd.claim(1, 1, 1).is_err(), "{:?}", String::from_utf8_lossy(answer));
            server.join().expect("server");
        }
        assert!(EtcdArbiter::new("127.0.0.1:1".into(), Duration::from_secs(1)).latest(1).is_err());
    }
}
