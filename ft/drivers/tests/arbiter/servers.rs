//! Arbiters that are processes of their own: a witness in a copy of this test, and etcd from the
//! distribution.

use crate::contract::{KEY, Subject, contract};
use drivers::arbiter::target::Target;
use drivers::arbiter::witness::{Witness, WitnessArbiter};
use drivers::arbiter::{Arbiter, Claimed, Verdict};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Makes a copy of this test a witness: `PORT KEYED STATE`.
const CHILD: &str = "FTEMU_TEST_WITNESS";
const LIMIT: Duration = Duration::from_secs(20);

/// A process that is killed when it goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct WitnessProcess {
    dir: tempfile::TempDir,
    keyed: bool,
    port: u16,
    process: Option<Killed>,
}

impl WitnessProcess {
    fn start(keyed: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut witness = Self { dir, keyed, port: 0, process: None };
        witness.restart();
        witness
    }

    fn key(&self) -> Option<&'static [u8; 32]> {
        self.keyed.then_some(&KEY)
    }

    fn arbiter(&self, key: Option<&[u8; 32]>) -> WitnessArbiter {
        WitnessArbiter::new(format!("127.0.0.1:{}", self.port), key, LIMIT)
    }
}

impl Subject for WitnessProcess {
    fn connect(&self) -> Box<dyn Arbiter> {
        Box::new(self.arbiter(self.key()))
    }

    fn target(&self) -> Option<String> {
        Some(format!("witness:127.0.0.1:{}", self.port))
    }

    fn restart(&mut self) {
        self.process = None;
        let state = self.dir.path().join("state");
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "servers::witness_process", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {} {}", self.port, self.keyed, state.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a witness process");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        self.process = Some(Killed(child));
        let said = lines.map_while(Result::ok).find_map(|line| {
            line.strip_prefix("listening ").map(|port| port.parse().expect("a port"))
        });
        self.port = said.expect("the witness listens");
    }

    fn keyed(&self) -> bool {
        self.keyed
    }
}

/// Not a test of its own: the witness that the others start.
#[test]
fn witness_process() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let mut words = job.splitn(3, ' ');
    let port: u16 = words.next().expect("port").parse().expect("a number");
    let key = (words.next() == Some("true")).then_some(&KEY);
    let state = Path::new(words.next().expect("a file"));
    let witness = Witness::open(state, key).expect("the state");
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port");
    println!("\nlistening {}", listener.local_addr().expect("bound").port());
    panic!("{}", witness.serve(&listener));
}

#[test]
fn witness() {
    contract(&mut WitnessProcess::start(false));
}

#[test]
fn witness_with_a_key() {
    contract(&mut WitnessProcess::start(true));
}

#[test]
fn a_killed_witness_keeps_every_verdict() {
    let mut witness = WitnessProcess::start(false);
    let mut latest = None;
    for round in 0u64..8 {
        let mut arbiter = witness.arbiter(None);
        let killer = witness.process.take().expect("it runs");
        let killing = std::thread::spawn(move || {
            // At another instant each time; claims take a fraction of a millisecond to a few.
            std::thread::sleep(Duration::from_micros(1500 * round));
            drop(killer);
        });
        let mut epoch = round * 100_000 + 1;
        while let Ok(verdict) = arbiter.claim(5, epoch, 9) {
            assert_eq!(verdict, Verdict::Won);
            latest = Some(Claimed { epoch, owner: 9 });
            epoch += 1;
        }
        killing.join().expect("it was killed");
        witness.restart();
        let kept = witness.arbiter(None).latest(5).expect("at hand");
        let told = latest.map(|l| l.epoch);
        // The claim that was never answered may have been recorded.
        let kept_epoch = kept.map(|l| l.epoch);
        assert!(kept_epoch == told || kept_epoch == Some(epoch), "{kept:?} after {told:?}");
        latest = kept;
    }
    assert!(latest.is_some(), "claims were won");
}

#[test]
fn keys_must_agree() {
    let (keyed, plain) = (WitnessProcess::start(true), WitnessProcess::start(false));
    keyed.arbiter(Some(&KEY)).claim(1, 1, 10).expect("the right key");
    for (witness, key, says) in [
        (&keyed, None, "wants a key"),
        (&keyed, Some(&[0; 32]), "not proved"),
        (&plain, Some(&KEY), "has no key"),
    ] {
        let e = witness.arbiter(key).claim(1, 2, 11).expect_err("must be refused");
        assert!(e.to_string().contains(says), "{e}");
    }
    let latest = Some(Claimed { epoch: 1, owner: 10 });
    assert_eq!(keyed.arbiter(Some(&KEY)).latest(1).expect("at hand"), latest);
    assert_eq!(plain.arbiter(None).latest(1).expect("at hand"), None);
}

/// A request that a keyed witness took is not taken again on another connection.
#[test]
fn recorded_requests_prove_nothing_later() {
    let keyed = WitnessProcess::start(true);
    // Between claimant and witness stands somebody who keeps what passes.
    let between = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = between.local_addr().expect("bound").to_string();
    let port = keyed.port;
    let eavesdropper = std::thread::spawn(move || {
        let (client, _) = between.accept().expect("the claimant");
        let server = TcpStream::connect(("127.0.0.1", port)).expect("the witness");
        let (mut from_client, mut from_server) = (lines(&client), lines(&server));
        let pass = |line: String, mut to: &TcpStream| to.write_all(line.as_bytes()).expect("sent");
        pass(from_server(), &client);
        let request = from_client();
        pass(request.clone(), &server);
        pass(from_server(), &client);
        request
    });
    let mut arbiter = WitnessArbiter::new(address, Some(&KEY), LIMIT);
    assert_eq!(arbiter.claim(1, 1, 10).expect("passed on"), Verdict::Won);
    let request = eavesdropper.join().expect("it passed three lines");
    let mut server = TcpStream::connect(("127.0.0.1", port)).expect("the witness");
    let mut answers = lines(&server);
    answers();
    server.write_all(request.as_bytes()).expect("sent");
    assert_eq!(answers(), "- error not proved by the key\n");
}

fn lines(stream: &TcpStream) -> impl FnMut() -> String + use<> {
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
    move || {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        line
    }
}

#[test]
fn hostile_clients_do_no_harm() {
    let witness = WitnessProcess::start(false);
    let connect = || TcpStream::connect(("127.0.0.1", witness.port)).expect("the witness");
    // Those who say nothing take all places and more; each is turned away for the next.
    let silent: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let long = vec![b'x'; 1 << 20];
    for bytes in [
        &b"\n"[..],
        b"\0\xFF\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"claim 1 1 1\n",
        b"00000000000000000000000000000001 - claim 1 2 3\n",
        b"00000000000000000000000000000001 - latest 00000000000000000000000000000001 x\n",
        b"00000000000000000000000000000001 0 latest 00000000000000000000000000000001\n",
        &long,
    ] {
        let mut stream = connect();
        stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        // It may hang up before it has read all.
        let _ = stream.write_all(bytes);
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        let answer = said.lines().nth(1).unwrap_or("- error (cut off)");
        assert!(answer.starts_with("- error "), "{said}");
    }
    assert_eq!(witness.arbiter(None).claim(1, 1, 10).expect("still there"), Verdict::Won);
    drop(silent);
}

#[test]
fn a_client_bears_hostile_witnesses() {
    let long = vec![b'y'; 1 << 20];
    let greeting = format!("ftemu-witness 1 {:032x} plain\n", 1);
    let after = |text: &str| [greeting.as_bytes(), text.as_bytes()].concat();
    for bytes in [
        b"".to_vec(),
        b"ftemu-witness 2 00 plain\n".to_vec(),
        greeting.clone().into_bytes(),
        after("won\n"),
        after("- perhaps\n"),
        after("- never\n"),
        after("- lost 1\n"),
        after("- error full\n"),
        after("- won"),
        long,
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(WitnessArbiter::new(address, None, LIMIT).claim(1, 1, 1).is_err());
        server.join().expect("the server");
    }
    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound").to_string();
    let begin = Instant::now();
    let mut arbiter = WitnessArbiter::new(address, None, Duration::from_millis(50));
    assert!(arbiter.claim(1, 1, 1).is_err());
    assert!(begin.elapsed() < LIMIT, "it gave up in time");
}

struct Etcd {
    dir: tempfile::TempDir,
    ports: [u16; 2],
    process: Option<Killed>,
}

impl Etcd {
    fn arbiter(&self) -> Box<dyn Arbiter> {
        let target: Target = self.target().expect("named").parse().expect("an arbiter");
        target.open(&Default::default(), None).expect("nothing is reached yet")
    }
}

impl Subject for Etcd {
    fn connect(&self) -> Box<dyn Arbiter> {
        self.arbiter()
    }

    fn target(&self) -> Option<String> {
        Some(format!("etcd://127.0.0.1:{}", self.ports[0]))
    }

    fn restart(&mut self) {
        self.process = None;
        let [client, peer] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed");
        self.process = Some(Killed(child));
        let begin = Instant::now();
        while let Err(e) = self.arbiter().latest(0) {
            assert!(begin.elapsed() < Duration::from_secs(60), "etcd does not begin: {e}");
            let running = self.process.as_mut().expect("as above").0.try_wait();
            assert!(matches!(running, Ok(None)), "etcd ended: {running:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn etcd() {
    let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "etcd is not installed (Debian: etcd-server)");
        eprintln!("etcd: left out, it is not installed (Debian: etcd-server)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("loopback"));
    let ports = free.map(|listener| listener.local_addr().expect("bound").port());
    let mut etcd = Etcd { dir, ports, process: None };
    etcd.restart();
    contract(&mut etcd);
    // Somebody else's key is no claim.
    let put = serde_json::json!({
        "key": base64("ftemu/000000000000000000000000000000ff"),
        "value": base64("7"),
    });
    let url = format!("http://127.0.0.1:{}/v3/kv/put", etcd.ports[0]);
    let done = minreq::post(url).with_body(put.to_string()).with_timeout(10).send();
    assert_eq!(done.expect("etcd").status_code, 200);
    assert!(etcd.arbiter().claim(0xFF, 8, 1).is_err());
    assert_eq!(etcd.arbiter().claim(0xFE, 8, 1).expect("of another machine"), Verdict::Won);
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(text)
}
