//! What the LAN costs: bytes a second through a forward in both directions, and what it adds to a
//! round trip.
//!
//!     cargo run --release -p lan --example throughput
//!
//! The guest is a TCP/IP stack on a thread of this process, the client a socket of the host.

#[path = "../tests/guest/mod.rs"]
mod guest;

use guest::{ADDRESS, Guest, MAC};
use lan::config::Config;
use lan::server::Lan;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const BYTES: usize = 256 << 20;
const ROUNDS: usize = 5000;

/// Answers bytes of the client: port 1 swallows them, port 2 pours, port 3 echoes.
fn serve(address: String, done: Arc<AtomicBool>) {
    let mut guest = Guest::fixed(&address, MAC, ADDRESS);
    let [sink, source, echo] = [1, 2, 3].map(|port| guest.listen(port));
    let pattern = vec![7; 65536];
    while !done.load(Ordering::Relaxed) {
        let mut busy = guest.turn();
        while guest.tcp(sink).can_recv() {
            let _ = guest.tcp(sink).recv(|bytes| (bytes.len(), ()));
            busy = true;
        }
        while guest.tcp(source).can_send() {
            let _ = guest.tcp(source).send_slice(&pattern);
            busy = true;
        }
        if guest.tcp(echo).can_recv() {
            let heard = guest.tcp(echo).recv(|bytes| (bytes.len(), bytes.to_vec()));
            let _ = guest.tcp(echo).send_slice(&heard.unwrap_or_default());
            busy = true;
        }
        if !busy {
            std::thread::yield_now();
        }
    }
}

/// Time on a processor that this process's thread `name` has used.
fn cpu(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let paths = tasks.map(|task| task.expect("an entry").path());
    let named = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let path = paths.into_iter().find(named).expect("the thread runs");
    let stat = std::fs::read_to_string(path.join("schedstat")).expect("Linux");
    let ns = stat.split(' ').next().expect("three numbers").parse().expect("a number");
    Duration::from_nanos(ns)
}

fn report(what: &str, begin: Instant, cpu_before: Duration) {
    let (wall, busy) = (begin.elapsed().as_secs_f64(), (cpu("lan") - cpu_before).as_secs_f64());
    let gbit = BYTES as f64 * 8.0 / 1e9;
    println!("{what}: {:.2} Gbit/s; {:.2} per core of the LAN", gbit / wall, gbit / busy);
}

fn round_trips(mut stream: TcpStream) -> Duration {
    stream.set_nodelay(true).expect("an option");
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            stream.write_all(b"x").expect("open");
            stream.read_exact(&mut [0]).expect("open");
            begin.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn main() {
    let listen = backends::socket::Address::Tcp("127.0.0.1:0".into());
    let mut config = Config::new(listen);
    let forward = |port| format!("tcp:127.0.0.1:0-:{port}").parse().expect("a forward");
    config.forwards = [1, 2, 3].map(forward).to_vec();
    let mut lan = Lan::new(config).expect("free ports");
    let ports: Vec<SocketAddr> = lan.forwards().iter().map(|forward| forward.host).collect();
    let (name, mut stop) = (lan.name().to_owned(), lan.stop().expect("a descriptor"));
    let thread = std::thread::Builder::new().name("lan".into());
    let thread = thread.spawn(move || lan.run()).expect("a thread");
    let done = Arc::new(AtomicBool::new(false));
    let flag = done.clone();
    let guest = std::thread::spawn(move || serve(name, flag));

    let connect = |port: usize| TcpStream::connect(ports[port]).expect("the forward listens");
    let (mut client, piece) = (connect(0), vec![1; 1 << 20]);
    let (begin, before) = (Instant::now(), cpu("lan"));
    for _ in 0..BYTES >> 20 {
        client.write_all(&piece).expect("open");
    }
    report("to the guest", begin, before);
    let (mut client, mut room) = (connect(1), vec![0; 1 << 20]);
    let (begin, before) = (Instant::now(), cpu("lan"));
    for _ in 0..BYTES >> 20 {
        client.read_exact(&mut room).expect("open");
    }
    report("from the guest", begin, before);
    drop(client);
    let before = cpu("lan");
    let median = round_trips(connect(2));
    let busy = (cpu("lan") - before) / ROUNDS as u32;
    println!("a byte there and back: median {median:?}, of which {busy:?} on the LAN's core");

    done.store(true, Ordering::Relaxed);
    guest.join().expect("the guest");
    stop.write_all(&[0]).expect("it runs");
    thread.join().expect("no panic").expect("no failure");
}
