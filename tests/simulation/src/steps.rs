//! What a process does with its machine: it runs it live, or follows the log.
//!
//! Contract: an input is logged before it is applied, at the instant at which it is applied;
//! outputs wait until they are released.

use crate::machine::{Input, Output};
use crate::mistake::DriverMistake;
use crate::node::Todo;
use crate::rng::mix;
use crate::weather::MS;
use crate::world::{Due, World};
use ft::event::{Event, Pace};
use ft::log::{Body, Entry};
use ft::types::OutputNo;

/// Longest time that a machine runs at once.
const SLICE: u64 = 20 * MS;
/// Instructions between two digests.
const DIGESTS: u64 = 700;

impl World {
    /// The machine runs again in `wait`, unless that is planned.
    pub(crate) fn step_soon(&mut self, node: usize, wait: u64) {
        let incarnation = self.nodes[node].incarnation;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !core::mem::replace(&mut process.stepping, true) {
            self.after(wait, Due::Step(node, incarnation));
        }
    }

    pub(crate) fn step(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        process.stepping = false;
        if process.live.is_some() {
            self.step_live(node);
        } else if process.following {
            self.step_backup(node);
        }
    }

    fn step_live(&mut self, node: usize) {
        let now = self.now;
        let unlogged = self.has(DriverMistake::InjectedBeforeLogged);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_mut() else { return };
        let since = (now - process.last_step).min(SLICE);
        if process.pace == Pace::Stop || machine.is_ended() && process.end_told {
            process.last_step = now;
            return;
        }
        if let Some(bytes) = process.inputs.pop_front().filter(|_| !machine.is_ended()) {
            if unlogged {
                self.inject(node, &bytes);
                self.run_slice(node, MS / 10);
            }
            let Some(process) = self.nodes[node].process.as_mut() else { return };
            let Some(machine) = process.machine.as_ref() else { return };
            let at = machine.instant();
            let logged = Event::Logged { at, body: Body::Input(bytes.clone()) };
            let mut todos = vec![Todo::Tell(logged)];
            if !unlogged {
                todos.push(Todo::Inject(bytes));
            }
            todos.push(Todo::Step);
            process.first(todos);
            process.stepping = true;
            return;
        }
        let time = match process.pace {
            Pace::Share(share) => since * u64::from(share) / 1000,
            _ => since,
        };
        process.last_step = now;
        self.run_slice(node, time);
        let wait = self.rng.range(MS / 4, 5 * MS);
        self.step_soon(node, wait);
    }

    /// Runs the live machine, and reports.
    fn run_slice(&mut self, node: usize, time: u64) {
        let at_output = self.rng.one_in(2);
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_mut() else { return };
        machine.run(machine.ns() + time, at_output);
        let mut todos = Vec::new();
        if machine.icount() >= process.digest_at {
            process.digest_at = machine.icount() + DIGESTS;
            let body = Body::Digest(short_digest(machine.digest()));
            todos.push(Todo::Tell(Event::Logged { at: machine.instant(), body }));
        }
        let (at, idle) = (machine.instant(), machine.is_halted());
        todos.push(Todo::Tell(Event::Ran { at, idle }));
        if machine.is_ended() && !core::mem::replace(&mut process.end_told, true) {
            let body = Body::End(Vec::new());
            todos.push(Todo::Tell(Event::Logged { at, body }));
            todos.push(Todo::Tell(Event::Ended));
        }
        process.first(todos);
        self.collect(node);
    }

    /// Outputs and writes that the live machine has made: the first thing to report.
    fn collect(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_mut() else { return };
        let (outputs, issued) = (machine.take_outputs(), machine.take_issued());
        if !outputs.is_empty() {
            let (at, count) = (machine.instant(), outputs.len() as u64);
            let executed = outputs.iter().any(Output::overwrites);
            process.held.extend(outputs.into_iter().map(|output| (now, output)));
            process.first([Todo::Tell(Event::Output { at, count, executed })]);
        }
        for write in issued {
            self.issue(node, write.id);
        }
    }

    /// A live machine's write goes to the disk.
    pub(crate) fn issue(&mut self, node: usize, id: u64) {
        let ok = !self.rng.millionths(self.weather.disk_errors);
        let wait = self.rng.range(MS / 5, 8 * MS);
        self.after(wait, Due::Disk(node, self.nodes[node].incarnation, id, ok));
    }

    /// A write has come to its end: the machine learns it as an input.
    pub(crate) fn write_ends(&mut self, node: usize, id: u64, ok: bool) {
        let unlogged = !ok && self.has(DriverMistake::ErrorNotLogged);
        let here = &mut self.nodes[node];
        let Some(process) = here.process.as_mut() else { return };
        let Some(machine) = process.machine.as_ref() else { return };
        let Some(write) = machine.writing().iter().find(|write| write.id == id) else { return };
        if ok {
            here.disk[usize::from(write.client)] = write.block;
        }
        let input = Input::DiskDone { id, ok }.encode();
        if unlogged {
            self.inject(node, &input);
        } else {
            process.inputs.push_back(input);
        }
    }

    /// An input takes effect on the live machine.
    pub(crate) fn inject(&mut self, node: usize, bytes: &[u8]) {
        let Some(input) = Input::decode(bytes) else {
            return self.checker.violated("an input that is none".into());
        };
        let (clock, word) = (self.has(DriverMistake::HostClockSeen), mix(self.now));
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if let Some(machine) = process.machine.as_mut() {
            machine.inject(&input);
            if clock && word % 16 == 0 {
                machine.disturb(word);
            }
        }
        self.collect(node);
    }

    /// The backup executes what there is, as fast as it can.
    fn step_backup(&mut self, node: usize) {
        let now = self.now;
        let here = &mut self.nodes[node];
        let Some(process) = here.process.as_mut() else { return };
        let slow = if here.slow_until > now { 20 } else { 1 };
        let since = (now - process.last_step).min(50 * MS);
        let mut budget = here.speed * since / MS / slow;
        process.last_step = now;
        let before = process.machine.as_ref().map(|machine| machine.instant());
        let executed = process.executed;
        loop {
            let Some(process) = self.nodes[node].process.as_mut() else { return };
            let Some(entry) = process.entry.take().or_else(|| process.replica.next_entry()) else {
                break;
            };
            match self.execute(node, &entry, &mut budget) {
                Ok(true) => self.checker.counts.entries += 1,
                Ok(false) => {
                    if let Some(process) = self.nodes[node].process.as_mut() {
                        process.entry = Some(entry);
                    }
                    break;
                }
                Err(what) => return self.differs(node, what),
            }
        }
        if self.has(DriverMistake::PastTheFrontier) {
            self.run_past(node);
        }
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let Some(machine) = process.machine.as_ref() else { return };
        if process.executed > executed || Some(machine.instant()) != before {
            let event = Event::Executed {
                seq: process.executed,
                icount: machine.icount(),
                outputs: OutputNo(machine.made()),
            };
            process.first([Todo::Tell(event)]);
        }
        let wait = self.rng.range(MS / 4, 5 * MS);
        self.step_soon(node, wait);
    }

    /// The backup's machine is not the primary's: the replica is told, and nobody is surprised if
    /// it had to come.
    fn differs(&mut self, node: usize, what: String) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !process.broken {
            return self.checker.violated(what);
        }
        let icount = process.machine.as_ref().map_or(0, |machine| machine.icount());
        let event = Event::Diverged { icount, what, evidence: vec![1] };
        process.first([Todo::Tell(event)]);
    }

    /// Executes towards an entry, and takes it; whether it came so far.
    fn execute(&mut self, node: usize, entry: &Entry, budget: &mut u64) -> Result<bool, String> {
        let past = || format!("entry {entry:?} is in the past of the machine");
        let (keep, now) = (!self.has(DriverMistake::OutputsNotKept), self.now);
        let here = &mut self.nodes[node];
        let Some(process) = here.process.as_mut() else { return Ok(false) };
        let Some(machine) = process.machine.as_mut() else { return Ok(false) };
        // Progress says how many instructions there were; time while halted is no matter of it.
        let loose = entry.body == Body::Progress && entry.at.halted_ns.is_none();
        let there = machine.follow(entry.at, loose, budget).map_err(|_| past())?;
        if there {
            match &entry.body {
                Body::Input(bytes) => {
                    machine.inject(&Input::decode(bytes).ok_or("an input that is none")?);
                }
                Body::Digest(bytes) if *bytes != short_digest(machine.digest()) => {
                    return Err(format!("the digests differ at {:?}", entry.at));
                }
                Body::End(_) if !machine.is_ended() => return Err("an end that is none".into()),
                _ => {}
            }
            process.executed = entry.seq + 1;
        }
        for output in machine.take_outputs() {
            if keep && output.number >= process.forget {
                process.held.push_back((now, output));
            }
        }
        for write in machine.take_issued() {
            here.disk[usize::from(write.client)] = write.block;
        }
        let (life, epoch) = (machine.life, process.followed);
        if there && self.mistake.is_none() {
            self.checker.entry(life, epoch, entry);
        }
        Ok(there)
    }

    /// The mistake of a backup that does not wait for the log.
    fn run_past(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if let Some(machine) = process.machine.as_mut().filter(|_| process.entry.is_none()) {
            machine.run(machine.ns() + MS, true);
        }
    }
}

fn short_digest(digest: u128) -> Vec<u8> {
    (digest as u32).to_le_bytes().to_vec()
}
