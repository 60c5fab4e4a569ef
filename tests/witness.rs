//! `ftemu witness` as its users start it; the arbiter's own contract is tested in the crate
//! `drivers`.

mod ftemu;

use ftemu::{IDLE, Place, text};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path, more: &[&str]) -> Command {
    command_at("127.0.0.1:0", dir, more)
}

fn command_at(address: &str, dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftemu"));
    command.args(["witness", "--listen", address, "--state"]).arg(dir.join("state"));
    command.args(more).stdin(Stdio::null());
    command
}

fn start(dir: &Path, more: &[&str]) -> Running {
    begin(command(dir, more))
}

fn begin(mut command: Command) -> Running {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("ftemu");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("a line");
    let address = line.trim_end().strip_prefix("witness at ").map(String::from);
    Running { child, address: address.unwrap_or_else(|| panic!("it says '{line}'")) }
}

/// Speaks the protocol by hand.
fn ask(running: &Running, request: &str) -> String {
    let mut stream = TcpStream::connect(&running.address).expect("the witness");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let request = format!("{:032x} - {request}\n", 1);
    stream.write_all(request.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("a socket");
    let lines: Vec<String> = BufReader::new(stream).lines().map(|l| l.expect("text")).collect();
    assert!(lines[0].starts_with("ftemu-witness 1 "), "{lines:?}");
    lines[1].clone()
}

#[test]
fn a_witness_remembers_when_it_is_killed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (vm, a, b) = (format!("{:032x}", 7), format!("{:032x}", 10), format!("{:032x}", 11));
    let first = start(dir.path(), &[]);
    assert_eq!(ask(&first, &format!("latest {vm}")), "- never");
    assert_eq!(ask(&first, &format!("claim {vm} 3 {a}")), "- won");
    assert_eq!(ask(&first, &format!("claim {vm} 3 {b}")), format!("- lost 3 {a}"));

    let second = command(dir.path(), &[]).output().expect("ftemu");
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("is in use by another witness"), "{said}");

    drop(first);
    let again = start(dir.path(), &[]);
    assert_eq!(ask(&again, &format!("claim {vm} 3 {a}")), "- won");
    assert_eq!(ask(&again, &format!("claim {vm} 2 {a}")), format!("- lost 3 {a}"));
    assert_eq!(ask(&again, &format!("claim {vm} 4 {b}")), "- won");
}

#[test]
fn a_witness_with_a_key_answers_who_has_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = dir.path().join("key");
    std::fs::write(&key, "ab".repeat(32)).expect("write");
    let key = key.to_str().expect("UTF-8");
    let running = start(dir.path(), &["--key", key]);
    let said = ask(&running, &format!("latest {:032x}", 7));
    assert_eq!(said, "- error not proved by the key");
}

#[test]
fn what_it_cannot_use_is_one_line() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = dir.path().join("key");
    std::fs::write(&key, "short").expect("write");
    let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&key, private).expect("chmod");
    let refused = |more: &[&str], part: &str| {
        let done = command(dir.path(), more).output().expect("ftemu");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(3), "{said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    };
    refused(&["--key", key.to_str().expect("UTF-8")], "is no key");
    refused(&["--key", "/no/such/key"], "/no/such/key");
    std::fs::write(dir.path().join("state"), "a letter to somebody\n").expect("write");
    refused(&[], "is damaged in line 1");
}

/// A side of a pair, and what it says.
struct Side(Child, Arc<Mutex<String>>);

impl Side {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftemu"));
        command.args(["boot", "-m", "16M", "--serial", "none"]).args(args).stdin(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("ftemu");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let said = Arc::new(Mutex::new(String::new()));
        let into = said.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                into.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Self(child, said)
    }

    fn said(&self) -> String {
        self.1.lock().expect("no panic").clone()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        let begin = Instant::now();
        while !self.said().contains(what) {
            assert!(begin.elapsed() < Duration::from_secs(60), "'{what}': {}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pair whose witness is down when the backup joins: that waits for the witness, and says so
/// once.
#[test]
fn a_backup_waits_for_a_witness_that_is_down() {
    let place = Place::new();
    let disk = place.guest("disk", IDLE);
    let copy = place.guest("copy", IDLE);
    let witness = start(&place.path("."), &[]);
    let address = witness.address.clone();
    let arbiter = format!("witness:{address}");
    let socket = format!("unix:{}", text(&place.path("channel")));
    let pair = ["--arbiter", &arbiter];
    let primary = [text(&disk), "--role", "primary", "--listen", &socket];
    let primary = Side::start(&[&primary[..], &pair].concat());
    // It has won its first epoch when its socket is there and its record names it.
    let begin = Instant::now();
    let live = || drivers::sidecar::load(&disk).ok().flatten().is_some_and(|r| r.epoch == 1);
    while !live() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", primary.said());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(witness);
    let backup = [text(&copy), "--role", "backup", "--peer", &socket];
    let backup = Side::start(&[&backup[..], &pair].concat());
    backup.says("not protected before the arbiter answers");
    // Some questions later.
    std::thread::sleep(Duration::from_secs(1));
    let said = backup.said();
    assert!(said.lines().count() < 10 && !said.contains("protected: a backup"), "{said}");
    let _again = begin_at(&address, &place);
    primary.says("protected: a backup has joined");
}

fn begin_at(address: &str, place: &Place) -> Running {
    begin(command_at(address, &place.path("."), &[]))
}
