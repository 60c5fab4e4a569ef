//! The world: time, what is due, computers, network, arbiter, clients, and the checkers that watch.
//!
//! Contract: one thread; the seed decides everything. [`World::run_until`] moves time; the parts of
//! a world are in `driver` (what a process does), `wire` (connections), `faults` and `clients`.

use crate::arbiter::Arbiter;
use crate::checker::{Checker, Counts};
use crate::clients::Client;
use crate::machine::CLIENTS;
use crate::mistake::{DriverMistake, Mistake};
use crate::network::Network;
use crate::node::{Node, Process, Todo};
use crate::rng::Rng;
use crate::weather::{MS, Weather};
use ft::event::{Event, RecordRole, Verdict};
use ft::replica::Planted;
use ft::types::{Epoch, HostNs, ReplicaId, VmId};
use ft::{Config, Start};
use std::collections::BTreeMap;
use std::fmt;

/// The machine's name.
pub const VM: VmId = VmId(0xF7);
/// Computers.
pub const NODES: usize = 3;
/// Who owns an epoch that was given back.
const NOBODY: ReplicaId = ReplicaId(0);

/// Something that is due.
#[derive(Clone, Debug)]
pub enum Due {
    /// Something may have arrived at an end of a connection.
    Arrival(usize, usize),
    /// A process's timer.
    Timer(usize, u64, u64),
    /// A process's machine may run.
    Step(usize, u64),
    /// A write ends.
    Disk(usize, u64, u64, bool),
    /// A backup's machine is there.
    Adopted(usize, u64),
    /// A piece of a state transfer.
    Transfer(usize, u64, u64),
    /// A claim arrives at the arbiter.
    Claim(usize, ReplicaId, Epoch, u64),
    /// An answer arrives at a process.
    Answer(usize, ReplicaId, Epoch, u64, Verdict),
    /// A process gives a question up.
    GiveUp(usize, ReplicaId, Epoch, u64),
    /// A process goes on after a pause.
    Resume(usize),
    /// A computer's process starts.
    Start(usize),
    /// Two computers may connect.
    Dial(usize, usize),
    /// A fault strikes.
    Fault,
    /// A fault ends.
    Unblock(usize, usize),
    /// A computer reaches the arbiter again.
    ArbiterBack(usize),
    /// A client does something.
    Client(usize),
    /// A frame arrives where the machine lives.
    Frame(Vec<u8>),
    /// An answer arrives at a client.
    Reply(u8, u64, u64),
}

/// A simulated cluster.
#[derive(Debug)]
pub struct World {
    /// True time, in nanoseconds.
    pub now: u64,
    queue: BTreeMap<(u64, u64), Due>,
    order: u64,
    /// Randomness.
    pub rng: Rng,
    /// Computers.
    pub nodes: Vec<Node>,
    /// Between them.
    pub net: Network,
    /// The register.
    pub arbiter: Arbiter,
    /// Whether a computer's questions reach it, and its answers the computer.
    pub arbiter_paths: Vec<[bool; 2]>,
    /// Clients.
    pub clients: Vec<Client>,
    /// Checkers.
    pub checker: Checker,
    /// Faults.
    pub weather: Weather,
    /// Made on purpose.
    pub mistake: Option<Mistake>,
    /// How replicas are configured; `me` is filled in.
    pub config: Config,
    /// Prints what happens.
    pub trace: bool,
    /// Whether computers connect and start on their own.
    pub restarts: bool,
    pub(crate) lives: u64,
    pub(crate) questions: u64,
    pub(crate) transfers: u64,
}

impl World {
    /// A cluster under `weather`, whose first computer has the machine.
    #[must_use]
    pub fn new(seed: u64, weather: Weather, config: Config, mistake: Option<Mistake>) -> Self {
        let mut world = Self {
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            rng: Rng::new(seed),
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            net: Network::new(NODES),
            arbiter: Arbiter::default(),
            arbiter_paths: vec![[true; 2]; NODES],
            clients: (0..CLIENTS - 1).map(|_| Client::default()).collect(),
            checker: Checker::default(),
            weather,
            mistake,
            config,
            trace: false,
            restarts: true,
            lives: 0,
            questions: 0,
            transfers: 0,
        };
        world.arbiter.yes_to_all = world.has(DriverMistake::ArbiterYesToAll);
        for node in 0..NODES {
            world.nodes[node].clock = world.rng.below(1000 * MS);
            world.nodes[node].speed = world.rng.pick(&[3, 8, 30, 400]);
            let first = if node == 0 { 0 } else { world.rng.below(300 * MS) };
            world.after(first, Due::Start(node));
            for other in node + 1..NODES {
                let wait = world.rng.below(100 * MS);
                world.after(wait, Due::Dial(node, other));
            }
        }
        for client in 0..world.clients.len() {
            let wait = world.rng.below(100 * MS);
            world.after(wait, Due::Client(client));
        }
        world
    }

    /// Whether a mistake around the protocol is to be made.
    #[must_use]
    pub fn has(&self, mistake: DriverMistake) -> bool {
        self.mistake == Some(Mistake::Driver(mistake))
    }

    fn planted(&self) -> Option<Planted> {
        match self.mistake {
            Some(Mistake::Protocol(planted)) => Some(planted),
            _ => None,
        }
    }

    /// Something is due `wait` from now.
    pub fn after(&mut self, wait: u64, due: Due) {
        self.at(self.now + wait, due);
    }

    /// Something is due at `at`.
    pub fn at(&mut self, at: u64, due: Due) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), due);
    }

    /// Prints a line if wanted.
    pub fn note(&self, node: usize, what: impl FnOnce() -> String) {
        if self.trace {
            let ms = self.now as f64 / 1e6;
            println!("{ms:11.4}  n{node}.{}  {}", self.nodes[node].incarnation, what());
        }
    }

    /// The time by a computer's own clock.
    #[must_use]
    pub fn host_now(&self, node: usize) -> HostNs {
        HostNs(self.now + self.nodes[node].clock)
    }

    /// Lets time pass until `until`, or to a violation.
    pub fn run_until(&mut self, until: u64) {
        while self.checker.violation().is_none() {
            let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= until)
            else {
                break;
            };
            let ((at, _), due) = first.remove_entry();
            self.now = at;
            self.happen(due);
        }
        if self.checker.violation().is_none() {
            self.now = self.now.max(until);
        }
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Arrival(conn, to) => self.arrival(conn, to),
            Due::Timer(node, incarnation, generation) => {
                let process = self.process(node, incarnation);
                if process.is_some_and(|process| process.timer == generation) {
                    self.enqueue(node, Todo::Tell(Event::Timer));
                }
            }
            Due::Step(node, incarnation) => {
                if self.process(node, incarnation).is_some() {
                    self.enqueue(node, Todo::Step);
                }
            }
            Due::Adopted(node, incarnation) => {
                let (now, process) = (self.now, self.process(node, incarnation));
                if let Some(process) = process {
                    process.following = true;
                    process.last_step = now;
                    self.enqueue(node, Todo::Tell(Event::Adopted));
                    self.step_soon(node, MS);
                }
            }
            Due::Disk(node, incarnation, id, ok) => {
                if self.process(node, incarnation).is_some() {
                    self.enqueue(node, Todo::Disk { id, ok });
                }
            }
            Due::Transfer(node, incarnation, number) => {
                let process = self.process(node, incarnation);
                let current = process.and_then(|process| process.outgoing.as_ref());
                if current.is_some_and(|outgoing| outgoing.number == number) {
                    self.enqueue(node, Todo::Transfer);
                }
            }
            Due::Claim(node, by, epoch, number) => self.claim_arrives(node, by, epoch, number),
            Due::Answer(node, by, epoch, number, verdict) => {
                self.answer_arrives(node, by, epoch, number, verdict);
            }
            Due::GiveUp(node, by, epoch, number) => {
                if let Some(process) = self.named(node, by)
                    && process.question == Some((epoch, number))
                {
                    process.question = None;
                    let event = Event::Verdict { epoch, verdict: Verdict::Unreachable };
                    self.enqueue(node, Todo::Tell(event));
                }
            }
            Due::Resume(node) => self.resume(node),
            Due::Start(node) => self.start(node),
            Due::Dial(one, two) => self.dial(one, two),
            Due::Fault => self.fault(),
            Due::Unblock(from, to) => self.unblock(from, to),
            Due::ArbiterBack(node) => self.arbiter_paths[node] = [true; 2],
            Due::Client(client) => self.client(client),
            Due::Frame(bytes) => self.frame(&bytes),
            Due::Reply(client, request, value) => self.reply(client, request, value),
        }
    }

    fn process(&mut self, node: usize, incarnation: u64) -> Option<&mut Process> {
        let node = &mut self.nodes[node];
        node.process.as_mut().filter(|_| node.incarnation == incarnation)
    }

    fn named(&mut self, node: usize, me: ReplicaId) -> Option<&mut Process> {
        self.nodes[node].process.as_mut().filter(|process| process.me == me)
    }

    fn claim_arrives(&mut self, node: usize, by: ReplicaId, epoch: Epoch, number: u64) {
        let verdict = self.arbiter.claim(epoch, by);
        self.note(node, || format!("the arbiter to {by:?}: {epoch:?} {verdict:?}"));
        if !self.arbiter_paths[node][1] || self.rng.millionths(self.weather.arbiter_loss) {
            return;
        }
        let wait = self.rng.below(self.weather.arbiter_delay);
        self.after(wait, Due::Answer(node, by, epoch, number, verdict));
    }

    /// An answer counts if the question is open, or one like it: the late answer to an old question
    /// may come during a new one.
    fn answer_arrives(
        &mut self,
        node: usize,
        by: ReplicaId,
        epoch: Epoch,
        number: u64,
        verdict: Verdict,
    ) {
        let strict = self.rng.one_in(2);
        let Some(process) = self.named(node, by) else { return };
        let open = process
            .question
            .filter(|(asked, open)| *asked == epoch && (*open == number || !strict));
        if open.is_some() {
            process.question = None;
            self.enqueue(node, Todo::Tell(Event::Verdict { epoch, verdict }));
        }
    }

    /// A process starts, as its record says.
    fn start(&mut self, node: usize) {
        self.start_again(node);
        let here = &self.nodes[node];
        if here.process.is_some() || here.finished {
            return;
        }
        self.give_back(node);
        let here = &mut self.nodes[node];
        here.incarnation += 1;
        here.paused_until = 0;
        let me = ReplicaId((node as u128 + 1) << 64 | u128::from(here.incarnation));
        let start = self.start_check(node);
        let mut config = Config { me, ..self.config.clone() };
        config.planted = self.planted();
        let mut process = Process::new(config, start.clone(), self.host_now(node));
        if let Start::Solo { .. } = start {
            self.nodes[node].claimants.push(me);
            let life = self.lives;
            self.lives += 1;
            let machine = crate::machine::Machine::boot(life, &self.nodes[node].disk);
            process.machine = Some(machine);
        }
        self.note(node, || format!("-- {me:?} starts: {start:?}"));
        self.nodes[node].process = Some(process);
        self.work(node);
    }

    /// Users look at processes that wait in vain.
    pub fn users_look(&mut self) {
        for node in 0..NODES {
            if self.nodes[node].process.is_some() {
                self.start(node);
            }
        }
    }

    /// A process that waits in vain is started again when there is something else to do for it.
    fn start_again(&mut self, node: usize) {
        let here = &self.nodes[node];
        let idle = here.process.as_ref().is_some_and(Process::is_idle_spare);
        let may = || matches!(self.start_check(node), Start::Solo { .. });
        if idle && !here.finished && (self.unused(node).is_some() || may()) {
            self.nodes[node].process = None;
            self.hang_up(node, true);
        }
    }

    /// The epoch after the one that this computer's last process has won as a backup, and was never
    /// live in: its record would say so.
    fn unused(&self, node: usize) -> Option<Epoch> {
        let here = &self.nodes[node];
        let (record, (latest, owner)) = (here.record?, self.arbiter.latest()?);
        let unused = match record.role {
            RecordRole::Backup => record.epoch == latest,
            RecordRole::Primary => {
                self.has(DriverMistake::GivesBackUnlooked) && record.epoch == latest.next()
            }
            RecordRole::Syncing => false,
        };
        (unused && here.recorder == Some(owner)).then(|| latest.next())
    }

    /// An epoch that was won and not used is given back: whoever was live before may go on.
    fn give_back(&mut self, node: usize) {
        if let Some(epoch) = self.unused(node)
            && self.arbiter_paths[node] == [true; 2]
        {
            self.note(node, || format!("{epoch:?} is nobody's"));
            self.arbiter.claim(epoch, NOBODY);
            self.checker.counts.given_back += 1;
            for other in 0..NODES {
                self.after(100 * MS, Due::Start(other));
            }
        }
    }

    /// Who may start as what: a copy that was live is claimed again, every other joins.
    fn start_check(&self, node: usize) -> Start {
        let here = &self.nodes[node];
        let Some(record) = here.record else {
            // The first computer has the machine from the beginning.
            let first = (node == 0).then(|| self.claim_again(node, Epoch(0))).flatten();
            return first.unwrap_or(Start::Spare { vm: None });
        };
        let spare = Start::Spare { vm: Some(record.vm) };
        match record.role {
            RecordRole::Primary => self.claim_again(node, record.epoch).unwrap_or(spare),
            RecordRole::Backup | RecordRole::Syncing => spare,
        }
    }

    /// What a copy that was live in `epoch` may claim, if it may.
    fn claim_again(&self, node: usize, epoch: Epoch) -> Option<Start> {
        let epoch = match self.arbiter.latest() {
            Some((latest, owner)) if latest >= epoch => {
                let own = self.nodes[node].claimants.contains(&owner);
                let ours = own || owner == NOBODY && latest == epoch.next();
                ours.then(|| latest.next())
            }
            _ => Some(epoch),
        };
        epoch.map(|epoch| Start::Solo { vm: VM, epoch })
    }

    /// Whether a computer could bring the machine back: it runs one that is live or will be, or may
    /// start one.
    #[must_use]
    pub fn can_go_on(&self) -> bool {
        (0..NODES).any(|node| {
            let here = &self.nodes[node];
            let runs = here.process.as_ref().is_some_and(|process| process.machine.is_some());
            let free = here.process.as_ref().is_none_or(Process::is_idle_spare) && !here.finished;
            let may = || matches!(self.start_check(node), Start::Solo { .. });
            runs || free && (may() || self.unused(node).is_some() && self.has_older(node))
        })
    }

    /// Whether there is the copy that was live in the epoch that this computer would give back.
    fn has_older(&self, node: usize) -> bool {
        let epoch = self.unused(node).map(|epoch| epoch.0 - 1);
        self.nodes
            .iter()
            .filter_map(|here| here.record)
            .any(|record| record.role == RecordRole::Primary && Some(record.epoch.0) == epoch)
    }

    /// Whether the machine is live somewhere, and protected.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let processes = || self.nodes.iter().filter_map(|node| node.process.as_ref());
        let backup = processes().any(|process| process.following);
        backup && processes().any(|process| process.live.is_some() && process.protected)
    }

    /// Whether the guest was switched off in order, somewhere.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.nodes.iter().any(|node| node.finished)
    }

    /// What happened.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.checker.counts
    }
}

/// Why a seed failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Guest-independent time of the violation, in nanoseconds.
    pub at: u64,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3} ms: {}", self.at as f64 / 1e6, self.what)
    }
}
