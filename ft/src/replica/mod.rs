//! One side of a pair: from its start, through backing up and being live, to its end.
//!
//! Contract: [`Replica::handle`] takes what has happened, [`Replica::poll`] gives what is to be
//! done, in order. No clock, no randomness: the same events give the same actions. docs/protocol.md
//! states the rules and argues for them.

mod backup;
mod claim;
mod gate;
mod lag;
mod live;
mod spare;
mod status;

pub use status::{Role as StatusRole, Status};

use crate::event::{Action, Event, Halt, Notice, Tenure, Verdict};
use crate::log::Entry;
use crate::message::{Bye, Hello, Message, Standing};
use crate::types::{Conn, Epoch, HostNs, OutputNo, ReplicaId, VmId};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use backup::Backup;
use claim::Claim;
use live::Live;
use spare::Spare;

/// Connections whose other side has not said who it is.
const STRANGERS: usize = 8;

/// What a replica is told at its start. Times in nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This process.
    pub me: ReplicaId,
    /// Something is sent at least this often.
    pub heartbeat: u64,
    /// A silence of this length is a failure.
    pub timeout: u64,
    /// The same while a backup joins.
    pub joining_timeout: u64,
    /// Longest that an entry waits for being sent, if no output waits for it.
    pub flush: u64,
    /// Between two questions to an arbiter that does not answer.
    pub arbiter_retry: u64,
    /// Bytes of entries that may wait for being acknowledged, and for being executed.
    pub buffer_bytes: u64,
    /// The backup's execution is held at most this far behind.
    pub lag_max: u64,
    /// A mistake for the simulator to find.
    #[cfg(feature = "planted")]
    pub planted: Option<Planted>,
}

impl Config {
    /// The usual times, for the process `me`.
    #[must_use]
    pub fn new(me: ReplicaId) -> Self {
        Self {
            me,
            heartbeat: 50 * HostNs::MS,
            timeout: 350 * HostNs::MS,
            joining_timeout: 5000 * HostNs::MS,
            flush: 10 * HostNs::MS,
            arbiter_retry: 100 * HostNs::MS,
            buffer_bytes: 64 << 20,
            lag_max: 100 * HostNs::MS,
            #[cfg(feature = "planted")]
            planted: None,
        }
    }

    #[cfg(feature = "planted")]
    fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    #[cfg(not(feature = "planted"))]
    const fn has(&self, _: Planted) -> bool {
        false
    }
}

/// Mistakes that the simulator must find when they are made on purpose: the proof that it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Outputs leave without waiting for the backup.
    ReleaseEarly,
    /// An output leaves when all entries but the last one before it are acknowledged.
    FrontierOffByOne,
    /// The backup acknowledges entries before it has them.
    AckBeforeBuffering,
    /// The backup goes live without asking the arbiter.
    BackupSkipsArbiter,
    /// The primary goes on alone without asking the arbiter.
    PrimarySkipsArbiter,
    /// The backup goes live before it has executed all of its log.
    GoLiveEarly,
    /// What the backup is told to be released is what was made.
    ReleasedMarkAhead,
    /// Going live, outputs that may be lost are not emitted again.
    NothingEmittedAgain,
    /// An epoch is not raised when it is won.
    EpochStays,
    /// A backup takes over although the guest has ended.
    LiveAfterEnd,
    /// A backup acknowledges entries before it has the machine that they belong to.
    AckBeforeAdopting,
    /// An output that is made while a backup joins leaves at once, whatever point the transfer is
    /// at.
    JoiningHoldsNothing,
    /// A primary that is stopped because its backup is behind does not say how far its machine has
    /// run.
    StopsInSilence,
    /// An output that the backup must have executed the log for leaves when it has the log.
    OverwritesUnread,
    /// A primary counts the time in which it is the live one from the backup's answer instead of
    /// the question.
    TenureFromReceipt,
    /// Who goes live does not mind what the former live side may still do.
    RivalForgotten,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::ReleaseEarly,
        Self::FrontierOffByOne,
        Self::AckBeforeBuffering,
        Self::BackupSkipsArbiter,
        Self::PrimarySkipsArbiter,
        Self::GoLiveEarly,
        Self::ReleasedMarkAhead,
        Self::NothingEmittedAgain,
        Self::EpochStays,
        Self::LiveAfterEnd,
        Self::AckBeforeAdopting,
        Self::JoiningHoldsNothing,
        Self::StopsInSilence,
        Self::OverwritesUnread,
        Self::TenureFromReceipt,
        Self::RivalForgotten,
    ];
}

/// How a replica begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With a machine of its own that stands still: it wants to go live in the epoch after `epoch`.
    Solo {
        /// The machine.
        vm: VmId,
        /// The epoch that its record names; 0 for a new machine.
        epoch: Epoch,
    },
    /// Without a machine: it waits for one to back up.
    Spare {
        /// The machine that it takes; `None`: any.
        vm: Option<VmId>,
    },
}

/// A connection whose role is not settled.
#[derive(Clone, Debug)]
struct Stranger {
    conn: Conn,
    /// Since when.
    since: HostNs,
    /// What it has said.
    hello: Option<Hello>,
}

/// What every part needs.
#[derive(Debug)]
struct Context {
    config: Config,
    now: HostNs,
    /// When this process was last seen to go on after it had stood still.
    woken: HostNs,
    vm: Option<VmId>,
    epoch: Epoch,
    actions: VecDeque<Action>,
}

impl Context {
    fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn send(&mut self, conn: Conn, message: Message) {
        self.act(Action::Send(conn, message));
    }

    fn tell(&mut self, notice: Notice) {
        self.act(Action::Tell(notice));
    }

    fn has(&self, planted: Planted) -> bool {
        self.config.has(planted)
    }

    fn hello(&self, standing: Standing) -> Message {
        let hello = Hello { replica: self.config.me, vm: self.vm, epoch: self.epoch, standing };
        Message::Hello(hello)
    }

    /// Says no on a connection, and closes it.
    fn refuse(&mut self, conn: Conn, why: &str) {
        self.send(conn, Message::Refuse(why.into()));
        self.act(Action::Close(conn));
    }

    /// The arbiter has given us the epoch: the next one begins.
    fn win(&mut self) {
        if !self.has(Planted::EpochStays) {
            self.epoch = self.epoch.next();
        }
    }
}

/// What a part says when it is through.
#[derive(Debug)]
enum Turn {
    /// Nothing changes.
    Stay,
    /// It becomes something else.
    Become(Box<Role>),
    /// The end.
    Halt(Halt),
}

#[derive(Debug)]
enum Role {
    /// A machine that waits for the arbiter's leave to run.
    Starting(Claim),
    Live(Live),
    Spare(Spare),
    Backup(Backup),
    Stopped,
}

/// One side of a pair.
#[derive(Debug)]
pub struct Replica {
    context: Context,
    role: Role,
    strangers: Vec<Stranger>,
    timer: Option<HostNs>,
}

impl Replica {
    /// A replica that begins now.
    #[must_use]
    pub fn new(config: Config, start: Start, now: HostNs) -> Self {
        let actions = VecDeque::new();
        let (vm, epoch) = match start {
            Start::Solo { vm, epoch } => (Some(vm), epoch),
            Start::Spare { vm } => (vm, Epoch(0)),
        };
        let mut context = Context { config, now, woken: HostNs(0), vm, epoch, actions };
        let role = match start {
            Start::Solo { epoch: Epoch(0), .. } => Role::Starting(Claim::ask(&mut context)),
            // This machine was live before and boots again, with what is on its disk. A backup that
            // has all of it comes first: it is given the time to notice.
            Start::Solo { .. } => {
                let wait = context.config.timeout.saturating_mul(2);
                Role::Starting(Claim::ask_after(&context, wait))
            }
            Start::Spare { .. } => Role::Spare(Spare::default()),
        };
        let mut replica = Self { context, role, strangers: Vec::new(), timer: None };
        replica.set_timer();
        replica
    }

    /// Takes what has happened at `now`.
    pub fn handle(&mut self, now: HostNs, event: Event) {
        if now.since(self.context.now) > self.context.config.timeout / 2 {
            self.context.woken = now;
        }
        self.context.now = self.context.now.max(now);
        if matches!(self.role, Role::Stopped) {
            return;
        }
        match event {
            Event::Connected(conn) => self.connected(conn),
            Event::Received(conn, message) if self.is_stranger(conn) => {
                self.stranger_says(conn, message);
            }
            Event::Disconnected(conn) if self.is_stranger(conn) => {
                self.strangers.retain(|stranger| stranger.conn != conn);
            }
            event => {
                let timer = event == Event::Timer;
                self.hand_on(event);
                if timer {
                    self.forget_silent_strangers();
                }
            }
        }
        self.set_timer();
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.context.actions.pop_front()
    }

    /// Backup: the next entry to execute. The machine runs to its instant, then takes it;
    /// [`Event::Executed`] reports it, alone or with others.
    pub fn next_entry(&mut self) -> Option<Entry> {
        match &mut self.role {
            Role::Backup(backup) => backup.next_entry(),
            _ => None,
        }
    }

    /// How long this replica may take itself for the live side.
    #[must_use]
    pub fn tenure(&self) -> Tenure {
        match &self.role {
            Role::Live(live) => live.tenure(&self.context),
            _ => Tenure::Ended,
        }
    }

    /// With a backup: number of the log's next entry, and how many the backup is known to have
    /// executed.
    #[must_use]
    pub fn executed(&self) -> Option<(u64, u64)> {
        match &self.role {
            Role::Live(live) => live.executed(),
            _ => None,
        }
    }

    /// The epoch that this replica is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.context.epoch
    }

    fn hand_on(&mut self, event: Event) {
        let context = &mut self.context;
        let turn = match &mut self.role {
            Role::Starting(claim) => match event {
                Event::Ended => Turn::Halt(Halt::Ended),
                Event::Verdict { epoch, verdict } if claim.answers(epoch) => {
                    start_verdict(claim, context, verdict)
                }
                Event::Timer => {
                    claim.tick(context);
                    Turn::Stay
                }
                _ => Turn::Stay,
            },
            Role::Live(live) => live.handle(context, event),
            Role::Spare(spare) => spare.handle(context, event),
            Role::Backup(backup) => backup.handle(context, event),
            Role::Stopped => Turn::Stay,
        };
        self.take(turn);
    }

    fn take(&mut self, turn: Turn) {
        match turn {
            Turn::Stay => {}
            Turn::Become(role) => self.become_(*role),
            Turn::Halt(halt) => {
                for stranger in self.strangers.drain(..) {
                    self.context.actions.push_back(Action::Close(stranger.conn));
                }
                self.context.act(Action::Halt(halt));
                self.role = Role::Stopped;
            }
        }
    }

    fn become_(&mut self, role: Role) {
        let was_starting = matches!(self.role, Role::Starting(_));
        self.role = role;
        for stranger in core::mem::take(&mut self.strangers) {
            if was_starting {
                let hello = self.context.hello(self.standing());
                self.context.send(stranger.conn, hello);
            }
            self.strangers.push(stranger.clone());
            if let Some(hello) = stranger.hello {
                self.introduced(stranger.conn, &hello);
            }
        }
    }

    fn standing(&self) -> Standing {
        match &self.role {
            Role::Live(live) if live.is_ending() => Standing::Leaving,
            Role::Live(_) => Standing::Live,
            Role::Spare(_) => Standing::Spare,
            Role::Backup(_) => Standing::Backup,
            Role::Starting(_) | Role::Stopped => Standing::Leaving,
        }
    }

    fn connected(&mut self, conn: Conn) {
        if self.strangers.len() == STRANGERS {
            let oldest = self.strangers.remove(0);
            self.context.act(Action::Close(oldest.conn));
        }
        self.strangers.push(Stranger { conn, since: self.context.now, hello: None });
        if !matches!(self.role, Role::Starting(_)) {
            let hello = self.context.hello(self.standing());
            self.context.send(conn, hello);
        }
    }

    fn is_stranger(&self, conn: Conn) -> bool {
        self.strangers.iter().any(|stranger| stranger.conn == conn)
    }

    fn stranger_says(&mut self, conn: Conn, message: Message) {
        match message {
            Message::Hello(hello) => {
                if self.is_superseded_by(&hello) {
                    self.superseded(&hello);
                } else if matches!(self.role, Role::Starting(_)) {
                    for stranger in self.strangers.iter_mut().filter(|s| s.conn == conn) {
                        stranger.hello = Some(hello.clone());
                    }
                } else {
                    self.introduced(conn, &hello);
                }
            }
            Message::Refuse(why) => self.drop_stranger(conn, Some(why)),
            // Nothing else comes before a greeting.
            _ => self.drop_stranger(conn, None),
        }
    }

    /// Whether who says `hello` is live with our machine after us. Of two that are live in the same
    /// epoch, which only the user can have brought about, one has to give way: the smaller name.
    fn is_superseded_by(&self, hello: &Hello) -> bool {
        let Context { config, vm, epoch, .. } = &self.context;
        let same = vm.is_some() && hello.vm == *vm && hello.replica != config.me;
        let after = match &self.role {
            Role::Live(_) => (hello.epoch, hello.replica) > (*epoch, config.me),
            Role::Starting(_) | Role::Backup(_) => hello.epoch > *epoch,
            Role::Spare(_) | Role::Stopped => false,
        };
        same && hello.standing == Standing::Live && after
    }

    fn superseded(&mut self, hello: &Hello) {
        let epoch = Epoch(hello.epoch.0.saturating_sub(1));
        self.take(Turn::Halt(Halt::Superseded { epoch, owner: hello.replica }));
    }

    fn drop_stranger(&mut self, conn: Conn, why: Option<String>) {
        self.strangers.retain(|stranger| stranger.conn != conn);
        self.context.act(Action::Close(conn));
        if let Some(why) = why {
            self.context.tell(Notice::Refused(why));
        }
    }

    /// The other side of `conn` has said who it is.
    fn introduced(&mut self, conn: Conn, hello: &Hello) {
        self.strangers.retain(|stranger| stranger.conn != conn);
        let context = &mut self.context;
        if hello.replica == context.config.me {
            context.act(Action::Close(conn));
            return;
        }
        if let (Some(ours), Some(theirs)) = (context.vm, hello.vm)
            && ours != theirs
        {
            context.refuse(conn, "this side has another virtual machine");
            context.tell(Notice::Refused("the other side has another virtual machine".into()));
            return;
        }
        match &mut self.role {
            Role::Live(live) => live.introduced(context, conn, hello),
            Role::Spare(spare) => spare.introduced(context, conn, hello),
            Role::Backup(_) => context.refuse(conn, "this side is a backup itself"),
            Role::Starting(_) | Role::Stopped => context.act(Action::Close(conn)),
        }
    }

    fn forget_silent_strangers(&mut self) {
        let oldest = self.context.now.0.saturating_sub(self.context.config.joining_timeout);
        let waiting = !matches!(self.role, Role::Starting(_));
        let actions = &mut self.context.actions;
        self.strangers.retain(|stranger| {
            let stays = !waiting || stranger.since.0 > oldest;
            if !stays {
                actions.push_back(Action::Close(stranger.conn));
            }
            stays
        });
    }

    fn set_timer(&mut self) {
        let context = &self.context;
        let own = match &self.role {
            Role::Starting(claim) => claim.deadline(),
            Role::Live(live) => live.deadline(context),
            Role::Spare(spare) => spare.deadline(context),
            Role::Backup(backup) => backup.deadline(context),
            Role::Stopped => None,
        };
        let silent = self
            .strangers
            .first()
            .filter(|_| !matches!(self.role, Role::Starting(_)))
            .map(|stranger| stranger.since.after(context.config.joining_timeout));
        let next = [own, silent].into_iter().flatten().min();
        if next != self.timer {
            self.timer = next;
            if let Some(at) = next {
                self.context.act(Action::SetTimer(at));
            }
        }
    }
}

fn start_verdict(claim: &mut Claim, context: &mut Context, verdict: Verdict) -> Turn {
    match verdict {
        Verdict::Won => {
            context.win();
            let live = Live::begin(context, 0, OutputNo(0), OutputNo(0), HostNs(0));
            Turn::Become(Box::new(Role::Live(live)))
        }
        Verdict::Lost { epoch, owner } => Turn::Halt(Halt::Superseded { epoch, owner }),
        Verdict::Unreachable => {
            claim.unanswered(context);
            Turn::Stay
        }
    }
}

/// Says farewell on a connection, and closes it.
fn leave(context: &mut Context, conn: Conn, bye: Bye) {
    context.send(conn, Message::Bye(bye));
    context.act(Action::Close(conn));
}
