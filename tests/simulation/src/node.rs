//! A computer: what survives a crash, and the process that does not.
//!
//! Contract: the disk and the record are durable; a process is gone with all it held. A process
//! does one thing after the other (its agenda), so that it can be stopped between any two.

use crate::machine::{Block, CLIENTS, Machine, Output, WORDS};
use ft::event::{Action, Event, Pace, Record};
use ft::log::Entry;
use ft::replica::StatusRole;
use ft::types::{Conn, Epoch, ReplicaId};
use ft::{Config, Replica, Start};
use std::collections::{BTreeMap, VecDeque};

/// A computer.
#[derive(Debug, Default)]
pub struct Node {
    /// Its own copy of the disk.
    pub disk: [Block; CLIENTS],
    /// The record beside the disk.
    pub record: Option<Record>,
    /// Who wrote the record.
    pub recorder: Option<ReplicaId>,
    /// Processes of this computer that have asked for an epoch with that record.
    pub claimants: Vec<ReplicaId>,
    /// The process.
    pub process: Option<Process>,
    /// How many there have been.
    pub incarnation: u64,
    /// The process stands still until then.
    pub paused_until: u64,
    /// Added to true time: each computer has its own clock.
    pub clock: u64,
    /// Instructions per millisecond that a backup executes.
    pub speed: u64,
    /// Until then it executes a twentieth of that.
    pub slow_until: u64,
    /// It does not start again: the guest has ended here.
    pub finished: bool,
}

impl Node {
    /// Whether its memory is known to be broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.broken)
    }
}

/// What a process is about to do.
#[derive(Debug)]
pub enum Todo {
    /// Tell the replica.
    Tell(Event),
    /// Run the machine a little.
    Step,
    /// Give the machine an input that is logged.
    Inject(Vec<u8>),
    /// A write has come to its end.
    Disk {
        /// Which.
        id: u64,
        /// Whether it worked.
        ok: bool,
    },
    /// Send the next piece of the state.
    Transfer,
    /// The state cannot be read any more.
    BreakTransfer,
}

/// A state transfer on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub conn: Conn,
    /// Pages of this round that are not sent.
    pub pages: VecDeque<u8>,
    /// Rounds so far.
    pub rounds: u32,
    /// Its place in the numbering of all transfers.
    pub number: u64,
}

/// A state transfer on its way in.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    /// Pages that came.
    pub pages: BTreeMap<u8, [u64; WORDS]>,
    /// The rest of the machine.
    pub registers: Vec<u8>,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// Its name.
    pub me: ReplicaId,
    /// The protocol.
    pub replica: Replica,
    /// What is to be done, in order.
    pub agenda: VecDeque<Todo>,
    /// An action that was taken from the replica, and not yet carried out.
    pub action: Option<Action>,
    /// The machine.
    pub machine: Option<Machine>,
    /// The epoch in which the machine is live.
    pub live: Option<Epoch>,
    /// The machine follows a log.
    pub following: bool,
    /// The epoch whose log it follows.
    pub followed: Epoch,
    /// How fast it may run.
    pub pace: Pace,
    /// Inputs that wait.
    pub inputs: VecDeque<Vec<u8>>,
    /// Outputs that were made and have not left, with the time when they were made.
    pub held: VecDeque<(u64, Output)>,
    /// Backup: outputs below this need not be kept.
    pub forget: u64,
    /// The entry that is being executed.
    pub entry: Option<Entry>,
    /// Number after the last executed entry.
    pub executed: u64,
    /// Count of the next digest.
    pub digest_at: u64,
    /// The end was logged.
    pub end_told: bool,
    /// A protected pair, as the replica has said.
    pub protected: bool,
    /// A backup is about to join, and has no machine yet: outputs made before that.
    pub cut: Option<u64>,
    /// Outgoing state.
    pub outgoing: Option<Outgoing>,
    /// Incoming state.
    pub incoming: Incoming,
    /// The timer's generation: older ones are void.
    pub timer: u64,
    /// A step is on its way.
    pub stepping: bool,
    /// When the machine was last run.
    pub last_step: u64,
    /// Its computer's memory is known to be broken: its machine will differ.
    pub broken: bool,
    /// Connections that the replica has closed.
    pub closed: Vec<Conn>,
    /// The epoch of the question that the arbiter has not answered, and its number.
    pub question: Option<(Epoch, u64)>,
}

impl Process {
    /// A process that begins at `now` by its own clock.
    #[must_use]
    pub fn new(config: Config, start: Start, now: ft::types::HostNs) -> Self {
        Self {
            me: config.me,
            replica: Replica::new(config, start, now),
            agenda: VecDeque::new(),
            action: None,
            machine: None,
            live: None,
            following: false,
            followed: Epoch(0),
            pace: Pace::Full,
            inputs: VecDeque::new(),
            held: VecDeque::new(),
            forget: 0,
            entry: None,
            executed: 0,
            digest_at: 500,
            end_told: false,
            protected: false,
            cut: None,
            outgoing: None,
            incoming: Incoming::default(),
            timer: 0,
            stepping: false,
            last_step: 0,
            broken: false,
            closed: Vec::new(),
            question: None,
        }
    }

    /// Whether it waits for a machine that nobody sends it.
    #[must_use]
    pub fn is_idle_spare(&self) -> bool {
        self.replica.status().role == StatusRole::Spare
    }

    /// Puts things to do before all others, in the given order.
    pub fn first(&mut self, todos: impl IntoIterator<Item = Todo, IntoIter: DoubleEndedIterator>) {
        for todo in todos.into_iter().rev() {
            self.agenda.push_front(todo);
        }
    }
}
