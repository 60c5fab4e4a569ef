//! Two channels on loopback, and peers that are none.
#![allow(clippy::unwrap_used)]

use super::*;
use backends::wake::Bell;
use proptest::prelude::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// No test takes longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

fn greeting(memory: &str) -> Greeting {
    let settings = vec![("memory".to_string(), memory.to_string())];
    Greeting::new("ftemu test", Formats { log: 1, snapshot: 1 }, 0, settings)
}

fn config(listen: Option<Address>, peer: Option<Address>, secret: Secret) -> ChannelConfig {
    ChannelConfig { listen, peer, secret, greeting: greeting("536870912") }
}

fn any_port() -> Address {
    Address::Tcp("127.0.0.1:0".into())
}

fn key(byte: u8) -> Secret {
    Secret::Key(Key([byte; 32]))
}

/// A channel with its inbox, on this thread.
struct End {
    channel: Channel,
    inbox: Inbox,
    bell: Bell,
}

impl End {
    fn open(config: ChannelConfig) -> Self {
        let bell = Bell::new();
        let (channel, inbox) = Channel::open(config, bell.waker()).expect("opened");
        Self { channel, inbox, bell }
    }

    fn listen(secret: Secret) -> Self {
        Self::open(config(Some(any_port()), None, secret))
    }

    fn address(&self) -> Address {
        Address::Tcp(format!("127.0.0.1:{}", self.channel.port().expect("listens")))
    }

    fn call(peer: &End, secret: Secret) -> Self {
        Self::open(config(None, Some(peer.address()), secret))
    }

    /// The next event.
    fn next(&self) -> ChannelEvent {
        let start = Instant::now();
        loop {
            self.bell.take();
            if let Some(event) = self.inbox.try_recv() {
                return event;
            }
            assert!(start.elapsed() < PATIENCE, "nothing happened");
            self.bell.wait(Some(Duration::from_millis(100)));
        }
    }

    fn up(&self) -> u64 {
        loop {
            match self.next() {
                ChannelEvent::Up { conn, .. } => return conn,
                ChannelEvent::Trouble(line) if line.starts_with("waiting for the peer") => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn message(&self) -> Vec<u8> {
        match self.next() {
            ChannelEvent::Message { bytes, .. } => bytes,
            event => panic!("{event:?}"),
        }
    }

    fn down(&self) -> (u64, String) {
        match self.next() {
            ChannelEvent::Down { conn, why } => (conn, why),
            event => panic!("{event:?}"),
        }
    }

    fn trouble(&self) -> String {
        match self.next() {
            ChannelEvent::Trouble(line) => line,
            event => panic!("{event:?}"),
        }
    }
}

/// `a` and `b` have a connection that works both ways.
fn check_pair(a: &End, b: &End) -> (u64, u64) {
    let (at_a, at_b) = (a.up(), b.up());
    check_works(a, b, at_a, at_b);
    (at_a, at_b)
}

fn check_works(a: &End, b: &End, at_a: u64, at_b: u64) {
    assert!(a.channel.send(at_a, b"to b".to_vec()));
    assert!(b.channel.send(at_b, b"to a".to_vec()));
    assert_eq!(b.message(), b"to b");
    assert_eq!(a.message(), b"to a");
}

#[test]
fn many_messages_of_all_sizes_arrive_in_order_both_ways() {
    let a = End::listen(key(1));
    let b = End::call(&a, key(1));
    let (at_a, at_b) = (a.up(), b.up());
    let size = |n: usize| match n % 500 {
        0 => 3_000_000 + n,
        100 => 65_519,
        200 => 65_519 - 8,
        _ => n % 1000,
    };
    let content = |n: usize| vec![n as u8; size(n)];
    for n in 0..5000 {
        assert!(a.channel.send(at_a, content(n)));
        assert!(b.channel.send(at_b, content(n)));
    }
    for n in 0..5000 {
        assert!(a.message() == content(n), "message {n} to a");
        assert!(b.message() == content(n), "message {n} to b");
    }
    assert_eq!(a.channel.queued_bytes(at_a) + b.channel.queued_bytes(at_b), 0);
    let long = vec![7; MESSAGE_MAX];
    assert!(a.channel.send(at_a, long.clone()));
    assert!(b.message() == long, "the longest message");
}

#[test]
fn unix_sockets_need_no_key_and_belong_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("channel");
    let address = Address::Unix(path.clone());
    // The caller is first: it waits.
    let b = End::open(config(None, Some(address.clone()), Secret::Local));
    assert!(b.trouble().starts_with("waiting for the peer at "));
    let a = End::open(config(Some(address), None, Secret::Local));
    check_pair(&a, &b);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop(a);
    b.down();
    await_that(|| !path.exists());
}

/// Waits until `done`.
fn await_that(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "it did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_used_is_said_at_once() {
    let open = |listen: &str| {
        let config = config(Some(Address::Tcp(listen.into())), None, Secret::Local);
        Channel::open(config, Bell::new().waker()).map(drop).expect_err("refused")
    };
    let line = "0.0.0.0:0 can be reached from other computers: that needs a key (--key FILE) or \
                pairing";
    assert_eq!(open("0.0.0.0:0"), line);
    let taken = End::listen(Secret::Local);
    let text = open(&taken.address().to_string());
    assert!(text.starts_with("cannot listen on 127.0.0.1:"), "{text}");
}

/// A running pair is not disturbed by what `other` does, and the lines that both sides say contain
/// `here` and `there`.
fn check_turned_away(other: ChannelConfig, here: &str, there: &str) {
    let a = End::listen(key(1));
    let b = End::call(&a, key(1));
    let (at_a, at_b) = check_pair(&a, &b);
    let c = End::open(ChannelConfig { peer: Some(a.address()), ..other });
    let line = c.trouble();
    assert!(line.ends_with(there), "{line}");
    let line = a.trouble();
    assert!(line.starts_with("turned 127.0.0.1:") && line.ends_with(here), "{line}");
    check_works(&a, &b, at_a, at_b);
}

#[test]
fn a_wrong_key_is_turned_away() {
    let other = config(None, None, key(2));
    check_turned_away(other, ": the peer has another key", ": the peer has another key");
}

#[test]
fn another_kind_of_secret_is_turned_away() {
    check_turned_away(
        config(None, None, Secret::Local),
        ": the peer was started with no key, this side with a key",
        ": the peer was started with a key, this side with no key",
    );
}

#[test]
fn another_machine_is_turned_away() {
    let mut other = config(None, None, key(1));
    other.greeting = greeting("1073741824");
    check_turned_away(
        other,
        ": the peer has 1 GiB of memory, this side 512 MiB",
        ": the peer has 512 MiB of memory, this side 1 GiB",
    );
}

/// Bytes of a stranger to a listening channel; the end of the connection and the line for the user.
fn stranger(a: &End, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(a.address().to_string()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    // The channel ends the connection: in order, or because bytes are left over.
    let _ = stream.read_to_end(&mut Vec::new());
    let line = a.trouble();
    line.split_once(" away: ").expect("a line").1.to_string()
}

fn preamble(version: u16, kind: u8) -> Vec<u8> {
    let [low, high] = version.to_le_bytes();
    [&b"ftemu-ch"[..], &[low, high, kind, 0]].concat()
}

#[test]
fn strangers_are_told_apart_and_disturb_nothing() {
    let a = End::listen(key(1));
    let foreign = "what is there does not speak ftemu's logging channel";
    assert_eq!(stranger(&a, b"GET / HTTP/1.1\r\n\r\n"), foreign);
    let version = "the peer speaks version 7 of the logging channel, this side 1";
    assert_eq!(stranger(&a, &preamble(7, 1)), version);
    assert_eq!(stranger(&a, &preamble(1, 77)), "the handshake is garbled");
    let cut = "ended during the handshake: closed by the other side";
    assert_eq!(stranger(&a, &preamble(1, 1)[..9]), cut);
    let step = [&preamble(1, 1)[..], &[1, 0, 48], &[0; 48]].concat();
    assert_eq!(stranger(&a, &step), "the peer has another key");
    // Whoever only looks whether the port is open is not worth a line, and one line is not said
    // twice.
    drop(TcpStream::connect(a.address().to_string()).unwrap());
    let mut again = TcpStream::connect(a.address().to_string()).unwrap();
    again.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _ = again.read_to_end(&mut Vec::new());
    let b = End::call(&a, key(1));
    check_pair(&a, &b);
}

#[test]
fn slow_handshakes_end_in_time_and_keep_nobody_out() {
    let a = End::listen(key(1));
    let address = a.address().to_string();
    let start = Instant::now();
    let mut slow: Vec<_> = (0..50).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let b = End::call(&a, key(1));
    check_pair(&a, &b);
    assert!(start.elapsed() < HANDSHAKE_TIME, "strangers kept the peer out");
    // One that goes on byte by byte is no better.
    let mut last = slow.pop().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let bytes = preamble(1, 1);
    let mut byte = bytes.iter();
    let mut buffer = [0; 64];
    last.set_nonblocking(true).unwrap();
    loop {
        match last.read(&mut buffer) {
            Ok(0) => break,
            Err(e) if e.kind() != std::io::ErrorKind::WouldBlock => break,
            _ => {}
        }
        let _ = byte.next().map(|byte| last.write_all(&[*byte]));
        assert!(start.elapsed() < HANDSHAKE_TIME + PATIENCE, "a slow handshake goes on");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn a_lost_connection_comes_up_again() {
    let a = End::listen(key(1));
    let b = End::call(&a, key(1));
    let mut last = (0, 0);
    for round in 0..3 {
        let (at_a, at_b) = check_pair(&a, &b);
        assert!(at_a > last.0 && at_b > last.1, "numbers are not used again");
        last = (at_a, at_b);
        match round {
            0 => b.channel.close(at_b),
            _ => a.channel.close(at_a),
        }
        let closed = (at_a, "the peer closed the connection".to_string());
        match round {
            0 => assert_eq!((a.down(), b.down()), (closed, (at_b, "closed".into()))),
            _ => assert_eq!(a.down(), (at_a, "closed".into())),
        }
        if round > 0 {
            assert_eq!(b.down(), (at_b, "the peer closed the connection".into()));
        }
        assert!(!a.channel.send(at_a, vec![]), "it is down");
    }
}

#[test]
fn what_is_queued_arrives_before_a_close_and_before_the_end() {
    for finish in [false, true] {
        let a = End::listen(key(1));
        let b = End::call(&a, key(1));
        let (at_a, at_b) = (a.up(), b.up());
        for n in 0..100 {
            assert!(b.channel.send(at_b, vec![n; 10_000]));
        }
        if finish {
            b.channel.finish();
        } else {
            b.channel.close(at_b);
            assert!(!b.channel.send(at_b, vec![]), "closed");
        }
        for n in 0..100 {
            assert_eq!(a.message(), vec![n; 10_000]);
        }
        // Perhaps the peer has called again by now.
        let (conn, why) = a.down();
        let reasons = ["the peer closed the connection", "the peer has called again"];
        assert!(conn == at_a && reasons.contains(&why.as_str()), "{conn} {why}");
    }
}

#[test]
fn both_sides_may_listen_and_call() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Address::Unix(folder.path().join(name));
        let both = |own: &str, other: &str| {
            End::open(config(Some(path(own)), Some(path(other)), Secret::Local))
        };
        let (a, b) = (both("a", "b"), both("b", "a"));
        // Whichever of the two calls is first: there is one connection, and it stays.
        check_pair(&a, &b);
        assert!(!matches!(a.inbox.try_recv(), Some(ChannelEvent::Up { .. })));
    }
}

#[test]
fn a_machine_that_calls_itself_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("a"));
    let a = End::open(config(Some(address.clone()), Some(address), Secret::Local));
    let line = a.trouble();
    assert!(line.ends_with("that is this machine itself"), "{line}");
}

#[test]
fn messages_that_are_not_taken_stop_the_peer() {
    let a = End::listen(key(1));
    let b = End::call(&a, key(1));
    let (_, at_b) = (a.up(), b.up());
    const SIZE: usize = 1 << 20;
    for _ in 0..200 {
        assert!(b.channel.send(at_b, vec![0; SIZE]), "sending never waits");
    }
    await_that(|| a.inbox.waiting_bytes() + 2 * SIZE > BYTES_MAX);
    std::thread::sleep(Duration::from_millis(200));
    assert!(a.inbox.waiting_bytes() <= BYTES_MAX);
    assert!(b.channel.queued_bytes(at_b) > 100 * SIZE as u64, "most waits at the sender");
    for _ in 0..200 {
        assert_eq!(a.message().len(), SIZE);
    }
    assert_eq!(b.channel.queued_bytes(at_b), 0);
}

fn pairing(code: &Code, store: Option<&Path>) -> Secret {
    Secret::Pairing { code: *code, store: store.map(Path::to_path_buf) }
}

#[test]
fn pairing_gives_both_sides_a_key_that_lasts() {
    let folder = tempfile::tempdir().unwrap();
    let (at_a, at_b) = (folder.path().join("a"), folder.path().join("b"));
    let code = Code::generate().unwrap();
    let a = End::listen(pairing(&code, Some(&at_a)));
    let b = End::call(&a, pairing(&code, Some(&at_b)));
    let (_, conn) = check_pair(&a, &b);
    let kept = Key::read(&at_a).unwrap();
    assert_eq!(Key::read(&at_b), Ok(kept.clone()));
    // The same two processes go on with the key, and so does a new one; the code is used up.
    b.channel.close(conn);
    a.down();
    b.down();
    check_pair(&a, &b);
    check_pair(&a, &End::call(&a, Secret::Key(kept)));
    let late = End::call(&a, pairing(&code, None));
    let line = late.trouble();
    let kinds = "the peer was started with a key, this side with a pairing code";
    assert!(line.ends_with(kinds), "{line}");
}

#[test]
fn wrong_codes_are_counted_and_then_pairing_is_closed() {
    let code: Code = "1111-1111".parse().unwrap();
    let wrong: Code = "2222-2222".parse().unwrap();
    let a = End::listen(pairing(&code, None));
    for attempt in 0..ATTEMPTS_MAX {
        let line = End::call(&a, pairing(&wrong, None)).trouble();
        assert!(line.ends_with("the pairing codes are not the same; not calling again"), "{line}");
        if attempt == 0 {
            assert!(a.trouble().ends_with("the pairing codes are not the same"));
        }
    }
    let line = End::call(&a, pairing(&code, None)).trouble();
    assert!(line.contains("too many wrong pairing codes"), "{line}");
}

#[test]
fn the_death_of_a_process_is_seen_at_once() {
    const CHILD: &str = "FTEMU_CHANNEL_TEST_PEER";
    if let Ok(address) = std::env::var(CHILD) {
        // This is the other process: it waits for its death.
        let b = End::open(config(None, Some(Address::Tcp(address)), key(1)));
        let conn = b.up();
        assert!(b.channel.send(conn, b"ready".to_vec()));
        b.down();
        return;
    }
    let a = End::listen(key(1));
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "channel::tests::the_death_of_a_process_is_seen_at_once"])
        .env(CHILD, a.address().to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let conn = a.up();
    assert_eq!(a.message(), b"ready");
    // What the kernel has is not lost, whatever this side has sent meanwhile.
    let start = Instant::now();
    child.kill().unwrap();
    let (down, why) = a.down();
    let time = start.elapsed();
    child.wait().unwrap();
    assert_eq!(down, conn);
    assert!(why == "the peer closed the connection" || why == "the peer is gone", "{why}");
    // A busy computer needs its time to end a process; a timeout would need more.
    assert!(time < Duration::from_secs(3), "{time:?}");
}

/// Feeds `bytes` to a peer in the middle of the handshake, or after it, in the place of what it
/// expects.
fn handshake_with(bytes: &[u8]) -> Result<(), HandshakeError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let registry = {
        let (outbox, _inbox) = inbox::inbox(Bell::new().waker());
        Registry::new(greeting("1"), key(1), outbox)
    };
    (&theirs).write_all(bytes).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    registry.shake(&backends::socket::Stream::Unix(ours), false).map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_bytes_before_the_handshake_are_refused(bytes: Vec<u8>, sound in 0usize..3) {
        let front = match sound {
            0 => vec![],
            1 => preamble(1, 1),
            _ => [&preamble(1, 1)[..], &[1, 0, 48]].concat(),
        };
        prop_assert!(handshake_with(&[front, bytes].concat()).is_err());
    }

    #[test]
    fn hostile_bytes_after_the_handshake_end_the_connection(
        bytes in prop::collection::vec(any::<u8>(), 1..200), early: bool,
    ) {
        let (mut sealer, mut opener) = record_pair(early);
        let mut wire = Vec::new();
        sealer.push(b"sound", &mut wire).unwrap();
        sealer.flush(&mut wire).unwrap();
        wire.extend_from_slice(&bytes);
        let mut source = &wire[..];
        prop_assert_eq!(opener.next(&mut source).unwrap(), b"sound");
        prop_assert!(opener.next(&mut source).is_err());
    }

    #[test]
    fn a_peer_with_the_key_that_sends_nonsense_is_no_danger(
        bytes in prop::collection::vec(any::<u8>(), 1..400),
    ) {
        // Decrypts well, but what is inside are no messages.
        let (mut sealer, mut opener) = record_pair(true);
        let mut wire = Vec::new();
        sealer.seal(&bytes);
        sealer.flush(&mut wire).unwrap();
        let mut source = &wire[..];
        for _ in 0..100 {
            match opener.next(&mut source) {
                Ok(message) => prop_assert!(message.len() <= GREETING_MAX),
                Err(_) => return Ok(()),
            }
        }
        prop_assert!(false, "nonsense goes on for ever");
    }

    #[test]
    fn a_changed_bit_ends_the_connection(
        message in prop::collection::vec(any::<u8>(), 0..400),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let (mut sealer, mut opener) = record_pair(false);
        let mut wire = Vec::new();
        sealer.push(&message, &mut wire).unwrap();
        sealer.flush(&mut wire).unwrap();
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        prop_assert!(opener.next(&mut &wire[..]).is_err());
    }
}

/// Both halves of one direction, with a limit as for greetings (`early`) or as for messages.
fn record_pair(early: bool) -> (record::Sealer, record::Opener) {
    let (to_b, to_a) = UnixStream::pair().unwrap();
    let end = |initiator: bool, mut wire: UnixStream| {
        let mut greeting = greeting("1");
        greeting.instance = u64::from(initiator);
        let proof = handshake::Proof::Key(Key([1; 32]));
        let side = handshake::Side { initiator, greeting: &greeting, proof, admit: &|_, _| true };
        side.shake(&mut wire).map_err(|e| e.to_string()).unwrap()
    };
    let other = std::thread::spawn(move || end(true, to_b));
    let (b, a) = (end(false, to_a), other.join().unwrap());
    let mut opener = b.opener;
    if early {
        opener.set_limit(GREETING_MAX);
    }
    (a.sealer, opener)
}

#[test]
fn a_user_that_is_held_up_is_not_silent_and_one_that_is_gone_is() {
    let a = End::listen(key(1));
    let b = End::call(&a, key(1));
    let (at_a, _) = check_pair(&a, &b);
    let (beat, grace) = (Duration::from_millis(10), Duration::from_millis(400));
    a.channel.keep_alive(beat, grace);
    // Without a sign there is nothing to repeat.
    assert!(a.channel.send(at_a, b"plain".to_vec()));
    assert_eq!(b.message(), b"plain");
    let held_up = Instant::now();
    a.channel.alive();
    assert!(a.channel.send_with_sign(at_a, b"entries".to_vec(), Some(b"I live".to_vec())));
    assert_eq!(b.message(), b"entries");
    let mut signs = 0;
    let last = loop {
        match b.inbox.try_recv() {
            Some(ChannelEvent::Message { bytes, .. }) => {
                assert_eq!(bytes, b"I live");
                signs += 1;
            }
            Some(event) => panic!("{event:?}"),
            // The grace, and then a silence of many beats.
            None if held_up.elapsed() > grace * 3 => break signs,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!((2..=41).contains(&last), "{last} signs");
    // It is back: signs again, and everything in order.
    a.channel.alive();
    assert_eq!(b.message(), b"I live");
    assert_eq!(a.channel.queued_bytes(at_a), 0);
    a.channel.close(at_a);
    loop {
        match b.next() {
            ChannelEvent::Message { bytes, .. } => assert_eq!(bytes, b"I live"),
            ChannelEvent::Down { .. } => break,
            event => panic!("{event:?}"),
        }
    }
}
