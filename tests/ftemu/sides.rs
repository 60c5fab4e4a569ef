//! The processes of a pair, and the console of their guest.

use super::{Place, command, expect_status, run, text};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The guest that counts.
pub const IMAGE: &[u8] = include_bytes!("../../disk-images/counter/counter.img");

/// One process of a pair.
pub struct Side {
    pub child: Child,
    console: PathBuf,
    said: Arc<Mutex<String>>,
}

impl Side {
    /// Starts a side; `name` names its sockets, `peer` is the other side's name.
    pub fn start(place: &Place, name: &str, role: &str, peer: Option<&str>, more: &[&str]) -> Self {
        let console = place.path(&format!("{name}.console"));
        let arbiter = place.path("arbiter");
        std::fs::create_dir_all(&arbiter).expect("a directory");
        // A machine that is switched on waits for its console, so that nothing that is typed is
        // lost.
        let wait = if role == "primary" { "" } else { ",nowait" };
        let serial = format!("unix:{},server{wait}", text(&console));
        let arbiter = format!("dir:{}", text(&arbiter));
        let listen = format!("unix:{}", text(&place.path(name)));
        let mut args = vec!["-v", "boot", "-m", "64M", "--role", role, "--serial", &serial];
        args.extend(["--arbiter", &arbiter, "--listen", &listen]);
        let peer = peer.map(|peer| format!("unix:{}", text(&place.path(peer))));
        if let Some(peer) = &peer {
            args.extend(["--peer", peer]);
        }
        for flag in more.iter().filter(|flag| flag.starts_with("--arbiter") || **flag == "-m") {
            let at = args.iter().position(|arg| arg == flag).expect("one of ours");
            args.drain(at..at + 2);
        }
        args.extend(more);
        let mut child = command(&args).stderr(Stdio::piped()).spawn().expect("it starts");
        let said = Arc::new(Mutex::new(String::new()));
        let (stderr, into) = (child.stderr.take().expect("a pipe"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                into.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Self { child, console, said }
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until the process has said `what`.
    #[track_caller]
    pub fn hears(&mut self, what: &str) {
        let begun = Instant::now();
        while !self.said().contains(what) {
            assert!(begun.elapsed() < PATIENCE, "'{what}' is not said: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("it ends");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Waits for the end, and gives the exit status.
    #[track_caller]
    pub fn ends(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn console(&self) -> Console {
        Console::open(&self.console)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The guest's serial port.
pub struct Console(UnixStream);

impl Console {
    pub fn open(path: &Path) -> Self {
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) => assert!(begun.elapsed() < PATIENCE, "{}: {e}", path.display()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    pub fn say(&mut self, line: &str) {
        self.0.write_all(line.as_bytes()).expect("the guest's end is there");
    }

    /// Reads up to the end of a line for which `wanted` gives something.
    #[track_caller]
    pub fn hears<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        let (mut line, mut all, mut byte) = (String::new(), String::new(), [0]);
        loop {
            let n = self.0.read(&mut byte).unwrap_or_else(|e| panic!("{e} after: {all}"));
            assert!(n > 0, "the console ended after: {all}");
            all.push(byte[0].into());
            if byte[0] == b'\n' {
                if let Some(found) = wanted(line.trim()) {
                    return found;
                }
                line.clear();
            } else {
                line.push(byte[0].into());
            }
        }
    }

    /// The same where the answer to the increment before may come once more.
    #[track_caller]
    pub fn increment_after(&mut self, last: u64) -> u64 {
        self.say("incr\r");
        self.hears(|line| line.parse().ok().filter(|n| *n > last))
    }

    /// The last number that comes before nothing comes for a while.
    pub fn settles(&mut self, mut last: u64) -> u64 {
        let patience = Some(Duration::from_millis(700));
        self.0.set_read_timeout(patience).expect("a timeout");
        let (mut line, mut byte) = (String::new(), [0]);
        while self.0.read(&mut byte).is_ok_and(|n| n > 0) {
            if byte[0] == b'\n' {
                last = line.trim().parse().unwrap_or(last).max(last);
                line.clear();
            } else {
                line.push(byte[0].into());
            }
        }
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        last
    }

    #[track_caller]
    pub fn increment(&mut self) -> u64 {
        self.say("incr\r");
        self.hears(|line| line.parse().ok())
    }
}

/// Waits until the guest has started, and increments once.
#[track_caller]
pub fn ready(side: &Side) -> Console {
    let mut console = side.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    console.increment();
    console
}

/// The log's bytes, by a live side's own account.
pub fn log_bytes(control: &Path) -> u64 {
    let output = run(&["ctl", text(control), "status", "--json"]);
    expect_status(&output, 0);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = said.split_once("\"log_bytes\":").expect("it says so");
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a number")
}
