//! A guest whose disk is an export of qemu-nbd.

mod ftemu;

use ftemu::sides::{IMAGE, Side, ready};
use ftemu::{IDLE, Place, WRITE, expect_status, run, start, text};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server with the export `guest`, which four clients can use, and its port; `None`: there is no
/// such program here.
fn serve(disk: &Path) -> Option<(Killed, u16)> {
    let version = Command::new("qemu-nbd").arg("--version").output();
    if !version.is_ok_and(|done| done.status.success()) {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "qemu-nbd is not installed (Debian: qemu-utils)");
        eprintln!("left out: qemu-nbd is not installed (Debian: qemu-utils)");
        return None;
    }
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let server = Command::new("qemu-nbd")
        .args(["--format=raw", "--bind=127.0.0.1", "--persistent", "--export-name=guest"])
        .args(["--shared=4", &format!("--port={port}"), text(disk)])
        .stdin(Stdio::null())
        .spawn();
    Some((Killed(server.expect("it is installed")), port))
}

/// Waits until somebody listens there.
fn wait_for(port: u16) {
    let begin = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "qemu-nbd does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_writes_to_an_export() {
    let place = Place::new();
    let disk = place.guest("disk", WRITE);
    let Some((server, port)) = serve(&disk) else { return };
    let export = format!("nbd://127.0.0.1:{port}/guest");
    let begin = Instant::now();
    let thrown = loop {
        let output = run(&["boot", &export, "--snapshot"]);
        if output.status.code() != Some(3) || output.stderr.is_empty() {
            break output;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "qemu-nbd does not begin");
    };
    // The guest leaves with 1, so the status is 3 as well.
    expect_status(&thrown, 3);
    let image = place.read("disk");
    assert!(image[512..1024] != image[..512], "the write was thrown away");
    expect_status(&run(&["boot", &export]), 3);
    let output = run(&["boot", &format!("nbd://127.0.0.1:{port}/other")]);
    expect_status(&output, 3);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("knows no such export") && said.lines().count() == 1, "{said}");
    drop(server);
    let image = place.read("disk");
    assert!(image[512..1024] == image[..512], "the write reached the server");
}

#[test]
fn one_process_of_a_computer_writes_to_an_export() {
    let place = Place::new();
    let disk = place.guest("disk", IDLE);
    let Some((_server, port)) = serve(&disk) else { return };
    wait_for(port);
    let (export, state) = (format!("nbd://127.0.0.1:{port}/guest"), place.path("state"));
    let boot = ["boot", &export, "--serial", "none", "--state-dir", text(&state)];
    let first = Killed(start(&boot));
    let lock = state.join(format!("nbd%3A%2F%2F127.0.0.1%3A{port}%2Fguest.lock"));
    let begin = Instant::now();
    while !lock.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no lock");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(50));
    let second = run(&boot);
    expect_status(&second, 3);
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("another process of this computer writes to it"), "{said}");
    drop(first);
    let again = Killed(start(&boot));
    std::thread::sleep(Duration::from_millis(300));
    let mut again = again;
    assert!(again.0.try_wait().expect("a child").is_none(), "the lock went with its process");
}

#[test]
fn a_pair_on_an_export_remembers_who_was_live() {
    let place = Place::new();
    let disk = place.file("disk", IMAGE);
    let Some((_server, port)) = serve(&disk) else { return };
    wait_for(port);
    let export = format!("nbd://127.0.0.1:{port}/guest");
    // Each side has a directory as if it were another computer.
    let side = |name: &str, computer: &str, role: &str, peer: Option<&str>, more: &[&str]| {
        let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
        let state = place.path(computer);
        let flags = [&export, "--net", &net, "--shared-disk", "--disk-reads", "backup"];
        let state = ["--state-dir", text(&state)];
        Side::start(&place, name, role, peer, &[&flags[..], &state, more].concat())
    };
    let mut a = side("a", "one", "primary", None, &[]);
    let mut console = ready(&a);
    let mut b = side("b", "two", "backup", Some("a"), &[]);
    b.hears("protected");
    a.hears("protected");
    for n in 2..6 {
        assert_eq!(console.increment(), n);
    }
    a.kill();
    b.hears("live, in epoch 2");
    let mut console = b.console();
    assert_eq!(console.increment_after(5), 6);
    // The first computer knows that it is not the one to go on.
    let mut old = side("x", "one", "primary", None, &[]);
    assert_eq!(old.ends(), Some(3), "{}", old.said());
    old.hears("the other side went live on this disk in epoch 2");
    let mut c = side("c", "one", "backup", Some("b"), &[]);
    c.hears("protected");
    assert_eq!(console.increment(), 7);
    // Both die; the live one's computer starts again.
    c.kill();
    b.kill();
    let mut d = side("d", "two", "primary", None, &[]);
    let mut console = d.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), 8);
    // Another machine's disk is not taken for a backup's.
    let other = place.file("other", IMAGE);
    let Some((_other_server, other_port)) = serve(&other) else { return };
    wait_for(other_port);
    let elsewhere = format!("nbd://127.0.0.1:{other_port}/guest");
    let state = place.path("three");
    let net = format!("unix-listen:{}", text(&place.path("e.net")));
    let flags = [&elsewhere, "--net", &net, "--shared-disk", "--disk-reads", "backup"];
    let flags = [&flags[..], &["--state-dir", text(&state)]].concat();
    let mut e = Side::start(&place, "e", "primary", None, &flags);
    ready(&e);
    e.kill();
    let mut f = Side::start(&place, "f", "backup", Some("d"), &flags);
    f.hears("another virtual machine");
    assert!(d.child.try_wait().expect("a child").is_none(), "{}", d.said());
}

#[test]
fn an_export_that_is_not_there_is_one_line() {
    for (export, status, part) in [
        ("nbd://127.0.0.1:1/x", 3, "nbd://127.0.0.1:1/x: "),
        ("nbd:host", 2, "is not nbd://HOST:PORT/EXPORT"),
    ] {
        let output = run(&["boot", export]);
        expect_status(&output, status);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    }
}
