//! Whether a copy of a disk may start as primary, or be filled as a backup: the newest copy must
//! not be passed over.
//!
//! A primary that is live in epoch e won the arbiter's test-and-set for e - 1, and whoever wants to
//! be live next must win that for e. A replica keeps the record of [`crate::sidecar`] in this
//! order:
//! - before its first claim: `Primary`, the epoch that it is going to claim, its own incarnation,
//!   so that a process that wins and dies the next instant is recognised;
//! - a primary that wins epoch e: `Primary`, e + 1, before anything leaves it in the new epoch;
//! - a replica that begins to be filled: `Syncing`, before the first block is overwritten; `Backup`
//!   when it is whole;
//! - a backup that wins e: `Primary`, e + 1, before anything leaves it, and not before it has won;
//! - when the guest is switched off: the same with `clean`, after the last block is durable.
//!
//! From this follows what a record and the arbiter's latest claim mean when the process is gone:
//! - `Primary` in epoch e, and nobody has claimed e: nobody was live after this copy. It claims e.
//! - `Primary` in epoch e, and e or a later epoch was won by the incarnation in the record: the
//!   process won once more and died before it wrote that. Nobody was live after this copy; it
//!   claims the next.
//! - `Primary` in epoch e, and somebody else has won e or a later one: that copy was live after
//!   this one.
//! - `Primary` in epoch e, and e + 1 is [`NOBODY`]'s: e was won by its backup, which was never live
//!   in it and has given it back. Nobody was live after this copy. It claims e + 2.
//! - `Backup`, clean: both copies ended alike, and this one may be used as long as nobody has gone
//!   on since.
//! - `Backup`, not clean: what the primary had sent was in the memory of a process that is gone;
//!   the primary's copy has it. This holds even if the backup itself had won the epoch: it died
//!   before it had taken all in, and nothing had left it, since it would have written `Primary`
//!   first. The other copy is the newer one then too. The arbiter says otherwise until this one
//!   starts again: then it claims the next epoch for [`NOBODY`], and the other copy may go on.
//! - `Syncing`: the copy is a mixture.
//! - The arbiter has not heard of the machine, or knows older epochs only, but the record is of a
//!   later one: it is not the arbiter that gave the epoch, or it has lost its memory; who is newer
//!   cannot be told.

use crate::arbiter::{Claimed, hex};
use crate::sidecar::{Record, Role};

/// Owner of an epoch that will never be used.
pub const NOBODY: u128 = 0;

/// What the arbiter knows of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The latest claim.
    Latest(Option<Claimed>),
    /// It has no memory beyond its process: `manual` and `none`. The user answers for what it would
    /// know.
    Nothing,
}

/// What a copy may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It belongs to no machine yet: draw one, and claim epoch 0.
    Fresh,
    /// It goes on, if it wins this epoch.
    Resume {
        /// To be claimed.
        epoch: u64,
    },
    /// It must not start unless the user insists; the text says why, and where the newer copy is.
    Refuse(String),
}

/// Whether the copy with `record` may start as primary when the arbiter knows `known` of its
/// machine.
#[must_use]
pub fn start_check(record: Option<&Record>, known: Known) -> Start {
    let Some(record) = record else { return Start::Fresh };
    let (epoch, other) = (record.epoch, place(&record.peer));
    let latest = match known {
        Known::Latest(latest) => latest,
        Known::Nothing => None,
    };
    let passed = latest.filter(|latest| latest.epoch >= epoch);
    let forgot = match known {
        Known::Nothing => false,
        // A new machine has epoch 0 and no claim.
        Known::Latest(None) => epoch > 0,
        Known::Latest(Some(latest)) => latest.epoch.saturating_add(1) < epoch,
    };
    match (record.role, passed) {
        (Role::Syncing, _) => Start::Refuse(format!(
            "this copy was being filled in epoch {epoch} when that stopped: part of it is old. \
             The whole copy is {other}: start that one, and let this one join as a backup"
        )),
        (Role::Primary, Some(latest)) if latest.owner == record.incarnation => {
            Start::Resume { epoch: latest.epoch.saturating_add(1) }
        }
        (Role::Primary, Some(Claimed { epoch: latest, owner: NOBODY }))
            if epoch.checked_add(1) == Some(latest) =>
        {
            Start::Resume { epoch: latest.saturating_add(1) }
        }
        (Role::Backup, Some(latest)) if [record.incarnation, NOBODY].contains(&latest.owner) => {
            Start::Refuse(format!(
                "this copy was the backup in epoch {epoch} and won the next, but ended before it \
                 went live; what it had not yet written is lost. The newer copy is {other}: \
                 start that one, and let this one join as a backup"
            ))
        }
        (_, Some(latest)) => Start::Refuse(format!(
            "the other copy is newer: it went live in epoch {} ({}), this one was last in epoch \
             {epoch}. It is {other}: start that one, and let this one join as a backup; if it says \
             that it never was live, start this one again",
            latest.epoch.saturating_add(1),
            hex(latest.owner),
        )),
        (Role::Backup, None) if !record.clean => Start::Refuse(format!(
            "this copy was the backup in epoch {epoch}, and lacks what the primary had sent last. \
             The newer copy is {other}: start that one, and let this one join as a backup"
        )),
        _ if forgot => Start::Refuse(format!(
            "this copy was last in epoch {epoch}, but the arbiter knows {}: it is not the \
             arbiter that this machine had, or it has lost its memory (a directory that is not \
             mounted?)",
            match latest {
                None => "nothing of this machine".into(),
                Some(latest) => format!("epoch {} at most", latest.epoch),
            }
        )),
        (Role::Primary | Role::Backup, None) => Start::Resume { epoch },
    }
}

/// The epoch that is to be claimed for [`NOBODY`] when the copy with `record` starts again: its
/// last process has won the one before as a backup, and was never live.
#[must_use]
pub fn unused_epoch(record: Option<&Record>, known: Known) -> Option<u64> {
    let record = record.filter(|record| record.role == Role::Backup && !record.clean)?;
    let Known::Latest(Some(latest)) = known else { return None };
    let unused = latest == Claimed { epoch: record.epoch, owner: record.incarnation };
    latest.epoch.checked_add(1).filter(|_| unused)
}

/// The epoch that a copy claims which the user starts by force.
#[must_use]
pub fn forced_epoch(record: Option<&Record>, known: Known) -> u64 {
    let recorded = record.map_or(0, |record| record.epoch);
    match known {
        Known::Latest(Some(latest)) => recorded.max(latest.epoch.saturating_add(1)),
        Known::Latest(None) | Known::Nothing => recorded,
    }
}

/// Whether the copy with `record` may be overwritten by that of the machine `vm`, which is live in
/// `epoch`.
///
/// # Errors
/// It may be the newer one, or that of another machine; the text says so.
pub fn join_check(record: Option<&Record>, vm: u128, epoch: u64) -> Result<(), String> {
    let Some(record) = record else { return Ok(()) };
    same_machine(record, vm)?;
    let newer = record.epoch > epoch || (record.epoch == epoch && record.role == Role::Primary);
    if newer {
        return Err(format!(
            "this copy was last in epoch {}, the primary is live in epoch {epoch}: this copy may \
             be the newer one, and joining would overwrite it (--force does)",
            record.epoch,
        ));
    }
    Ok(())
}

/// Whether the copy with `record`, or the disk that both sides have, belongs to the machine `vm`.
///
/// # Errors
/// It does not; the text says so.
pub fn same_machine(record: &Record, vm: u128) -> Result<(), String> {
    if record.vm == vm {
        return Ok(());
    }
    Err(format!(
        "this image belongs to another machine ({}) than the primary runs ({}): take another \
         image, or give this one up with --force",
        hex(record.vm),
        hex(vm),
    ))
}

/// Whether the machine on a disk that both sides have may be started here. The disk is never older
/// than what clients have seen, whoever was live on it; the question is who may be live now.
#[must_use]
pub fn shared_start_check(record: Option<&Record>, known: Known) -> Start {
    let Some(record) = record else { return Start::Fresh };
    let newest = Record { role: Role::Primary, ..record.clone() };
    match (start_check(Some(&newest), known), known) {
        (Start::Refuse(_), Known::Latest(Some(latest))) if latest.epoch >= record.epoch => {
            Start::Refuse(format!(
                "the other side went live on this disk in epoch {} ({}) and may still be: it is \
                 {}. Start the machine there; or here, when that side is dead, with --force",
                latest.epoch.saturating_add(1),
                hex(latest.owner),
                place(&record.peer),
            ))
        }
        (start, _) => start,
    }
}

fn place(peer: &str) -> String {
    if peer.is_empty() { "on the other computer".into() } else { format!("at {peer}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::VERSION;

    const OWN: u128 = 10;
    const OTHER: u128 = 11;

    fn record(role: Role, epoch: u64, clean: bool) -> Record {
        Record {
            version: VERSION,
            vm: 1,
            epoch,
            role,
            incarnation: OWN,
            icount: 0,
            guest_ns: 0,
            clean,
            peer: "b.example:4800".into(),
        }
    }

    fn latest(epoch: u64, owner: u128) -> Known {
        Known::Latest(Some(Claimed { epoch, owner }))
    }

    /// What the table says: go on in this epoch, or be refused with this in the text.
    enum Says {
        Resume(u64),
        Refuse(&'static str),
    }
    use Says::{Refuse, Resume};

    #[test]
    fn a_disk_that_both_sides_have_is_never_behind() {
        let check = |role, epoch, known| {
            let record = record(role, epoch, false);
            shared_start_check(Some(&record), known)
        };
        assert_eq!(shared_start_check(None, Known::Latest(None)), Start::Fresh);
        for role in [Role::Primary, Role::Backup, Role::Syncing] {
            assert_eq!(check(role, 4, latest(3, OTHER)), Start::Resume { epoch: 4 });
            assert_eq!(check(role, 4, latest(4, OWN)), Start::Resume { epoch: 5 });
            for newer in [4, 9] {
                let Start::Refuse(why) = check(role, 4, latest(newer, OTHER)) else {
                    panic!("{role:?}: somebody else went live")
                };
                assert!(why.contains("may still be: it is at b.example:4800"), "{why}");
            }
            let Start::Refuse(why) = check(role, 4, latest(1, OTHER)) else { panic!("{role:?}") };
            assert!(why.contains("is not the arbiter") || why.contains("not the"), "{why}");
        }
    }

    #[test]
    fn the_table() {
        const NEVER: Known = Known::Latest(None);
        use Role::{Backup, Primary, Syncing};
        let table = [
            // A new machine, before and after its first claim.
            (Primary, 0, false, NEVER, Resume(0)),
            (Primary, 0, false, latest(0, OWN), Resume(1)),
            (Primary, 0, false, latest(0, OTHER), Refuse("live in epoch 1")),
            // A primary that died, whoever has claimed what before it.
            (Primary, 5, false, latest(4, OWN), Resume(5)),
            (Primary, 5, true, latest(4, OWN), Resume(5)),
            (Primary, 5, false, latest(4, OTHER), Resume(5)),
            // It won once more and died before it wrote that.
            (Primary, 5, false, latest(5, OWN), Resume(6)),
            (Primary, 5, true, latest(6, OWN), Resume(7)),
            // The backup went live.
            (Primary, 5, false, latest(5, OTHER), Refuse("live in epoch 6")),
            (Primary, 5, true, latest(5, OTHER), Refuse("b.example:4800")),
            (Primary, 5, false, latest(9, OTHER), Refuse("live in epoch 10")),
            // Another arbiter, or one that forgot.
            (Primary, 5, false, NEVER, Refuse("nothing of this machine")),
            (Primary, 5, false, latest(3, OWN), Refuse("epoch 3 at most")),
            (Primary, 5, true, latest(3, OTHER), Refuse("epoch 3 at most")),
            (Primary, 5, false, Known::Nothing, Resume(5)),
            // Backups: a clean one is as good as the primary's, until that goes on.
            (Backup, 5, true, latest(4, OTHER), Resume(5)),
            (Backup, 5, true, latest(4, OWN), Resume(5)),
            (Backup, 5, true, latest(5, OTHER), Refuse("live in epoch 6")),
            (Backup, 5, true, NEVER, Refuse("nothing of this machine")),
            (Backup, 5, true, Known::Nothing, Resume(5)),
            (Backup, 5, false, latest(4, OTHER), Refuse("lacks what the primary had sent")),
            (Backup, 5, false, latest(5, OTHER), Refuse("live in epoch 6")),
            (Backup, 5, false, latest(5, OWN), Refuse("ended before it went live")),
            (Backup, 5, false, NEVER, Refuse("b.example:4800")),
            (Backup, 5, false, Known::Nothing, Refuse("b.example:4800")),
            // A mixture never starts.
            (Syncing, 5, false, latest(4, OTHER), Refuse("part of it is old")),
            (Syncing, 5, true, latest(4, OWN), Refuse("part of it is old")),
            (Syncing, 5, false, latest(5, OWN), Refuse("b.example:4800")),
            (Syncing, 0, false, NEVER, Refuse("part of it is old")),
            (Syncing, 5, false, Known::Nothing, Refuse("part of it is old")),
        ];
        for (role, epoch, clean, known, says) in table {
            let record = record(role, epoch, clean);
            let what = format!("{role:?} {epoch} clean {clean}, {known:?}");
            match (start_check(Some(&record), known), says) {
                (Start::Resume { epoch }, Resume(expected)) => {
                    assert_eq!(epoch, expected, "{what}")
                }
                (Start::Refuse(text), Refuse(part)) => {
                    assert!(text.contains(part), "{what}: {text}")
                }
                (start, _) => panic!("{what}: {start:?}"),
            }
            // By force it claims what nobody has claimed.
            let forced = forced_epoch(Some(&record), known);
            if let Known::Latest(Some(latest)) = known {
                assert!(forced > latest.epoch, "{what}");
            }
            assert!(forced >= epoch, "{what}");
        }
        assert_eq!(start_check(None, NEVER), Start::Fresh);
        assert_eq!(start_check(None, Known::Nothing), Start::Fresh);
        assert_eq!(forced_epoch(None, NEVER), 0);
    }

    #[test]
    fn an_epoch_that_was_not_used_is_given_back() {
        use Role::{Backup, Primary, Syncing};
        let unused =
            |role, epoch, clean, known| unused_epoch(Some(&record(role, epoch, clean)), known);
        assert_eq!(unused(Backup, 5, false, latest(5, OWN)), Some(6));
        for (role, epoch, clean, known) in [
            (Backup, 5, false, latest(5, OTHER)),
            (Backup, 5, false, latest(4, OWN)),
            (Backup, 5, false, latest(6, OWN)),
            (Backup, 5, true, latest(5, OWN)),
            (Backup, 5, false, Known::Nothing),
            (Primary, 5, false, latest(5, OWN)),
            (Primary, 6, false, latest(5, OWN)),
            (Syncing, 5, false, latest(5, OWN)),
        ] {
            assert_eq!(unused(role, epoch, clean, known), None, "{role:?} {epoch} {known:?}");
        }
        assert_eq!(unused_epoch(None, latest(5, OWN)), None);
        // Who was live before goes on; nobody else does, and not if more has happened.
        let start = |role, epoch, known| start_check(Some(&record(role, epoch, false)), known);
        assert_eq!(start(Primary, 5, latest(6, NOBODY)), Start::Resume { epoch: 7 });
        for (role, epoch) in [(Primary, 4), (Primary, 6), (Backup, 5), (Backup, 6), (Syncing, 5)] {
            let start = start(role, epoch, latest(6, NOBODY));
            assert!(matches!(start, Start::Refuse(_)), "{role:?} {epoch}: {start:?}");
        }
        assert_eq!(start(Primary, 7, latest(6, NOBODY)), Start::Resume { epoch: 7 });
    }

    #[test]
    fn of_two_copies_one_at_most_may_start() {
        // Every standing in which a pair of epoch 5 can end, by who had claimed what.
        use Role::{Backup, Primary};
        for (known, b_role, b_epoch, clean) in [
            (latest(4, OWN), Backup, 5, false),
            (latest(5, OWN), Backup, 5, false),
            (latest(5, OTHER), Backup, 5, false),
            (latest(5, OTHER), Primary, 6, false),
            (latest(5, OTHER), Primary, 6, true),
        ] {
            let a = record(Primary, 5, clean);
            let b = Record { incarnation: OTHER, ..record(b_role, b_epoch, clean) };
            let may = [a, b].map(|r| matches!(start_check(Some(&r), known), Start::Resume { .. }));
            assert!(may != [true, true], "{known:?} {b_role:?}");
        }
        // Switched off, both may: they are alike, claim the same epoch, and one wins.
        for role in [Primary, Backup] {
            let start = start_check(Some(&record(role, 5, true)), latest(4, OWN));
            assert_eq!(start, Start::Resume { epoch: 5 });
        }
    }

    #[test]
    fn a_newer_copy_is_not_overwritten() {
        use Role::{Backup, Primary, Syncing};
        for (role, epoch, may) in [
            (Primary, 4, true),
            (Primary, 5, false),
            (Primary, 6, false),
            (Backup, 4, true),
            (Backup, 5, true),
            (Backup, 6, false),
            (Syncing, 5, true),
            (Syncing, 6, false),
        ] {
            let done = join_check(Some(&record(role, epoch, false)), 1, 5);
            assert_eq!(done.is_ok(), may, "{role:?} {epoch}");
        }
        assert!(join_check(Some(&record(Backup, 1, true)), 2, 5).is_err(), "another machine");
        assert_eq!(join_check(None, 2, 5), Ok(()));
    }
}
