//! Both computers, the channel between them, the client and the arbiter, in one thread and one
//! time.
//!
//! Contract: nothing here is random. At every step of the primary [`World::point`] is told; there
//! the crashes happen.

use crate::client::Client;
use crate::fork::{Side, fork, wait_for_one};
use crate::host::{Host, advance, whole};
use devices::board::BoardConfig;
use devices::io::{Input, Output};
use devices::time::{Icount, VirtualNs};
use emulator::machine::{Config as MachineConfig, Machine, Stop};
use ft::event::{Action, Event, Halt, Verdict};
use ft::log::{Body, Instant};
use ft::types::{Conn, Epoch, HostNs, OutputNo, ReplicaId, VmId};
use ft::{Config, Message, Replica, Start};
use std::collections::{BTreeMap, VecDeque};

/// The embedded guest's disk.
const IMAGE: &[u8] = include_bytes!("../../../disk-images/counter/counter.img");
/// Sides by index.
const PRIMARY: usize = 0;
const BACKUP: usize = 1;
const CHANNEL: Conn = Conn(1);
/// The world's time goes in steps of so many ns.
const STEP: u64 = 50_000;
/// Ns that a message, a frame and a verdict take.
const CHANNEL_DELAY: u64 = 100_000;
const CABLE_DELAY: u64 = 50_000;
const VERDICT_DELAY: u64 = 1_000_000;
/// Copies of this process at a time.
const COPIES: usize = 2;
/// Ns after which a client that waits is a client that was failed.
const PATIENCE: u64 = 60_000_000_000;

/// What is swept.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Every so many steps a crash.
    pub stride: u64,
    /// The first of them.
    pub offset: u64,
    /// How far the client counts.
    pub increments: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Entries of the log.
    pub entries: u64,
    /// Steps of the primary at which it can crash.
    pub steps: u64,
    /// Crashes tried.
    pub crashes: u64,
    /// Crashes after which something was wrong.
    pub failed: u64,
}

/// Both computers and everything around them.
pub struct World {
    plan: Plan,
    now: u64,
    hosts: [Option<Host>; 2],
    timers: [Option<HostNs>; 2],
    /// Messages on their way: when, to whom.
    messages: VecDeque<(u64, usize, Message)>,
    /// Other events on their way.
    events: VecDeque<(u64, usize, Event)>,
    to_client: VecDeque<(u64, Vec<u8>)>,
    to_guest: VecDeque<(u64, Vec<u8>)>,
    client: Client,
    arbiter: Option<(Epoch, ReplicaId)>,
    /// State and disk at the joining.
    joined: Vec<u8>,
    sums: Sums,
    /// Steps are counted from here on.
    counting: bool,
    /// Copies that run, and what each tries.
    copies: BTreeMap<i32, String>,
}

fn machine() -> Machine {
    let disks = [Some(IMAGE.len() as u64 / 512), None, None, None];
    let board = BoardConfig { disks, nics: vec![[0x52, 0x54, 0, 0x12, 0x34, 0x56]], uarts: 1 };
    let config = MachineConfig { ram_bytes: 16 << 20, board, direct_boot: None };
    Machine::new(&config).expect("a machine that can be built")
}

fn replica(id: u128, start: Start) -> Replica {
    Replica::new(Config::new(ReplicaId(id)), start, HostNs(0))
}

impl World {
    /// A primary that is switched on, and a spare.
    pub fn new(plan: Plan) -> Self {
        let solo = replica(1, Start::Solo { vm: VmId(1), epoch: Epoch(0) });
        let mut machine = machine();
        machine.inject(Input::WallClock(1_767_225_600_000_000_000));
        machine.inject(Input::Entropy([7; 32]));
        let primary = Host::new(solo, Some(machine), IMAGE.to_vec());
        let spare = Host::new(replica(2, Start::Spare { vm: None }), None, Vec::new());
        Self {
            plan,
            now: 0,
            hosts: [Some(primary), Some(spare)],
            timers: [None; 2],
            messages: VecDeque::new(),
            events: VecDeque::new(),
            to_client: VecDeque::new(),
            to_guest: VecDeque::new(),
            client: Client::new(plan.increments, 0),
            arbiter: None,
            joined: Vec::new(),
            sums: Sums::default(),
            counting: false,
            copies: BTreeMap::new(),
        }
    }

    /// Runs until the guest serves and the pair is whole.
    pub fn form_pair(&mut self) {
        for side in [PRIMARY, BACKUP] {
            self.handle(side, Event::Timer);
        }
        self.run_until("the guest is ready", |world| {
            let console = world.hosts[PRIMARY].as_ref().map(|host| &host.console[..]);
            console.is_some_and(|text| String::from_utf8_lossy(text).contains("ready ip="))
        });
        for side in [PRIMARY, BACKUP] {
            self.handle(side, Event::Connected(CHANNEL));
        }
        self.run_until("the backup has joined", |world| {
            let backup = world.hosts[BACKUP].as_ref().expect("it lives");
            backup.replica.status().role == ft::replica::StatusRole::Backup
        });
        self.counting = true;
        self.client.connect();
    }

    /// Runs until the client has all its numbers, then compares the primary with a machine that
    /// nothing happened to; waits for all copies.
    pub fn run_to_the_end(&mut self) {
        self.run_until("the client has all numbers", |world| world.client.is_done());
        self.counting = false;
        let primary = self.hosts[PRIMARY].as_ref().expect("it lives");
        self.sums.entries = primary.replica.status().entries.0;
        self.compare(PRIMARY);
        while !self.copies.is_empty() {
            self.collect();
        }
    }

    /// What came of it.
    pub fn sums(&self) -> Sums {
        self.sums
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let (mut got, mut since) = (self.client.got(), self.now);
        while !done(self) {
            self.step();
            if self.client.got() > got {
                (got, since) = (self.client.got(), self.now);
            }
            assert!(self.now - since < PATIENCE, "{what}: not after {PATIENCE} ns");
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        while self.messages.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to, message) = self.messages.pop_front().expect("just seen");
            let ack = to == PRIMARY && matches!(message, Message::Ack(_));
            self.point_if(ack, "before an acknowledgement");
            self.handle(to, Event::Received(CHANNEL, message));
            self.point_if(ack, "after an acknowledgement");
        }
        while self.events.front().is_some_and(|(at, ..)| *at <= self.now) {
            let (_, to, event) = self.events.pop_front().expect("just seen");
            self.handle(to, event);
        }
        for side in [PRIMARY, BACKUP] {
            if self.timers[side].is_some_and(|at| at.0 <= self.now) {
                self.timers[side] = None;
                self.handle(side, Event::Timer);
            }
            match self.hosts[side].as_ref().map(|host| host.live) {
                Some(true) => self.run_live(side),
                Some(false) => self.follow(side),
                None => {}
            }
        }
        self.serve_client();
    }

    fn serve_client(&mut self) {
        while self.to_client.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, frame) = self.to_client.pop_front().expect("just seen");
            self.client.receive(frame);
        }
        self.client.poll(self.now);
        while let Some(frame) = self.client.frame() {
            self.to_guest.push_back((self.now + CABLE_DELAY, frame));
        }
        while self.to_guest.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, frame) = self.to_guest.pop_front().expect("just seen");
            // A switch that does not know better: frames go where the machine is live.
            if let Some(host) = self.hosts.iter_mut().flatten().find(|host| host.live) {
                host.frames.push_back(frame);
            }
        }
    }

    fn host(&mut self, side: usize) -> &mut Host {
        self.hosts[side].as_mut().expect("this side lives")
    }

    fn handle(&mut self, side: usize, event: Event) {
        let now = HostNs(self.now);
        let Some(host) = &mut self.hosts[side] else { return };
        host.replica.handle(now, event);
        while let Some(action) = self.host(side).replica.poll() {
            self.act(side, action);
        }
    }

    fn act(&mut self, side: usize, action: Action) {
        match action {
            Action::Send(_, message) => {
                self.point_if(side == PRIMARY, "before a message");
                self.messages.push_back((self.now + CHANNEL_DELAY, 1 - side, message));
                self.point_if(side == PRIMARY, "after a message");
            }
            Action::SetTimer(at) => self.timers[side] = Some(at),
            Action::AskArbiter(epoch) => {
                let verdict = self.test_and_set(epoch, ReplicaId(side as u128 + 1));
                let event = Event::Verdict { epoch, verdict };
                self.events.push_back((self.now + VERDICT_DELAY, side, event));
            }
            Action::Release(below) => self.release(side, below),
            Action::Forget(below) => {
                let host = self.host(side);
                while host.first_output < below.0 && host.outputs.pop_front().is_some() {
                    host.first_output += 1;
                }
            }
            Action::BeginTransfer(_) => {
                let host = self.host(side);
                let (bytes, at, digest) = (host.save(), host.instant(), host.digest());
                host.inputs.clear();
                self.joined.clone_from(&bytes);
                self.handle(side, Event::Transfer(bytes));
                self.handle(side, Event::CutOver { at, digest });
            }
            Action::Install(bytes) => self.host(side).load(&bytes),
            Action::Adopt(commit) => {
                let host = self.host(side);
                assert_eq!(host.digest(), commit.digest, "what was transferred");
                host.first_output = commit.outputs.0;
                self.handle(side, Event::Adopted);
            }
            Action::GoLive { emit_from, .. } => {
                let now = self.now;
                let host = self.host(side);
                host.go_live(now);
                let made = OutputNo(host.first_output + host.outputs.len() as u64);
                assert!(emit_from.0 >= host.first_output, "it was told to forget them");
                self.release(side, made);
            }
            Action::Halt(halt) => assert_eq!(halt, Halt::Ended, "side {side}"),
            Action::Run(_) | Action::Persist(_) | Action::Tell(_) | Action::Close(_) => {}
            Action::AbortTransfer | Action::Evidence { .. } => panic!("side {side}: {action:?}"),
        }
    }

    fn test_and_set(&mut self, epoch: Epoch, owner: ReplicaId) -> Verdict {
        match self.arbiter {
            Some((latest, holder)) if epoch < latest || (epoch == latest && holder != owner) => {
                Verdict::Lost { epoch: latest, owner: holder }
            }
            _ => {
                self.arbiter = Some((epoch, owner));
                Verdict::Won
            }
        }
    }

    fn release(&mut self, side: usize, below: OutputNo) {
        while self.host(side).first_output < below.0 {
            self.point_if(side == PRIMARY, "before an output");
            let host = self.host(side);
            let output = host.outputs.pop_front().expect("it was made");
            host.first_output += 1;
            match output {
                Output::NetTx { frame, .. } => {
                    self.to_client.push_back((self.now + CABLE_DELAY, frame));
                }
                Output::ConsoleTx { bytes, .. } => host.console.extend_from_slice(&bytes),
                Output::Debug(_) => {}
                Output::Disk { .. } => unreachable!("those are carried out at once"),
            }
            self.point_if(side == PRIMARY, "after an output");
        }
    }

    fn inject(&mut self, side: usize, input: Input) {
        let at = self.host(side).instant();
        let body = Body::Input(postcard::to_allocvec(&input).expect("plain data"));
        self.point_if(side == PRIMARY, "before an entry");
        self.handle(side, Event::Logged { at, body });
        self.point_if(side == PRIMARY, "inside an entry");
        let host = self.host(side);
        host.inputs.push((at, input.clone()));
        host.machine().inject(input);
        self.point_if(side == PRIMARY, "after an entry");
    }

    fn run_live(&mut self, side: usize) {
        let now = i128::from(self.now);
        let target = VirtualNs((now + self.host(side).offset) as u64);
        loop {
            self.deliver(side);
            let next = self.host(side).next_answer().map_or(target, |at| at.min(target));
            let host = self.host(side);
            let (icount, now) = (host.machine().icount(), host.machine().now());
            if now >= target {
                break;
            }
            let until = Icount(icount.0 + next.0.saturating_sub(now.0).max(1));
            let stop = host.machine().run(until);
            let ran = host.machine().icount() > icount;
            host.halted = matches!(stop, Stop::Halted(_)) || (host.halted && !ran);
            self.report(side, false);
            match stop {
                Stop::Reached | Stop::Output => {}
                Stop::Halted(deadline) => {
                    let to = deadline.map_or(next, |at| at.min(next));
                    self.host(side).machine().idle_to(to);
                    self.report(side, false);
                }
                stop => panic!("the guest stopped: {stop:?}"),
            }
        }
        self.report(side, true);
    }

    fn deliver(&mut self, side: usize) {
        while let Some(answer) = self.host(side).answer() {
            self.inject(side, answer);
        }
        while !self.host(side).frames.is_empty() && self.host(side).machine().nic_has_room(0) {
            let frame = self.host(side).frames.pop_front().expect("just seen");
            self.inject(side, Input::NetRx { nic: 0, frame });
        }
    }

    fn report(&mut self, side: usize, idle: bool) {
        let host = self.host(side);
        let count = host.take_outputs();
        let at = host.instant();
        let event = match count {
            0 => Event::Ran { at, idle },
            _ => Event::Output { at, count, executed: false },
        };
        self.handle(side, event);
    }

    fn follow(&mut self, side: usize) {
        while let Some(host) = &mut self.hosts[side]
            && let Some(entry) = host.replica.next_entry()
        {
            let input = match &entry.body {
                Body::Input(bytes) => {
                    Some(postcard::from_bytes(bytes).expect("it was encoded here"))
                }
                _ => None,
            };
            host.follow(entry.at, input);
            let outputs = OutputNo(host.first_output + host.outputs.len() as u64);
            let icount = host.machine().icount().0;
            self.handle(side, Event::Executed { seq: entry.seq + 1, icount, outputs });
        }
    }

    fn point_if(&mut self, condition: bool, kind: &str) {
        if condition && self.counting {
            self.point(kind);
        }
    }

    /// The primary is at a step at which it can crash: copies of this process try it.
    fn point(&mut self, kind: &str) {
        self.sums.steps += 1;
        let step = self.sums.steps;
        if !(step + self.plan.offset).is_multiple_of(self.plan.stride) {
            return;
        }
        let under_way = self.messages.iter().any(|(_, to, _)| *to == BACKUP);
        for lost in [false, true] {
            if lost && !under_way {
                continue;
            }
            while self.copies.len() >= COPIES {
                self.collect();
            }
            self.sums.crashes += 1;
            match fork() {
                Side::Parent(child) => {
                    let sent = if lost { ", what it had sent is lost" } else { "" };
                    self.copies.insert(child, format!("a crash at step {step}, {kind}{sent}"));
                }
                Side::Child => {
                    self.crash(lost);
                    std::process::exit(0);
                }
            }
        }
    }

    fn collect(&mut self) {
        let (child, well) = wait_for_one();
        let what = self.copies.remove(&child).expect("one of ours");
        if !well {
            self.sums.failed += 1;
            eprintln!("{what}: failed");
        }
    }

    /// The primary is gone; `lost`: with it the messages that it had sent.
    fn crash(&mut self, lost: bool) {
        self.counting = false;
        self.hosts[PRIMARY] = None;
        self.messages.retain(|(_, to, _)| *to == BACKUP && !lost);
        self.events.retain(|(_, to, _)| *to == BACKUP);
        let after = self.now + CHANNEL_DELAY + STEP;
        self.events.push_back((after, BACKUP, Event::Disconnected(CHANNEL)));
        self.run_until("the client has all numbers", |world| world.client.is_done());
        self.compare(BACKUP);
    }

    /// Gives a machine at the point of the joining all inputs of `side` since, and compares the
    /// ends.
    fn compare(&mut self, side: usize) {
        let host = self.host(side);
        let (end, digest) = (host.instant(), host.digest());
        let inputs: Vec<(Instant, Input)> = std::mem::take(&mut host.inputs);
        let mut reference = Host::new(replica(3, Start::Spare { vm: None }), None, Vec::new());
        reference.load(&self.joined);
        let machine = reference.machine();
        for (at, input) in inputs {
            advance(machine, at);
            machine.inject(input);
        }
        advance(machine, end);
        machine.run(Icount(end.icount));
        assert_eq!(whole(machine), digest, "the state of a machine that nothing happened to");
    }
}
