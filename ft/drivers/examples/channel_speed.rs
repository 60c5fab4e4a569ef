//! Measures the logging channel between two processes on loopback: round trip, throughput, and how
//! soon the death of a process is seen.
//!
//! `cargo run -p drivers --profile fast --example channel_speed [unix]`

use backends::socket::Address;
use backends::wake::Bell;
use drivers::channel::{Channel, ChannelConfig, ChannelEvent, Formats, Greeting, Inbox};
use drivers::channel::{Key, Secret};
use std::time::{Duration, Instant};

/// Messages there and back.
const ROUNDS: usize = 20_000;
/// Bytes of each.
const SMALL: usize = 100;
/// Bytes of throughput.
const TOTAL: usize = 2 << 30;
/// Queued at a time, at most.
const QUEUED: u64 = 16 << 20;
/// An answer instead of an echo.
const DONE: &[u8] = b"done";

struct End {
    channel: Channel,
    inbox: Inbox,
    bell: Bell,
}

impl End {
    fn open(listen: Option<Address>, peer: Option<Address>) -> Self {
        let greeting = Greeting::new("speed", Formats::default(), 0, vec![]);
        let secret = Secret::Key(Key([1; 32]));
        let bell = Bell::new();
        let config = ChannelConfig { listen, peer, secret, greeting };
        let (channel, inbox) = Channel::open(config, bell.waker()).expect("a channel");
        Self { channel, inbox, bell }
    }

    fn next(&self) -> ChannelEvent {
        loop {
            self.bell.take();
            match self.inbox.try_recv() {
                None => self.bell.wait(None),
                Some(event) => return event,
            }
        }
    }

    fn up(&self) -> u64 {
        loop {
            if let ChannelEvent::Up { conn, .. } = self.next() {
                return conn;
            }
        }
    }
}

/// Sends small messages back, counts large ones.
fn peer(address: Address) {
    let end = End::open(None, Some(address));
    let conn = end.up();
    let mut large = 0;
    loop {
        match end.next() {
            ChannelEvent::Message { bytes, .. } if bytes.len() <= SMALL => {
                end.channel.send(conn, bytes);
            }
            ChannelEvent::Message { bytes, .. } => {
                large += bytes.len();
                if large >= TOTAL {
                    large = 0;
                    end.channel.send(conn, DONE.to_vec());
                }
            }
            ChannelEvent::Down { .. } => return,
            _ => {}
        }
    }
}

fn round_trips(end: &End, conn: u64) {
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        end.channel.send(conn, vec![0; SMALL]);
        assert!(matches!(end.next(), ChannelEvent::Message { .. }));
        times.push(start.elapsed());
    }
    times.sort();
    let at = |percent: usize| times[ROUNDS * percent / 100].as_secs_f64() * 1e6;
    let (median, p90, p99) = (at(50), at(90), at(99));
    println!("round trip of {SMALL} bytes: median {median:.1} us, p90 {p90:.1}, p99 {p99:.1}");
}

fn throughput(end: &End, conn: u64, size: usize) {
    let start = Instant::now();
    let mut sent = 0;
    while sent < TOTAL {
        while end.channel.queued_bytes(conn) > QUEUED {
            std::thread::sleep(Duration::from_micros(200));
        }
        end.channel.send(conn, vec![0; size]);
        sent += size;
    }
    assert!(matches!(end.next(), ChannelEvent::Message { .. }));
    let speed = sent as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("messages of {size} bytes: {speed:.0} MB/s");
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let address = |text: &str| match text.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(text.into()),
    };
    if let [_, flag, target] = &arguments[..]
        && flag == "--peer"
    {
        return peer(address(target));
    }
    let path = std::env::temp_dir().join(format!("channel-speed-{}", std::process::id()));
    let unix = arguments.get(1).is_some_and(|a| a == "unix");
    let listen =
        if unix { Address::Unix(path.clone()) } else { Address::Tcp("127.0.0.1:0".into()) };
    let end = End::open(Some(listen), None);
    let target = match end.channel.port() {
        Some(port) => format!("127.0.0.1:{port}"),
        None => format!("unix:{}", path.display()),
    };
    let program = std::env::current_exe().expect("the path of this program");
    let mut child = std::process::Command::new(program)
        .args(["--peer", &target])
        .spawn()
        .expect("a second process");
    let conn = end.up();
    round_trips(&end, conn);
    for size in [1000, 64 << 10, 1 << 20] {
        throughput(&end, conn, size);
    }
    let start = Instant::now();
    child.kill().expect("the second process runs");
    assert!(matches!(end.next(), ChannelEvent::Down { .. }));
    println!("death of the peer seen after {:.0} us", start.elapsed().as_secs_f64() * 1e6);
    child.wait().expect("the second process ends");
}
