//! Boots guests of one boot sector: exit statuses, disks, consoles, signals, recording and
//! replaying.

mod ftemu;

use ftemu::*;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

#[test]
fn isa_debug_exit_gives_the_exit_status() {
    let place = Place::new();
    let disk = place.guest("disk", EXIT);
    let stats = place.path("stats");
    let output = run(&["boot", text(&disk), "--stats", text(&stats)]);
    expect_status(&output, 0x43);
    assert_eq!(place.text("stats", "exit"), "debug-exit 33");
    for key in ["icount", "guest_ns", "host_ns"] {
        assert!(place.stat("stats", key) > 0, "{key}");
    }
    assert_eq!(place.text("stats", "digest").len(), 32);
    for key in ["log_bytes", "log_entries"] {
        assert_eq!(place.stat("stats", key), 0, "{key}");
    }
    place.text("stats", "mips").parse::<f64>().expect("a number");
}

#[test]
fn writes_are_in_the_image_unless_they_are_thrown_away() {
    let place = Place::new();
    for (name, flags, kept) in [("kept", &[][..], true), ("thrown", &["--snapshot"], false)] {
        let disk = place.guest(name, WRITE);
        let output = run(&[&["boot", text(&disk)], flags].concat());
        expect_status(&output, 3);
        let image = place.read(name);
        assert_eq!(image[512..1024] == image[..512], kept, "{name}");
        assert_eq!(image.len(), 64 * 512);
    }
    let disk = place.guest("locked", WRITE);
    let locked = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o444);
    std::fs::set_permissions(&disk, locked).expect("chmod");
    expect_status(&run(&["boot", text(&disk), "--snapshot"]), 3);
}

#[test]
fn an_image_that_ends_inside_a_sector_is_used_with_a_warning() {
    let place = Place::new();
    let mut image = vec![0; 513];
    image[..EXIT.len()].copy_from_slice(EXIT);
    image[510..512].copy_from_slice(&[0x55, 0xAA]);
    let output = run(&["boot", text(&place.file("odd", &image))]);
    expect_status(&output, 0x43);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ends inside a sector; 511 bytes of zeros are added"), "{said}");
    assert_eq!(place.read("odd").len(), 513, "nothing was written");
}

#[test]
fn standard_input_and_output_are_com1() {
    let place = Place::new();
    let disk = place.guest("disk", ECHO);
    let output = run_with(&["boot", text(&disk)], b"hello\x01xq");
    expect_status(&output, 0x21);
    assert!(output.stdout.ends_with(b"hello\x01xq"), "{:?}", output.stdout);
}

#[test]
fn serial_ports_on_sockets_and_files() {
    let place = Place::new();
    let disk = place.guest("disk", ECHO);
    // A TCP server of ours.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let where_to = format!("tcp:{}", listener.local_addr().expect("address"));
    let mut child = start(&["boot", text(&disk), "--serial", &where_to]);
    let (mut peer, _) = listener.accept().expect("it calls");
    peer.write_all(b"over tcp q").expect("write");
    assert_eq!(child.wait().expect("it ends").code(), Some(0x21));
    let mut echoed = Vec::new();
    peer.read_to_end(&mut echoed).expect("read");
    assert!(echoed.ends_with(b"over tcp q"), "{echoed:?}");
    // A Unix server of the emulator's, which waits for us.
    let socket = place.path("socket");
    let where_to = format!("unix:{},server", text(&socket));
    let mut child = start(&["boot", text(&disk), "--serial", &where_to]);
    let mut peer = loop {
        match UnixStream::connect(&socket) {
            Ok(peer) => break peer,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    peer.write_all(b"over unix q").expect("write");
    assert_eq!(child.wait().expect("it ends").code(), Some(0x21));
    let mut echoed = Vec::new();
    peer.read_to_end(&mut echoed).expect("read");
    assert!(echoed.ends_with(b"over unix q"), "{echoed:?}");
}

#[test]
fn signals_end_the_run_in_order() {
    use rustix::process::Signal;
    let place = Place::new();
    let disk = place.guest("disk", ECHO);
    let stats = place.path("stats");
    let log = place.path("log");
    for (which, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let args = ["boot", text(&disk), "--stats", text(&stats), "--record", text(&log)];
        let mut child = start(&args);
        // The guest is up when it echoes.
        child.stdin.as_mut().expect("a pipe").write_all(b"!").expect("write");
        let mut shown = [0];
        while shown != *b"!" {
            child.stdout.as_mut().expect("a pipe").read_exact(&mut shown).expect("echo");
        }
        signal(&child, which);
        assert_eq!(child.wait().expect("it ends").code(), Some(status));
        assert_eq!(place.text("stats", "exit"), format!("signal {}", status - 128));
        expect_status(&run(&["replay", text(&log)]), 0);
    }
}

/// Records a run and replays it in several ways.
#[track_caller]
fn replays(place: &Place, flags: &[&str], input: &[u8], status: i32) {
    let (log, stats) = (place.path("log"), place.path("stats"));
    let args = [&["boot", "--record", text(&log), "--stats", text(&stats)], flags].concat();
    expect_status(&run_with(&args, input), status);
    assert_eq!(place.stat("stats", "log_bytes"), place.read("log").len() as u64);
    let recorded: Vec<String> =
        ["icount", "guest_ns", "digest", "exit"].map(|key| place.text("stats", key)).into();
    for slicing in [&[][..], &["--slice-seed", "1"], &["--slice-seed", "2"]] {
        let args = [&["replay", text(&log), "--stats", text(&stats)], slicing].concat();
        expect_status(&run(&args), 0);
        for (key, recorded) in ["icount", "guest_ns", "digest", "exit"].iter().zip(&recorded) {
            assert_eq!(place.text("stats", key), *recorded, "{key} {slicing:?}");
        }
    }
}

#[test]
fn runs_replay_without_the_hosts_devices() {
    let place = Place::new();
    let disk = place.guest("disk", ECHO);
    replays(&place, &[text(&disk)], b"some typing q", 0x21);
    let shown = run(&["replay", text(&place.path("log")), "--serial", "stdio"]);
    expect_status(&shown, 0);
    assert!(shown.stdout.ends_with(b"some typing q"), "{:?}", shown.stdout);
    // The image may be gone, for the log holds what was read.
    std::fs::remove_file(&disk).expect("remove");
    expect_status(&run(&["replay", text(&place.path("log"))]), 0);
    // With --snapshot the log names the image instead.
    let disk = place.guest("disk", ECHO);
    replays(&place, &[text(&disk), "--snapshot"], b"q", 0x21);
    place.guest("disk", EXIT);
    let output = run(&["replay", text(&place.path("log"))]);
    expect_status(&output, 3);
    assert!(String::from_utf8_lossy(&output.stderr).contains("as it was at the time"));
    let disk = place.guest("disk", ECHO);
    let always = ["--snapshot", "--log-disk-data", "always"];
    replays(&place, &[&[text(&disk)], &always[..]].concat(), b"q", 0x21);
    std::fs::remove_file(&disk).expect("remove");
    expect_status(&run(&["replay", text(&place.path("log"))]), 0);
    replays(&place, &[text(&place.guest("writer", WRITE))], b"", 3);
}

#[test]
fn a_log_that_was_cut_or_changed() {
    let place = Place::new();
    let disk = place.guest("disk", BUSY);
    let log = place.path("log");
    let flags = ["--rate", "1", "--max-icount", "45000000", "--record", text(&log)];
    expect_status(&run(&[&["boot", text(&disk)], &flags[..]].concat()), 0);
    let whole = place.read("log");
    // Cut: what is there is checked, and the rest is told of.
    let cut = place.file("cut", &whole[..whole.len() - 5]);
    let output = run(&["replay", text(&cut)]);
    expect_status(&output, 0);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ends inside a frame"), "{said}");
    // Changed: a digest that does not match names its count.
    let mut source = drivers::replay::LogSource::new(&whole[..]);
    let mut writer = ft::log::LogWriter::new();
    while let Some(mut entry) = source.next_entry().expect("whole") {
        if let ft::log::Body::Digest(check) = &mut entry.body
            && entry.at.icount == 30_000_000
        {
            check[0] ^= 1;
            check[1] ^= 1;
        }
        writer.push(entry.at, &entry.body);
    }
    writer.flush();
    let changed = place.file("changed", &writer.take());
    let output = run(&["replay", text(&changed)]);
    expect_status(&output, 4);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("differs from the record at icount 30000000: cpu"), "{said}");
    let output = run(&["replay", text(&changed), "--to", "25000000"]);
    expect_status(&output, 0);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.starts_with("icount  25000000\n") && shown.contains("\ndigest "), "{shown}");
}

#[test]
fn a_log_is_readable_after_kill_nine() {
    let place = Place::new();
    let disk = place.guest("disk", BUSY);
    let log = place.path("log");
    let mut child = start(&["boot", text(&disk), "--record", text(&log)]);
    let begun = Instant::now();
    while std::fs::metadata(&log).map_or(0, |m| m.len()) < 350 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the log does not grow");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("kill -9");
    child.wait().expect("it ends");
    let output = run(&["replay", text(&log)]);
    expect_status(&output, 0);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("digests equal; end: log-end"), "{said}");
}

#[test]
fn at_a_fixed_rate_runs_are_the_same() {
    let place = Place::new();
    let disk = place.guest("disk", READ_AND_IDLE);
    let stats = place.path("stats");
    let mut digests = Vec::new();
    for extra in [&[][..], &[], &["--slice-seed", "7"]] {
        let flags = ["--rate", "1", "--max-icount", "3000000", "--stats", text(&stats)];
        let args = [&["boot", text(&disk), "--serial", "none"], &flags[..], extra].concat();
        expect_status(&run(&args), 0);
        assert_eq!(place.text("stats", "exit"), "icount");
        digests.push((place.text("stats", "guest_ns"), place.text("stats", "digest")));
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn an_idle_guest_keeps_time_and_costs_little() {
    let place = Place::new();
    let disk = place.guest("disk", IDLE);
    let (stats, log) = (place.path("stats"), place.path("log"));
    let flags = ["--serial", "none", "--stats", text(&stats), "--record", text(&log)];
    let child = start(&[&["boot", text(&disk)], &flags[..]].concat());
    std::thread::sleep(Duration::from_secs(3));
    signal(&child, rustix::process::Signal::TERM);
    let output = child.wait_with_output().expect("it ends");
    expect_status(&output, 143);
    let (guest, host) = (place.stat("stats", "guest_ns"), place.stat("stats", "host_ns"));
    assert!(guest.abs_diff(host) < 60_000_000, "guest {guest} ns, host {host} ns");
    // 18.2 ticks a second leave the log alone: start, clock, seed, rates while the BIOS runs, end.
    assert!(place.stat("stats", "log_entries") < 60);
    assert!(place.read("log").len() < 6_000);
    expect_status(&run(&["replay", text(&log)]), 0);
}
