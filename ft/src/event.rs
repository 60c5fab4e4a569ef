//! What happens to a replica, and what it wants done.
//!
//! Contract: a driver gives [`Event`]s to [`crate::Replica::handle`] and carries out the
//! [`Action`]s of [`crate::Replica::poll`] in order, each complete before the next. The driver
//! moves bytes and time; it decides nothing.

use crate::log::{Body, Instant};
use crate::message::{Commit, Message};
use crate::types::{Conn, Epoch, HostNs, OutputNo, ReplicaId, VmId};
use alloc::string::String;
use alloc::vec::Vec;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection to another replica of the same build and configuration is up.
    Connected(Conn),
    /// A message arrived.
    Received(Conn, Message),
    /// A connection is gone; all messages that came whole were given before.
    Disconnected(Conn),
    /// Time has passed: at the time of the last [`Action::SetTimer`], or whenever.
    Timer,
    /// The arbiter answered [`Action::AskArbiter`].
    Verdict {
        /// The epoch that was asked for.
        epoch: Epoch,
        /// The answer.
        verdict: Verdict,
    },
    /// Live: the machine takes an input at `at`, or its digest at `at` is this, or it ended. Given
    /// before the next instruction is executed.
    Logged {
        /// When it takes effect.
        at: Instant,
        /// What it is.
        body: Body,
    },
    /// Live: the machine made `count` outputs up to `at`, where it stands now. They wait at the
    /// driver until [`Action::Release`].
    Output {
        /// Where the machine stands.
        at: Instant,
        /// How many.
        count: u64,
        /// They wait until the backup has executed the log up to here, too: one of them overwrites
        /// what it may still have to read.
        executed: bool,
    },
    /// Live: the machine stands at `at`.
    Ran {
        /// Where the machine stands.
        at: Instant,
        /// It is halted and waits for time or an input.
        idle: bool,
    },
    /// Live: the machine has ended in order ([`Body::End`] was logged) or was switched off by the
    /// user.
    Ended,
    /// A piece of the state transfer for the other side.
    Transfer(Vec<u8>),
    /// Live: all of the machine's state at `at` has been given to [`Event::Transfer`], and the
    /// machine stands there.
    CutOver {
        /// Where the machine stands.
        at: Instant,
        /// Hash of its whole state.
        digest: u128,
    },
    /// The state transfer cannot go on.
    TransferFailed(String),
    /// Backup: the machine of [`Action::Adopt`] is there, and its digest is the right one.
    Adopted,
    /// Backup: entries below `seq` are executed.
    Executed {
        /// Number of the next entry.
        seq: u64,
        /// Instructions retired.
        icount: u64,
        /// Outputs of the machine so far, counted on from [`Commit::outputs`].
        outputs: OutputNo,
    },
    /// Backup: the machine differs from the primary's.
    Diverged {
        /// Where it was noticed.
        icount: u64,
        /// What differs.
        what: String,
        /// The machine's state, as the primary's driver wants it.
        evidence: Vec<u8>,
    },
    /// The user wants this backup to take over now.
    Promote,
    /// The user wants this backup to leave, or this primary to go on alone.
    Detach,
}

/// What the arbiter said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The epoch is ours.
    Won,
    /// It is, or a later one is, somebody else's.
    Lost {
        /// The latest epoch that was claimed.
        epoch: Epoch,
        /// By whom.
        owner: ReplicaId,
    },
    /// No answer.
    Unreachable,
}

/// Something that the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Queue a message.
    Send(Conn, Message),
    /// Close a connection, when what was queued is out. No more events of it are wanted.
    Close(Conn),
    /// Give [`Event::Timer`] at this time; replaces the one before.
    SetTimer(HostNs),
    /// Ask the arbiter for test-and-set of `epoch` in the name of this replica; answered by
    /// [`Event::Verdict`], at last by [`Verdict::Unreachable`].
    AskArbiter(Epoch),
    /// Live: outputs below this may leave, in order.
    Release(OutputNo),
    /// Backup: outputs below this have left the primary; those kept for going live can go.
    Forget(OutputNo),
    /// Live: how fast the machine may run from here on.
    Run(Pace),
    /// Live: transfer the state to the other side of this connection.
    BeginTransfer(Conn),
    /// A transfer is over before it was complete; what has come is of no use.
    AbortTransfer,
    /// A piece of the state transfer has come.
    Install(Vec<u8>),
    /// Backup: the transfer is complete; check the digest, then give [`Event::Adopted`] or
    /// [`Event::TransferFailed`].
    Adopt(Commit),
    /// The machine is live from here on, in `epoch`. On a backup, it stands at the end of the log.
    GoLive {
        /// The new epoch.
        epoch: Epoch,
        /// Outputs from here on may not have left the machine's former home: let them leave now.
        emit_from: OutputNo,
        /// Until then the machine's former home may take itself for the live side: what both can
        /// write is not written before.
        rival_until: HostNs,
    },
    /// Make this durable beside the machine's disks.
    Persist(Record),
    /// The primary's half of a divergence: the backup's report, for the bundle.
    Evidence {
        /// Where it was noticed.
        icount: u64,
        /// What differs.
        what: String,
        /// From [`Event::Diverged`].
        evidence: Vec<u8>,
    },
    /// For the user.
    Tell(Notice),
    /// The end; no action follows.
    Halt(Halt),
}

/// How long a replica may take itself for the live side: for what it does outside the rules for
/// outputs, such as a write to storage that the other side can reach that was let go a while ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// There is nobody who could be live after it.
    Open,
    /// Nobody is live after it before this time of its clock.
    Until(HostNs),
    /// It is not live, or somebody may be live after it.
    Ended,
}

/// How fast a live machine may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As it can.
    Full,
    /// For so many thousandths of the time: the backup is behind.
    Share(u16),
    /// Not at all: buffers are full.
    Stop,
}

/// What a replica must remember of its standing if it is to start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The machine.
    pub vm: VmId,
    /// The epoch.
    pub epoch: Epoch,
    /// In which it is this.
    pub role: RecordRole,
}

/// What a replica is in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordRole {
    /// Live.
    Primary,
    /// Its state is complete and follows that of the primary.
    Backup,
    /// It is being filled, and of no use.
    Syncing,
}

/// Something that the user wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A backup has joined.
    Protected,
    /// The backup is lost.
    BackupLost(String),
    /// The primary is lost.
    PrimaryLost(String),
    /// The arbiter does not answer; outputs wait.
    ArbiterSilent,
    /// This replica goes on alone in this epoch.
    Alone(Epoch),
    /// A connection was refused, by us or by the other side.
    Refused(String),
    /// A joining came to nothing.
    JoiningFailed(String),
}

/// Why a replica stops for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// The guest ended.
    Ended,
    /// Another replica has won the arbiter: the machine lives there.
    Superseded {
        /// The latest claimed epoch.
        epoch: Epoch,
        /// By whom.
        owner: ReplicaId,
    },
    /// This backup's machine went another way than the primary's.
    Diverged {
        /// Where.
        icount: u64,
        /// What differs.
        what: String,
    },
    /// The user wanted it.
    Detached,
    /// The log that came is damaged: this backup cannot follow.
    Unusable(String),
}
