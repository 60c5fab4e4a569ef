//! `ftemu lan` with the embedded guest on it: its address by DHCP, a client through a forward, and
//! the end in order.

mod ftemu;

use ftemu::{Place, expect_status, start, text};
use lan::client::{Plan, Session};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);

/// A process whose output is read line by line; killed if the test ends early.
struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
    shown: String,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut child = start(args);
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output, shown: String::new() }
    }

    /// The next line that starts with `wanted`, without it.
    #[track_caller]
    fn line(&mut self, wanted: &str) -> String {
        loop {
            let mut line = String::new();
            let n = self.output.read_line(&mut line).expect("text");
            assert!(n > 0, "no '{wanted}' in: {}", self.shown);
            self.shown.push_str(&line);
            if let Some(rest) = line.trim_end().strip_prefix(wanted) {
                return rest.to_owned();
            }
        }
    }

    /// The host's end of the next forward.
    fn forward(&mut self) -> SocketAddr {
        let line = self.line("forward ");
        let host = line.split(' ').nth(1).expect("protocol, host, arrow, guest");
        host.parse().expect("an address")
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let sent = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        sent.expect("it runs");
    }

    /// Waits for the end and gives the exit status.
    fn end(&mut self) -> Option<i32> {
        self.output.read_to_string(&mut self.shown).expect("text");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_embedded_guest_counts_for_a_client_behind_a_forward() {
    let place = Place::new();
    let capture = place.path("lan.pcapng");
    let mut lan = Process::start(&[
        "lan",
        "--listen",
        "127.0.0.1:0",
        "--forward",
        "tcp:127.0.0.1:0-:7777",
        "--forward",
        "tcp:127.0.0.1:0-10.0.2.15:80",
        "--no-dns",
        "--pcap",
        text(&capture),
    ]);
    let net = format!("stream:{}", lan.line("listening "));
    let (lines, web) = (lan.forward(), lan.forward());
    lan.line("ready");
    let mut guest = Process::start(&["boot", "-m", "64M", "--net", &net]);
    let ready = guest.line("counter: ready ");
    assert!(ready.contains("ip=10.0.2.15") && ready.contains("(by DHCP)"), "{ready}");

    let pause = Duration::from_millis(1);
    let plan = Plan { address: lines, connect_within: PATIENCE, patience: PATIENCE, pause };
    let session = Session::start(plan).expect("the guest answers");
    assert!(session.wait_for(50, PATIENCE), "{:?}", session.finish());
    let (seen, trouble) = session.finish();
    assert!(trouble.is_none() && seen.is_right(), "{seen:?} {trouble:?}");
    assert_eq!((seen.first, seen.last), (0, seen.increments));

    let mut browser = TcpStream::connect(web).expect("the forward listens");
    browser.set_read_timeout(Some(PATIENCE)).expect("an option");
    browser.write_all(b"GET /counter HTTP/1.0\r\n\r\n").expect("open");
    let mut page = String::new();
    browser.read_to_string(&mut page).expect("the guest closes in order");
    assert!(page.starts_with("HTTP/1") && page.ends_with(&format!("{}\n", seen.last)), "{page}");

    guest.child.stdin.as_mut().expect("a pipe").write_all(b"poweroff\r").expect("open");
    assert_eq!(guest.end(), Some(0), "{}", guest.shown);
    lan.terminate();
    assert_eq!(lan.end(), Some(0), "ended in order");
    let capture = place.read("lan.pcapng");
    assert!(capture.windows(5).any(|part| part == b"INCR\n"));
}

#[test]
fn where_everything_is_comes_as_json_too() {
    let place = Place::new();
    let socket = place.path("lan");
    let listen = format!("unix:{}", text(&socket));
    let forward = "udp:127.0.0.1:0-10.0.7.20:53";
    let args = ["lan", "--json", "--listen", &listen, "--subnet", "10.0.7.0/24", "--no-dns"];
    let mut lan = Process::start(&[&args[..], &["--forward", forward]].concat());
    let line: serde_json::Value = serde_json::from_str(&lan.line("")).expect("JSON");
    assert_eq!(line["listening"], listen);
    let forward = &line["forwards"][0];
    assert_eq!((&forward["protocol"], &forward["guest"]), (&"udp".into(), &"10.0.7.20:53".into()));
    let host: SocketAddr = forward["host"].as_str().expect("text").parse().expect("an address");
    assert_ne!(host.port(), 0);
    assert!(socket.exists());
    lan.terminate();
    assert_eq!(lan.end(), Some(0));
    assert!(!socket.exists(), "the socket is removed");
}

#[test]
fn an_idle_lan_sleeps() {
    let mut lan = Process::start(&["lan", "--no-dns", "--forward", "tcp:127.0.0.1:0-:80"]);
    let address = lan.line("listening ");
    lan.line("ready");
    let guest = TcpStream::connect(address).expect("it listens");
    std::thread::sleep(Duration::from_millis(200));
    let path = format!("/proc/{}/stat", lan.child.id());
    let ticks = || {
        let stat = std::fs::read_to_string(&path).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        // utime and stime (proc(5)), in hundredths of a second.
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks() - before <= 1, "it does not run while nothing happens");
    drop(guest);
    lan.terminate();
    assert_eq!(lan.end(), Some(0));
}

#[test]
fn a_second_lan_on_the_same_address_is_refused() {
    let mut lan = Process::start(&["lan", "--no-dns"]);
    let address = lan.line("listening ");
    expect_status(&ftemu::run(&["lan", "--no-dns", "--listen", &address]), 3);
    lan.terminate();
    assert_eq!(lan.end(), Some(0));
}
