//! The backup: it buffers the log, acknowledges it, executes it, and takes over.
//!
//! Contract: what is acknowledged is in the buffer and will be executed, whatever happens to the
//! connection. It goes live only with the arbiter's leave, and only when all of its log is
//! executed.

use super::claim::Claim;
use super::live::Live;
use super::{Context, Planted, Role, Turn, leave};
use crate::event::{Action, Event, Halt, Notice, Record, RecordRole, Verdict};
use crate::log::Entry;
use crate::log::codec::Base;
use crate::log::frame::decode_frame;
use crate::message::{Ack, Bye, Commit, Message};
use crate::types::{Conn, HostNs, OutputNo};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A replica that has, or is about to have, the primary's machine.
#[derive(Debug)]
pub(super) struct Backup {
    /// The primary; `None`: it is lost, or we are taking over.
    conn: Option<Conn>,
    /// The machine is there.
    adopted: bool,
    base: Base,
    /// Entries that are not taken for execution, with their bytes.
    buffer: VecDeque<(Entry, u64)>,
    buffer_bytes: u64,
    /// Entries below this are executed.
    executed: u64,
    icount: u64,
    outputs: OutputNo,
    /// Outputs below this have left the primary.
    released: OutputNo,
    heard: HostNs,
    said: HostNs,
    /// Of the primary's latest message.
    stamp: u64,
    /// The primary waits until entries below this are executed; 0: it does not.
    wanted: u64,
    /// The primary's machine has ended, and what it said is all out.
    bye: bool,
    claim: Option<Claim>,
    won: bool,
    /// A frame that a planted mistake has acknowledged and not kept.
    mislaid: Vec<u8>,
}

impl Backup {
    /// The state transfer is complete.
    pub(super) fn new(context: &Context, conn: Conn, commit: &Commit) -> Self {
        Self {
            conn: Some(conn),
            adopted: false,
            base: commit.base(),
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            executed: commit.seq,
            icount: commit.icount,
            outputs: commit.outputs,
            released: commit.outputs,
            heard: context.now,
            said: context.now,
            stamp: 0,
            wanted: 0,
            bye: false,
            claim: None,
            won: false,
            mislaid: Vec::new(),
        }
    }

    pub(super) fn next_entry(&mut self) -> Option<Entry> {
        if !self.adopted {
            return None;
        }
        let (entry, bytes) = self.buffer.pop_front()?;
        self.buffer_bytes -= bytes;
        Some(entry)
    }

    pub(super) fn handle(&mut self, context: &mut Context, event: Event) -> Turn {
        match event {
            Event::Received(conn, message) if self.conn == Some(conn) => {
                self.heard = context.now;
                self.received(context, conn, message)
            }
            Event::Disconnected(conn) if self.conn == Some(conn) => {
                self.mislaid.clear();
                self.take_over(context, "the connection is gone")
            }
            Event::Adopted => self.adopt(context),
            Event::TransferFailed(why) => self.unusable(context, why),
            Event::Executed { seq, icount, outputs } => {
                self.executed = seq;
                self.icount = icount;
                self.outputs = outputs;
                self.tell_executed(context);
                self.proceed(context)
            }
            Event::Diverged { icount, what, evidence } => {
                if let Some(conn) = self.conn.take() {
                    let what = what.clone();
                    context.send(conn, Message::Diverged { icount, what, evidence });
                    context.act(Action::Close(conn));
                }
                Turn::Halt(Halt::Diverged { icount, what })
            }
            Event::Verdict { epoch, verdict } => match &mut self.claim {
                Some(claim) if claim.answers(epoch) => self.verdict(context, verdict),
                _ => Turn::Stay,
            },
            Event::Timer => self.tick(context),
            Event::Promote if self.adopted && !self.is_taking_over() => {
                self.claim(context);
                self.proceed(context)
            }
            // Who has asked for the epoch may have it: to leave now could leave nobody.
            Event::Detach if !self.is_taking_over() => {
                if let Some(conn) = self.conn.take() {
                    leave(context, conn, Bye::Detached);
                }
                Turn::Halt(Halt::Detached)
            }
            _ => Turn::Stay,
        }
    }

    fn received(&mut self, context: &mut Context, conn: Conn, message: Message) -> Turn {
        match message {
            Message::Log { frame, released, wanted, stamp } => {
                self.stamp = self.stamp.max(stamp);
                self.wanted = wanted;
                if released > self.released {
                    self.released = released;
                    context.act(Action::Forget(released));
                }
                self.log(context, frame)
            }
            Message::Bye(Bye::Ended) => {
                self.bye = !context.has(Planted::LiveAfterEnd);
                self.conn = None;
                context.act(Action::Close(conn));
                match self.bye {
                    true => self.proceed(context),
                    false => self.take_over(context, "it left"),
                }
            }
            Message::Bye(Bye::Detached) if !self.is_taking_over() => {
                context.act(Action::Close(conn));
                Turn::Halt(Halt::Detached)
            }
            // It says so itself that it cannot go on, or that it wants us no more when we have
            // asked already.
            Message::Bye(Bye::Failed | Bye::Detached) => self.take_over(context, "it left"),
            _ => self.unusable(context, "the primary broke the protocol".into()),
        }
    }

    /// Entries have come: they are buffered, then acknowledged.
    fn log(&mut self, context: &mut Context, mut frame: Vec<u8>) -> Turn {
        if context.has(Planted::AckBeforeBuffering) {
            core::mem::swap(&mut self.mislaid, &mut frame);
        }
        let entries = self.base.seq;
        if !frame.is_empty() {
            match decode_frame(&mut self.base, &frame) {
                Ok(found) => self.buffer(found, frame.len() as u64),
                Err(e) => return self.unusable(context, format!("damaged log: {e:?}")),
            }
        }
        if self.buffer_bytes > context.config.buffer_bytes.saturating_mul(4) {
            return self.unusable(context, "the primary sends more than there is room for".into());
        }
        let mislaid = context.has(Planted::AckBeforeBuffering) && !self.mislaid.is_empty();
        if self.base.seq > entries || mislaid {
            self.acknowledge(context);
        }
        self.tell_executed(context);
        Turn::Stay
    }

    /// Says that what the primary waits for is executed, if it is.
    fn tell_executed(&mut self, context: &mut Context) {
        if self.wanted > 0 && self.executed >= self.wanted {
            self.wanted = 0;
            self.acknowledge(context);
        }
    }

    fn buffer(&mut self, entries: Vec<Entry>, bytes: u64) {
        let share = bytes / entries.len().max(1) as u64;
        self.buffer_bytes += share * entries.len() as u64;
        self.buffer.extend(entries.into_iter().map(|entry| (entry, share)));
    }

    fn acknowledge(&mut self, context: &mut Context) {
        let early = context.has(Planted::AckBeforeAdopting);
        let Some(conn) = self.conn.filter(|_| self.adopted || early) else { return };
        self.said = context.now;
        let mut received = self.base.seq;
        if !self.mislaid.is_empty() {
            let mut base = self.base;
            received = decode_frame(&mut base, &self.mislaid).map_or(received, |_| base.seq);
        }
        let ack = Ack {
            received,
            executed: self.executed,
            icount: self.icount,
            waiting_bytes: self.buffer_bytes,
            stamp: self.stamp,
        };
        context.send(conn, Message::Ack(ack));
    }

    /// The machine is there, and the right one.
    fn adopt(&mut self, context: &mut Context) -> Turn {
        self.adopted = true;
        let vm = context.vm.expect("it came with the welcome");
        let record = Record { vm, epoch: context.epoch, role: RecordRole::Backup };
        context.act(Action::Persist(record));
        if let Some(conn) = self.conn {
            context.send(conn, Message::Joined);
            self.acknowledge(context);
            context.tell(Notice::Protected);
            return Turn::Stay;
        }
        self.claim(context);
        self.proceed(context)
    }

    fn unusable(&mut self, context: &mut Context, why: String) -> Turn {
        if let Some(conn) = self.conn.take() {
            leave(context, conn, Bye::Failed);
        }
        Turn::Halt(Halt::Unusable(why))
    }

    /// The primary is lost.
    fn take_over(&mut self, context: &mut Context, why: &str) -> Turn {
        if let Some(conn) = self.conn.take() {
            context.act(Action::Close(conn));
        }
        if self.claim.is_none() && !self.bye && !self.won {
            context.tell(Notice::PrimaryLost(why.into()));
            if self.adopted {
                self.claim(context);
            }
        }
        self.proceed(context)
    }

    fn claim(&mut self, context: &mut Context) {
        if self.bye {
            return;
        }
        if context.has(Planted::BackupSkipsArbiter) {
            self.win(context);
        } else {
            self.claim = Some(Claim::ask(context));
        }
    }

    /// The epoch is ours. Nothing is acknowledged from here on: what the primary releases later is
    /// what it had the leave for, and that is in the log.
    fn win(&mut self, context: &mut Context) {
        self.won = true;
        self.claim = None;
        if let Some(conn) = self.conn.take() {
            context.act(Action::Close(conn));
        }
    }

    fn verdict(&mut self, context: &mut Context, verdict: Verdict) -> Turn {
        match verdict {
            Verdict::Won => {
                self.win(context);
                self.proceed(context)
            }
            Verdict::Lost { epoch, owner } => Turn::Halt(Halt::Superseded { epoch, owner }),
            Verdict::Unreachable => {
                if let Some(claim) = &mut self.claim {
                    claim.unanswered(context);
                }
                Turn::Stay
            }
        }
    }

    /// Goes live, or ends, when the log is executed to its end.
    fn proceed(&mut self, context: &mut Context) -> Turn {
        let early = context.has(Planted::GoLiveEarly) && self.won;
        if !self.adopted || (self.executed < self.base.seq && !early) {
            return Turn::Stay;
        }
        if self.bye {
            return Turn::Halt(Halt::Ended);
        }
        if !self.won {
            return Turn::Stay;
        }
        context.win();
        let released = self.released.min(self.outputs);
        // The primary was told that we are its backup when we heard from it last.
        let rival_until = match context.has(Planted::RivalForgotten) {
            true => HostNs(0),
            false => self.heard.after(context.config.timeout),
        };
        let live = Live::begin(context, self.base.seq, self.outputs, released, rival_until);
        Turn::Become(Box::new(Role::Live(live)))
    }

    fn tick(&mut self, context: &mut Context) -> Turn {
        if let Some(claim) = &mut self.claim {
            claim.tick(context);
        }
        let patience = self.patience(context);
        if self.conn.is_none() {
            return Turn::Stay;
        }
        if context.now >= self.heard.after(patience) {
            return self.take_over(context, "it is silent");
        }
        if context.now >= self.said.after(context.config.heartbeat) {
            self.said = context.now;
            match self.conn.filter(|_| !self.adopted) {
                // It lives, and that is all.
                Some(conn) => context.send(conn, Message::Ack(Ack::default())),
                None => self.acknowledge(context),
            }
        }
        Turn::Stay
    }

    fn patience(&self, context: &Context) -> u64 {
        if self.adopted { context.config.timeout } else { context.config.joining_timeout }
    }

    pub(super) fn deadline(&self, context: &Context) -> Option<HostNs> {
        let talk = self.conn.map(|_| {
            let silent = self.heard.after(self.patience(context));
            silent.min(self.said.after(context.config.heartbeat))
        });
        let claim = self.claim.as_ref().and_then(Claim::deadline);
        [talk, claim].into_iter().flatten().min()
    }

    pub(super) fn is_adopted(&self) -> bool {
        self.adopted
    }

    pub(super) fn is_taking_over(&self) -> bool {
        self.claim.is_some() || self.won
    }

    /// Entries received and executed.
    pub(super) fn entries(&self) -> (u64, u64) {
        (self.base.seq, self.executed)
    }
}
