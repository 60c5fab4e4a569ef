//! What a replica can say of itself.
//!
//! Contract: a snapshot of numbers for people and tests; nothing is decided by it.

use super::{Replica, Role as Part};
use crate::types::{Epoch, OutputNo, VmId};

/// What a replica does, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It waits for the arbiter's leave to start.
    Starting,
    /// It waits for a machine.
    Spare,
    /// A machine is being transferred to it.
    Joining,
    /// It follows the primary.
    Backup,
    /// It has lost the primary and is taking over.
    TakingOver,
    /// Its machine is live, without a backup.
    Solo,
    /// Its machine is live, and a backup is joining.
    SoloJoining,
    /// Its machine is live, with a backup.
    Primary,
    /// Its machine has lost its backup; outputs wait for the arbiter.
    Claiming,
    /// It has stopped.
    Stopped,
}

/// Numbers of a replica. Times in nanoseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it does.
    pub role: Role,
    /// The machine.
    pub vm: Option<VmId>,
    /// The epoch.
    pub epoch: Epoch,
    /// Live: outputs made and released.
    pub outputs: (OutputNo, OutputNo),
    /// Entries of the log: made and acknowledged (primary), or received and executed (backup).
    pub entries: (u64, u64),
    /// Primary: how far the backup's execution is behind.
    pub lag_ns: u64,
    /// Primary: from sending entries to their acknowledgement.
    pub ack_ns: u64,
    /// Primary: bytes of the log sent to this backup.
    pub log_bytes: u64,
    /// Primary: host time since the first of them.
    pub log_ns: u64,
    /// Primary: bytes of them that are not acknowledged.
    pub unacknowledged: u64,
}

impl Replica {
    /// What this replica does.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status {
            role: Role::Stopped,
            vm: self.context.vm,
            epoch: self.context.epoch,
            outputs: (OutputNo(0), OutputNo(0)),
            entries: (0, 0),
            lag_ns: 0,
            ack_ns: 0,
            log_bytes: 0,
            log_ns: 0,
            unacknowledged: 0,
        };
        match &self.role {
            Part::Starting(_) => status.role = Role::Starting,
            Part::Spare(spare) => {
                status.role = if spare.is_joining() { Role::Joining } else { Role::Spare };
            }
            Part::Backup(backup) => {
                status.entries = backup.entries();
                status.role = match (backup.is_taking_over(), backup.is_adopted()) {
                    (true, _) => Role::TakingOver,
                    (false, true) => Role::Backup,
                    (false, false) => Role::Joining,
                };
            }
            Part::Live(live) => {
                let gate = live.gate();
                status.outputs = (gate.made(), gate.released());
                status.role = match (live.is_claiming(), live.is_joining(), live.link()) {
                    (true, ..) => Role::Claiming,
                    (_, true, _) => Role::SoloJoining,
                    (_, _, Some(link)) if link.joined() => Role::Primary,
                    _ => Role::Solo,
                };
                if let Some(link) = live.link() {
                    let (bytes, since) = link.log_bytes();
                    status.entries = link.entries();
                    status.lag_ns = link.lag().lag();
                    status.ack_ns = link.lag().round_trip();
                    status.log_bytes = bytes;
                    status.log_ns = self.context.now.since(since);
                    status.unacknowledged = link.lag().unacknowledged();
                }
            }
            Part::Stopped => {}
        }
        status
    }
}
