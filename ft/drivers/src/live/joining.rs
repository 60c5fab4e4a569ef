//! A new backup joins: the machine's state goes over while it runs, and the log begins where it
//! stood still.

use super::{Live, thread_cpu_ns};
use crate::backup::following::HISTORY;
use crate::check;
use crate::guest::Guest;
use crate::handover::Handover;
use crate::recent::Recent;
use crate::record::instant;
use crate::transfer::TransferError;
use crate::transfer::source::{Progress, Source};
use backends::disk::sync::Synced;
use backends::wake::{Post, mailbox};
use emulator::machine::Machine;
use ft::Event;
use ft::join::{Decision, Limits};
use ft::types::Conn;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// Answers of disks that may wait: more than can be outstanding.
const SYNCED: usize = 8192;
/// Bytes that may wait in the channel.
const QUEUED: u64 = 4 << 20;

/// The sending end of a transfer.
pub(super) struct Joining {
    conn: Conn,
    source: Source,
    post: Post<Synced>,
    synced: Receiver<Synced>,
    began: Instant,
    /// No piece is made before: the machine has its turn.
    not_before: Instant,
    /// How much of the time the machine has, in thousandths.
    pub(super) share: u16,
    complete: bool,
}

impl Joining {
    /// How far it is.
    pub(super) fn progress(&self, machine: &Machine) -> Progress {
        self.source.progress(machine)
    }
}

impl<G: Guest> Live<'_, G> {
    pub(super) fn begin_transfer(&mut self, conn: Conn) {
        let sizes = self.config.disk_sizes.clone();
        let (post, synced) = mailbox(SYNCED, self.mail.bell.waker());
        let Some(machine) = self.guest.machine() else {
            let why = "this machine cannot be transferred".into();
            return self.tell_pair(Event::TransferFailed(why));
        };
        let source = Source::new(machine, &sizes, Limits::default());
        let began = Instant::now();
        let (not_before, share, complete) = (began, 1000, false);
        let joining = Joining { conn, source, post, synced, began, not_before, share, complete };
        self.joining = Some(Box::new(joining));
    }

    pub(super) fn end_transfer(&mut self) {
        self.joining = None;
        if let Some(machine) = self.guest.machine() {
            machine.track_dirty(false);
        }
    }

    /// A piece from the joining side.
    pub(super) fn install(&mut self, bytes: &[u8]) {
        let Some(joining) = &mut self.joining else { return };
        if let Err(e) = joining.source.install(bytes) {
            self.transfer_failed(&e);
        }
    }

    fn transfer_failed(&mut self, e: &TransferError) {
        self.end_transfer();
        self.tell_pair(Event::TransferFailed(e.to_string()));
    }

    /// From here on a difference from the backup can be looked into.
    fn begin_recent(&mut self) {
        let (at, clock) = (instant(self.guest, self.halted), self.config.wall_clock);
        let requests = self.requests.iter().map(|(n, operation)| (*n, operation.clone()));
        let is_logging = self.pair.as_ref().is_some_and(|pair| pair.is_logging());
        if let Some(machine) = self.guest.machine().filter(|_| is_logging) {
            self.recent = Some(Box::new(Recent::begin(machine, at, clock, requests)));
        }
    }

    /// Moves the transfer on for a few milliseconds at most; whether there is more to do at once.
    pub(super) fn transfer(&mut self) -> bool {
        if self.joining.is_none() {
            return false;
        }
        let moved = self.move_on(false);
        let (Some(joining), Some(machine)) = (&mut self.joining, self.guest.machine()) else {
            return false;
        };
        match joining.source.decide(machine) {
            Decision::Continue { share } => joining.share = share,
            Decision::CutOver => self.cut_over(),
        }
        moved
    }

    /// Carries what the transfer wants carried; whether a piece was sent.
    fn move_on(&mut self, standing: bool) -> bool {
        let (Some(joining), Some(pair)) = (&mut self.joining, &mut self.pair) else { return false };
        let Some(machine) = self.guest.machine() else { return false };
        while let Some((disk, request)) = joining.source.disk_request() {
            self.ends.disks[usize::from(disk)].synchronize(request, &joining.post);
        }
        while let Ok(synced) = joining.synced.try_recv() {
            if let Err(e) = joining.source.disk_answer(synced) {
                self.transfer_failed(&e);
                return false;
            }
        }
        let began = Instant::now();
        if !standing && began < joining.not_before || pair.queued_bytes(joining.conn) > QUEUED {
            return false;
        }
        let cpu = thread_cpu_ns();
        let piece = joining.source.poll(machine);
        joining.complete = joining.source.is_complete();
        // As much time for the machine as for the transfer.
        let ended = Instant::now();
        joining.not_before = ended + (ended - began);
        let moved = piece.is_some();
        if let Some(piece) = piece {
            pair.event(Event::Transfer(piece));
            self.act();
        }
        // The guest is not slower for it: it only has the processor for less of the time. Taken for
        // slow, it would have shorter and shorter turns.
        self.sample.cpu += thread_cpu_ns() - cpu;
        moved
    }

    /// The machine stands still for what is left; then the log begins.
    fn cut_over(&mut self) {
        let (began, cpu) = (Instant::now(), thread_cpu_ns());
        self.end_sample(self.host_ns(), 0);
        self.tell_outputs();
        let handover = Handover {
            wall_clock: self.config.wall_clock,
            rate: self.rate().0,
            requests: self.requests.iter().map(|((d, n), op)| (*d, *n, op.clone())).collect(),
        };
        let (Some(joining), Some(machine)) = (&mut self.joining, self.guest.machine()) else {
            return;
        };
        let progress = joining.source.progress(machine);
        joining.source.cut_over(machine, handover.encode());
        while self.joining.as_ref().is_some_and(|joining| !joining.complete) && self.ended.is_none()
        {
            if !self.move_on(true) {
                let patience = self.patience();
                let longest = Duration::from_millis(20);
                self.mail.bell.wait(Some(patience.map_or(longest, |time| time.min(longest))));
                self.mail.bell.take();
                self.attend_pair();
                self.collect();
                self.attend_control();
            }
        }
        if let Some(joining) = self.joining.take()
            && let Some(pair) = &mut self.pair
        {
            if let Some(machine) = self.guest.machine() {
                machine.keep_history(HISTORY);
            }
            let sent = began.elapsed();
            let digest = check::whole(&self.guest.digest());
            pair.cut_over(instant(self.guest, self.halted), digest);
            let still = began.elapsed();
            log::info!(
                "transfer: {} ms, {} rounds, {} bytes; the machine stood still for {} ms",
                joining.began.elapsed().as_millis(),
                progress.round,
                progress.sent,
                still.as_millis(),
            );
            log::debug!(
                "of this, {} us for what was left of {} bytes, the rest for the digest; {} us of processor time",
                sent.as_micros(),
                progress.remaining,
                (thread_cpu_ns() - cpu) / 1000,
            );
        }
        self.end_transfer();
        self.act();
        self.begin_recent();
        // What else has rung has not been heard.
        self.mail.bell.waker().wake();
        self.resume();
    }
}
