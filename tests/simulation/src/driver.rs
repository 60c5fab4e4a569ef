//! What a process does with the replica's actions: the driver of the toy machine.
//!
//! Contract: as the drivers of the real machine: actions in order, each complete before the next; a
//! process can die or stand still before any of them. It decides nothing.

use crate::checker::Emitter;
use crate::machine::{Block, CLIENTS, Machine, Output};
use crate::mistake::DriverMistake;
use crate::node::{Incoming, Outgoing, Process, Todo};
use crate::weather::MS;
use crate::world::{Due, World};
use ft::event::{Action, Event, Halt, Notice, Pace, Record, RecordRole, Tenure, Verdict};
use ft::log::codec::Base;
use ft::log::frame::decode_frame;
use ft::message::{Bye, Commit, Message};
use ft::types::{Conn, Epoch, HostNs, OutputNo};

impl World {
    /// Adds something to a process's agenda, and lets it work.
    pub(crate) fn enqueue(&mut self, node: usize, todo: Todo) {
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.agenda.push_back(todo);
            self.work(node);
        }
    }

    /// A process works off its actions and its agenda, unless it dies or stands still.
    pub(crate) fn work(&mut self, node: usize) {
        while self.checker.violation().is_none() && self.nodes[node].paused_until <= self.now {
            let Some(process) = self.nodes[node].process.as_mut() else { return };
            if let Some(action) = process.action.take() {
                self.carry_out(node, action);
            } else if let Some(action) = process.replica.poll() {
                self.meet(node, action);
            } else if let Some(todo) = process.agenda.pop_front() {
                self.perform(node, todo);
            } else {
                return;
            }
        }
    }

    /// An action is next: fate first.
    fn meet(&mut self, node: usize, action: Action) {
        if self.rng.millionths(self.weather.crash_at_action) {
            self.note(node, || format!("!! before {action:?}"));
            let told = self.rng.one_in(2);
            return self.crash(node, told);
        }
        if self.rng.millionths(self.weather.pause_at_action) {
            self.note(node, || format!("** a pause before {action:?}"));
            if let Some(process) = self.nodes[node].process.as_mut() {
                process.action = Some(action);
            }
            let time = self.rng.pick(&[20, 300, 700, 3000]) * MS;
            return self.pause(node, time);
        }
        self.carry_out(node, action);
    }

    fn perform(&mut self, node: usize, todo: Todo) {
        match todo {
            Todo::Tell(event) => self.tell(node, event),
            Todo::Step => self.step(node),
            Todo::Inject(bytes) => self.inject(node, &bytes),
            Todo::Disk { id, ok } => self.write_ends(node, id, ok),
            Todo::Transfer => self.send_state(node),
            Todo::BreakTransfer => {
                let process = self.nodes[node].process.as_mut();
                if process.is_some_and(|process| process.outgoing.take().is_some()) {
                    self.tell(node, Event::TransferFailed("a disk error".into()));
                }
            }
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        let now = self.host_now(node);
        if !matches!(event, Event::Ran { .. } | Event::Executed { .. } | Event::Timer) {
            self.note(node, || shorten(format!("<- {event:?}")));
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        match &event {
            Event::Received(conn, _) | Event::Disconnected(conn)
                if process.closed.contains(conn) =>
            {
                return;
            }
            Event::Received(_, Message::Bye(Bye::Ended)) if process.following => {
                let me = process.me;
                self.checker.told_that_it_ended(me);
            }
            Event::CutOver { .. } => {
                process.cut = process.machine.as_ref().map(|machine| machine.made());
            }
            _ => {}
        }
        process.replica.handle(now, event);
        self.check_tenure(node);
    }

    /// Who is live, or takes itself for it, leaves in time for the one after it.
    fn check_tenure(&mut self, node: usize) {
        let here = &self.nodes[node];
        let Some(process) = here.process.as_ref() else { return };
        let until = match process.replica.tenure() {
            Tenure::Open => u64::MAX,
            Tenure::Until(until) => until.0.saturating_sub(here.clock),
            Tenure::Ended => return,
        };
        let epoch = process.replica.epoch();
        self.checker.reigns_until(epoch, until);
    }

    fn carry_out(&mut self, node: usize, action: Action) {
        let quiet = match &action {
            Action::Send(_, Message::Log { frame, .. }) => frame.is_empty(),
            Action::Send(_, Message::Ack(_)) => false,
            Action::SetTimer(_) => true,
            _ => false,
        };
        if !quiet {
            self.note(node, || shorten(format!("-> {action:?}")));
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        match action {
            Action::Send(conn, message) => {
                self.check_message(node, &message);
                self.send(node, conn, &message);
            }
            Action::Close(conn) => {
                process.closed.push(conn);
                self.close(conn);
            }
            Action::SetTimer(at) => {
                process.timer += 1;
                let due = Due::Timer(node, self.nodes[node].incarnation, self.timer(node));
                self.at(at.0.saturating_sub(self.nodes[node].clock), due);
            }
            Action::AskArbiter(epoch) => self.ask_arbiter(node, epoch),
            Action::Release(below) => {
                let one_more = u64::from(self.has(DriverMistake::OneTooMany));
                self.let_out(node, below.0 + one_more);
            }
            Action::Forget(below) => self.forget(node, below),
            Action::Run(pace) => {
                process.pace = pace;
                self.step_soon(node, 0);
            }
            Action::BeginTransfer(conn) => self.begin_transfer(node, conn),
            Action::AbortTransfer => {
                process.outgoing = None;
                process.incoming = Incoming::default();
                // What was about to be told of it is void.
                let void =
                    |event: &Event| matches!(event, Event::Transfer(_) | Event::CutOver { .. });
                process.agenda.retain(|todo| !matches!(todo, Todo::Tell(event) if void(event)));
            }
            Action::Install(bytes) => self.install(node, &bytes),
            Action::Adopt(commit) => self.adopt(node, &commit),
            Action::GoLive { epoch, emit_from, rival_until } => {
                self.go_live(node, epoch, emit_from, rival_until);
            }
            Action::Persist(record) => self.persist(node, record),
            // The other side tells the checkers.
            Action::Evidence { .. } => {}
            Action::Tell(notice) => self.hear(node, &notice),
            Action::Halt(halt) => self.halt(node, halt),
        }
    }

    fn timer(&self, node: usize) -> u64 {
        self.nodes[node].process.as_ref().map_or(0, |process| process.timer)
    }

    /// What is sent is what it says.
    fn check_message(&mut self, node: usize, message: &Message) {
        let Some(process) = self.nodes[node].process.as_ref() else { return };
        let (Some(machine), epoch) = (&process.machine, process.replica.epoch()) else { return };
        match message {
            Message::Log { frame, .. } if !frame.is_empty() && self.mistake.is_none() => {
                let seq = first_seq(frame);
                let mut base = Base { seq, icount: 0, ns: 0 };
                match decode_frame(&mut base, frame) {
                    Ok(entries) => {
                        for entry in &entries {
                            self.checker.entry(machine.life, epoch, entry);
                        }
                    }
                    Err(e) => self.checker.violated(format!("a frame that is none: {e:?}")),
                }
            }
            Message::Bye(Bye::Ended) => {
                let (life, made) = (machine.life, machine.made());
                if !self.checker.has_left(life, made) {
                    self.checker.violated("an end is told before all outputs are out".into());
                }
            }
            _ => {}
        }
    }

    fn ask_arbiter(&mut self, node: usize, epoch: Epoch) {
        self.questions += 1;
        let number = self.questions;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let (me, fresh) = (process.me, process.live.is_none() && !process.following);
        if self.has(DriverMistake::StartsUnasked) && fresh {
            let event = Event::Verdict { epoch, verdict: Verdict::Won };
            return self.enqueue(node, Todo::Tell(event));
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.question = Some((epoch, number));
        }
        if self.arbiter_paths[node][0] {
            let wait = MS / 10 + self.rng.below(self.weather.arbiter_delay);
            self.after(wait, Due::Claim(node, me, epoch, number));
        }
        self.after(500 * MS, Due::GiveUp(node, me, epoch, number));
    }

    /// Outputs below `below` leave, one by one.
    fn let_out(&mut self, node: usize, below: u64) {
        loop {
            let Some(process) = self.nodes[node].process.as_mut() else { return };
            let first = process.held.front().is_some_and(|(_, output)| output.number < below);
            let (Some(machine), true) = (&process.machine, first) else { return };
            let Some((made_at, output)) = process.held.pop_front() else { return };
            let epoch = process.live.unwrap_or_default();
            let who = Emitter { replica: process.me, epoch, life: machine.life };
            if process.cut.is_some_and(|cut| cut <= output.number) {
                let what = format!("{who:?} emits {output:?}, and the backup has no machine yet");
                return self.checker.violated(what);
            }
            self.checker.emits(&who, &output, made_at);
            self.check_executed(node, &output);
            if let Some(reply) = output.reply {
                self.answer(reply);
            }
            if self.rng.millionths(self.weather.crash_at_output) {
                self.note(node, || format!("!! after output {}", output.number));
                let told = self.rng.one_in(2);
                return self.crash(node, told);
            }
        }
    }

    /// What overwrites something that the backup reads leaves when it has come past it.
    fn check_executed(&mut self, node: usize, output: &Output) {
        let Some(process) = self.nodes[node].process.as_ref() else { return };
        let epoch = process.replica.epoch();
        let behind = |other: &Process| {
            let early = other.machine.as_ref().is_some_and(|machine| machine.ns() < output.ns);
            other.following && other.followed == epoch && early
        };
        let mut others = self.nodes.iter().filter_map(|node| node.process.as_ref());
        if output.overwrites() && others.any(behind) {
            let what = format!("{output:?} overwrites in {epoch:?} what is not read yet");
            self.checker.violated(what);
        }
    }

    fn forget(&mut self, node: usize, below: OutputNo) {
        let more = if self.has(DriverMistake::ForgetsTooMuch) { 1 } else { 0 };
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        process.forget = process.forget.max(below.0 + more);
        while process.held.front().is_some_and(|(_, output)| output.number < process.forget) {
            process.held.pop_front();
        }
    }

    fn go_live(&mut self, node: usize, epoch: Epoch, emit_from: OutputNo, rival_until: HostNs) {
        let (owner, now) = (self.arbiter.latest(), self.now);
        let alone_from = now.max(rival_until.0.saturating_sub(self.nodes[node].clock));
        let recorded = self.nodes[node].record.map(|record| (record.role, record.epoch));
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let takes_over = core::mem::take(&mut process.following);
        let Some(machine) = process.machine.as_mut() else {
            return self.checker.violated("going live without a machine".into());
        };
        if process.entry.is_some() || process.replica.next_entry().is_some() {
            return self.checker.violated("going live before the log is executed".into());
        }
        if recorded != Some((RecordRole::Primary, epoch)) {
            let what = format!("going live in {epoch:?}, but the record says {recorded:?}");
            return self.checker.violated(what);
        }
        let who = Emitter { replica: process.me, epoch, life: machine.life };
        process.live = Some(epoch);
        process.pace = Pace::Full;
        process.last_step = now;
        process.end_told = machine.is_ended() && !takes_over;
        let (pending, made) = (machine.writing().to_vec(), machine.made());
        self.checker.counts.takeovers += u64::from(takes_over);
        self.checker.counts.boots += u64::from(!takes_over);
        self.checker.goes_live(&who, made, [now, alone_from], owner);
        for node in 0..self.nodes.len() {
            self.check_tenure(node);
        }
        if takes_over {
            if !self.has(DriverMistake::WritesNotReissued) {
                for write in pending {
                    self.issue(node, write.id);
                }
            }
            // Those before have left already; the rest goes now.
            if let Some(process) = self.nodes[node].process.as_mut() {
                process.held.retain(|(_, output)| output.number >= emit_from.0);
            }
            self.let_out(node, u64::MAX);
        }
        self.step_soon(node, 0);
    }

    fn persist(&mut self, node: usize, record: Record) {
        let here = &mut self.nodes[node];
        here.record = Some(record);
        here.claimants.clear();
        here.recorder = here.process.as_ref().map(|process| process.me);
        if record.role == RecordRole::Primary {
            here.claimants.extend(here.process.as_ref().map(|process| process.me));
        }
    }

    fn hear(&mut self, node: usize, notice: &Notice) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        match notice {
            Notice::Protected if process.live.is_some() => {
                process.protected = true;
                process.cut = None;
                self.checker.counts.joined += 1;
            }
            Notice::BackupLost(_) => (process.protected, process.cut) = (false, None),
            // The new epoch is one in which it is live.
            Notice::Alone(epoch) => {
                process.live = Some(*epoch);
                let Some(machine) = &process.machine else { return };
                let who = Emitter { replica: process.me, epoch: *epoch, life: machine.life };
                let times = [self.now; 2];
                self.checker.goes_live(&who, machine.made(), times, self.arbiter.latest());
            }
            _ => {}
        }
    }

    /// A replica has stopped for good; its computer starts a new one, unless the guest has ended.
    fn halt(&mut self, node: usize, halt: Halt) {
        match &halt {
            Halt::Ended => {
                self.nodes[node].finished = true;
                self.checker.counts.ended += 1;
            }
            Halt::Diverged { what, icount } if !self.nodes[node].is_broken() => {
                self.checker.violated(format!("the backup differs at {icount}: {what}"));
            }
            Halt::Unusable(why) => {
                self.checker.violated(format!("a backup cannot follow: {why}"));
            }
            Halt::Superseded { .. } | Halt::Detached | Halt::Diverged { .. } => {}
        }
        if let Some(mut process) = self.nodes[node].process.take() {
            if process.replica.poll().is_some() {
                self.checker.violated("an action after the end".into());
            }
            self.hang_up(node, true);
            self.start_later(node);
        }
    }
}

/// Number of a frame's first entry: a LEB128 number behind length and checksum.
fn first_seq(frame: &[u8]) -> u64 {
    let mut seq = 0;
    for (n, byte) in frame[ft::log::frame::HEADER..].iter().take(9).enumerate() {
        seq |= u64::from(byte & 0x7F) << (7 * n);
        if byte & 0x80 == 0 {
            break;
        }
    }
    seq
}

fn shorten(mut line: String) -> String {
    if let Some((at, _)) = line.char_indices().nth(160) {
        line.truncate(at);
        line.push('…');
    }
    line
}

/// State in transit: pages, disk blocks, and at the end the rest of the machine.
#[derive(serde::Serialize, serde::Deserialize)]
struct Piece {
    pages: Vec<(u8, [u64; crate::machine::WORDS])>,
    disk: Option<[Block; CLIENTS]>,
    registers: Vec<u8>,
}

impl World {
    fn begin_transfer(&mut self, node: usize, conn: Conn) {
        self.transfers += 1;
        let number = self.transfers;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_mut() else {
            return self.checker.violated("a transfer without a machine".into());
        };
        machine.take_dirty();
        let pages = (0..crate::machine::PAGES as u8).collect();
        process.outgoing = Some(Outgoing { conn, pages, rounds: 0, number });
        self.send_state_soon(node, number);
    }

    fn send_state_soon(&mut self, node: usize, number: u64) {
        let wait = self.rng.range(1, 25) * MS;
        self.after(wait, Due::Transfer(node, self.nodes[node].incarnation, number));
    }

    /// The next piece: some pages, while the machine runs; at last the rest, while it stands.
    fn send_state(&mut self, node: usize) {
        let dropped = self.has(DriverMistake::DroppedPage);
        let disk = self.nodes[node].disk;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_mut() else { return };
        let Some(mut outgoing) = process.outgoing.take() else { return };
        if outgoing.pages.is_empty() {
            outgoing.pages = machine.take_dirty().into();
            outgoing.rounds += 1;
        }
        let last = outgoing.rounds > 0 && (outgoing.pages.len() <= 3 || outgoing.rounds > 4);
        let count = if last { outgoing.pages.len() } else { outgoing.pages.len().min(5) };
        let mut pages: Vec<_> =
            outgoing.pages.drain(..count).map(|page| (page, machine.page(page))).collect();
        let mut registers = Vec::new();
        if last {
            // Dirtied since this round began.
            pages.extend(machine.take_dirty().into_iter().map(|page| (page, machine.page(page))));
            registers = machine.registers();
        }
        if dropped && outgoing.rounds > 0 {
            pages.pop();
        }
        let disk = (last || outgoing.rounds == 0).then_some(disk);
        let piece = Piece { pages, disk, registers };
        let bytes = postcard::to_allocvec(&piece).expect("plain data can be encoded");
        let piece = Todo::Tell(Event::Transfer(bytes));
        if last {
            let over = Event::CutOver { at: machine.instant(), digest: machine.digest() };
            process.first([piece, Todo::Tell(over)]);
        } else {
            process.outgoing = Some(outgoing);
            process.first([piece]);
        }
    }

    /// A piece of the state has come, or the answer to one. The next is sent when the last is
    /// answered: nobody cuts over to a side that is not there.
    fn install(&mut self, node: usize, bytes: &[u8]) {
        let here = &mut self.nodes[node];
        let process = here.process.as_ref().filter(|process| process.live.is_some());
        if let Some(process) = process {
            if let Some(outgoing) = &process.outgoing {
                let number = outgoing.number;
                self.send_state_soon(node, number);
            }
            return;
        }
        let role = here.record.map(|record| record.role);
        if role != Some(RecordRole::Syncing) {
            let what = format!("a copy is overwritten that is recorded as {role:?}");
            return self.checker.violated(what);
        }
        let Some(process) = here.process.as_mut() else { return };
        let Ok(piece) = postcard::from_bytes::<Piece>(bytes) else {
            return self.checker.violated("a piece of state that is none".into());
        };
        process.incoming.pages.extend(piece.pages);
        process.incoming.registers = piece.registers;
        here.disk = piece.disk.unwrap_or(here.disk);
        process.first([Todo::Tell(Event::Transfer(Vec::new()))]);
    }

    fn adopt(&mut self, node: usize, commit: &Commit) {
        let now = self.now;
        let lenient = self.has(DriverMistake::DroppedPage);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let incoming = core::mem::take(&mut process.incoming);
        let ram = incoming.pages.into_values().collect();
        let Some(machine) = Machine::assemble(&incoming.registers, ram) else {
            return self.checker.violated("the state that came is no machine".into());
        };
        let same = machine.instant() == commit.at()
            && machine.digest() == commit.digest
            && machine.made() == commit.outputs.0;
        if !same && !lenient {
            return self.checker.violated("the machine that came is not the one that left".into());
        }
        for write in machine.writing().to_vec() {
            self.nodes[node].disk[usize::from(write.client)] = write.block;
        }
        if let Some(process) = self.nodes[node].process.as_mut() {
            become_backup(process, machine, commit, now);
        }
        // To compare the digest takes its time.
        let wait = self.rng.pick(&[MS / 5, 10 * MS, 150 * MS]);
        self.after(wait, Due::Adopted(node, self.nodes[node].incarnation));
    }
}

fn become_backup(process: &mut Process, machine: Machine, commit: &Commit, now: u64) {
    process.machine = Some(machine);
    process.followed = commit.epoch;
    process.executed = commit.seq;
    process.last_step = now;
    process.held.clear();
    process.forget = 0;
}
