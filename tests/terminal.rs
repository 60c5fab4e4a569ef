//! On a terminal: raw mode while the guest runs, the modes as found afterwards, and Ctrl-A.

mod ftemu;

use ftemu::{ECHO, Place, command, text};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// The emulator on a terminal of its own.
struct Session {
    /// Our side.
    ours: File,
    /// Another handle of the emulator's side, to look at its modes.
    theirs: File,
    child: Child,
    shown: Vec<u8>,
}

impl Session {
    fn start(args: &[&str]) -> Self {
        let (ours, theirs) = terminal();
        let handle = || Stdio::from(theirs.try_clone().expect("a handle"));
        let child =
            command(args).stdin(handle()).stdout(handle()).stderr(handle()).spawn().expect("runs");
        Self { ours, theirs, child, shown: Vec::new() }
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.theirs).expect("a terminal")
    }

    fn is_raw(&self) -> bool {
        !self.modes().local_modes.contains(LocalModes::ISIG)
    }

    fn wait_for_raw(&self, raw: bool) {
        let begun = Instant::now();
        while self.is_raw() != raw {
            assert!(begun.elapsed() < Duration::from_secs(60), "raw mode does not become {raw}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.ours.write_all(bytes).expect("the terminal takes it");
    }

    /// Waits until `what` is shown.
    fn expect(&mut self, what: &[u8]) {
        while !self.shown.windows(what.len()).any(|part| part == what) {
            let mut buffer = [0; 1024];
            let n = self.ours.read(&mut buffer).expect("the other side is open");
            self.shown.extend_from_slice(&buffer[..n]);
        }
        self.shown.clear();
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits for the end and checks that the modes are those that were `found`.
    fn end(mut self, status: i32, found: &Termios) {
        assert_eq!(self.child.wait().expect("it ends").code(), Some(status));
        let now = self.modes();
        assert_eq!(now.local_modes, found.local_modes);
        assert_eq!(now.input_modes, found.input_modes);
        assert_eq!(now.output_modes, found.output_modes);
    }
}

/// A session whose guest echoes, and the modes that were found.
fn echoing(place: &Place) -> (Session, Termios) {
    let disk = place.guest("disk", ECHO);
    let mut session = Session::start(&["boot", "--snapshot", text(&disk)]);
    session.wait_for_raw(true);
    session.send(b"!");
    session.expect(b"!");
    (session, initial_modes())
}

/// The modes of a new terminal.
fn initial_modes() -> Termios {
    let (_ours, theirs) = terminal();
    tcgetattr(theirs).expect("a terminal")
}

/// Both sides of a new terminal.
fn terminal() -> (File, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).expect("a terminal");
    unlockpt(&ours).expect("a terminal");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("text");
    let theirs = File::options().read(true).write(true).open(name).expect("the other side");
    (ours.into(), theirs)
}

#[test]
fn keys_go_to_the_guest_and_escapes_to_the_emulator() {
    let place = Place::new();
    let (mut session, found) = echoing(&place);
    session.send(b"ab\x03c");
    session.expect(b"ab\x03c");
    session.send(b"\x01h");
    session.expect(b"press the power button");
    session.send(b"\x01\x01.");
    session.expect(b"\x01.");
    session.send(b"\x01x");
    session.end(0, &found);
}

#[test]
fn the_terminal_is_restored_when_the_guest_ends() {
    let place = Place::new();
    let (mut session, found) = echoing(&place);
    session.send(b"q");
    session.end(0x21, &found);
}

#[test]
fn the_terminal_is_restored_on_signals() {
    let place = Place::new();
    for (signal, status) in
        [(rustix::process::Signal::TERM, 143), (rustix::process::Signal::HUP, 129)]
    {
        let (session, found) = echoing(&place);
        session.signal(signal);
        session.end(status, &found);
    }
}

#[test]
fn the_terminal_is_given_back_while_the_emulator_is_stopped() {
    use rustix::process::Signal;
    let place = Place::new();
    let (mut session, found) = echoing(&place);
    session.signal(Signal::TSTP);
    session.wait_for_raw(false);
    session.signal(Signal::CONT);
    session.wait_for_raw(true);
    session.send(b"on");
    session.expect(b"on");
    session.send(b"\x01x");
    session.end(0, &found);
}
