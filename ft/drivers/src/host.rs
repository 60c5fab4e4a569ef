//! The host's ends of one machine, gathered.
//!
//! Contract: index = number of the port, card or disk on the board. Everything here moves bytes and
//! decides nothing.

use crate::control::ControlRequest;
use backends::console::{Console, ConsoleEvent};
use backends::disk::worker::{Completion, DiskWorker};
use backends::net::capture::{Capture, Direction};
use backends::net::{Network, Received};
use backends::signal::Terminate;
use backends::wake::{Bell, Post, mailbox};
use devices::io::Output;
use std::io::{self, Write};
use std::sync::mpsc::Receiver;

/// Messages that may wait in each mailbox but that of the disks.
const MAILBOX: usize = 256;
/// Answers of disks that may wait: more than can be outstanding, so that a disk never waits for the
/// machine.
const ANSWERS: usize = 4096;

/// Where the host's threads post to.
#[derive(Clone, Debug)]
pub struct Posts {
    /// Consoles.
    pub typed: Post<ConsoleEvent>,
    /// Networks.
    pub frames: Post<Received>,
    /// Disks.
    pub answers: Post<Completion>,
    /// Signals.
    pub signals: Post<Terminate>,
    /// The control socket.
    pub requests: Post<ControlRequest>,
}

/// What the host's threads have posted.
#[derive(Debug)]
pub struct Mail {
    /// Rung at every message.
    pub bell: Bell,
    /// From consoles.
    pub typed: Receiver<ConsoleEvent>,
    /// From networks.
    pub frames: Receiver<Received>,
    /// From disks.
    pub answers: Receiver<Completion>,
    /// From signals.
    pub signals: Receiver<Terminate>,
    /// From the control socket.
    pub requests: Receiver<ControlRequest>,
}

/// Mailboxes for the current thread.
#[must_use]
pub fn mail() -> (Posts, Mail) {
    let bell = Bell::new();
    let (typed_post, typed) = mailbox(MAILBOX, bell.waker());
    let (frames_post, frames) = mailbox(MAILBOX, bell.waker());
    let (answers_post, answers) = mailbox(ANSWERS, bell.waker());
    let (signals_post, signals) = mailbox(MAILBOX, bell.waker());
    let (requests_post, requests) = mailbox(MAILBOX, bell.waker());
    let posts = Posts {
        typed: typed_post,
        frames: frames_post,
        answers: answers_post,
        signals: signals_post,
        requests: requests_post,
    };
    (posts, Mail { bell, typed, frames, answers, signals, requests })
}

/// The outgoing side of everything.
#[derive(Default)]
pub struct Ends {
    /// By serial port.
    pub consoles: Vec<Console>,
    /// By network card.
    pub networks: Vec<Box<dyn Network>>,
    /// By disk.
    pub disks: Vec<DiskWorker>,
    /// Every frame is written here.
    pub capture: Option<Capture<Box<dyn Write>>>,
    /// The debug console, port 0xE9.
    pub debug: Option<Box<dyn Write>>,
    /// The serial port whose console is the user's terminal.
    pub terminal: Option<usize>,
    /// Serial output not yet handed on, by port.
    waiting: Vec<Vec<u8>>,
}

impl Ends {
    /// Hands an output on, made when the guest's wall clock showed `time`.
    pub fn leave(&mut self, output: &Output, time: u64) {
        match output {
            Output::ConsoleTx { port, bytes } => self.console(*port, bytes),
            Output::NetTx { nic, frame } => self.frame(*nic, frame, time),
            Output::Debug(byte) => self.debug(*byte),
            Output::Disk { disk, request, operation } => {
                if let Some(worker) = self.disks.get(usize::from(*disk)) {
                    worker.submit(*request, operation.clone());
                }
            }
        }
    }

    /// Takes serial output; it goes out at the next [`Ends::flush`].
    pub fn console(&mut self, port: u8, bytes: &[u8]) {
        let port = usize::from(port);
        if port >= self.waiting.len() {
            self.waiting.resize(port + 1, Vec::new());
        }
        self.waiting[port].extend_from_slice(bytes);
    }

    /// Hands serial output on.
    pub fn flush(&mut self) {
        for (port, bytes) in self.waiting.iter_mut().enumerate() {
            if !bytes.is_empty() {
                if let Some(console) = self.consoles.get_mut(port) {
                    console.write(bytes);
                }
                bytes.clear();
            }
        }
    }

    /// Shows `text` on the user's terminal.
    pub fn tell(&mut self, text: &str) {
        if let Some(port) = self.terminal {
            self.console(port as u8, text.as_bytes());
            self.flush();
        }
    }

    /// Sends a frame.
    pub fn frame(&mut self, nic: u8, frame: &[u8], time: u64) {
        self.captured(nic, frame, time, Direction::Outbound);
        if let Some(network) = self.networks.get_mut(usize::from(nic)) {
            network.send(frame);
        }
    }

    /// Writes a frame to the capture.
    pub fn captured(&mut self, nic: u8, frame: &[u8], time: u64, direction: Direction) {
        if let Some(capture) = &mut self.capture
            && let Err(e) = capture.packet(nic, time, direction, frame)
        {
            log::warn!("packet capture: stopped: {e}");
            self.capture = None;
        }
    }

    /// Writes to the debug console.
    pub fn debug(&mut self, byte: u8) {
        if let Some(out) = &mut self.debug
            && let Err(e) = out.write_all(&[byte])
        {
            log::warn!("debug console: stopped: {e}");
            self.debug = None;
        }
    }

    /// Waits until everything is out and all disks are on stable storage.
    ///
    /// # Errors
    /// A disk's last flush failed: the guest's data may be lost.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        if let Some(out) = &mut self.debug {
            let _ = out.flush();
        }
        let mut result = Ok(());
        for disk in self.disks {
            result = result.and(disk.finish());
        }
        for console in self.consoles {
            console.finish();
        }
        result
    }
}
