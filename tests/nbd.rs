//! A guest whose disk is an export of qemu-nbd.

mod ftemu;

use ftemu::{Place, WRITE, expect_status, run, text};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_guest_writes_to_an_export() {
    let version = Command::new("qemu-nbd").arg("--version").output();
    if !version.is_ok_and(|done| done.status.success()) {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "qemu-nbd is not installed (Debian: qemu-utils)");
        eprintln!("left out: qemu-nbd is not installed (Debian: qemu-utils)");
        return;
    }
    let place = Place::new();
    let disk = place.guest("disk", WRITE);
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let server = Command::new("qemu-nbd")
        .args(["--format=raw", "--bind=127.0.0.1", "--persistent", "--export-name=guest"])
        .args([&format!("--port={port}"), text(&disk)])
        .stdin(Stdio::null())
        .spawn();
    let server = Killed(server.expect("it is installed"));
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
