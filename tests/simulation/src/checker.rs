//! The checkers: they stand outside the replicas, see everything, and know what must never happen.
//!
//! Contract: a checker remembers the first violation; it changes nothing.

use crate::machine::{CLIENTS, Output};
use ft::log::Entry;
use ft::types::{Epoch, ReplicaId};
use std::collections::{BTreeMap, BTreeSet};

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Replicas that went live, in a new epoch.
    pub live: u64,
    /// Of these, backups that took over.
    pub takeovers: u64,
    /// Joinings that came to their end.
    pub joined: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Machines that were switched on and went live.
    pub boots: u64,
    /// Outputs that left for the first time.
    pub outputs: u64,
    /// Outputs that left again.
    pub repeated: u64,
    /// Requests of clients that were answered.
    pub answered: u64,
    /// Runs in which nobody was left who could go on.
    pub stuck: u64,
    /// Runs in which the guest was switched off.
    pub ended: u64,
    /// Entries executed by backups.
    pub entries: u64,
    /// Epochs that were given back.
    pub given_back: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.live += other.live;
        self.takeovers += other.takeovers;
        self.joined += other.joined;
        self.crashes += other.crashes;
        self.boots += other.boots;
        self.outputs += other.outputs;
        self.repeated += other.repeated;
        self.answered += other.answered;
        self.stuck += other.stuck;
        self.ended += other.ended;
        self.entries += other.entries;
        self.given_back += other.given_back;
    }
}

/// Who emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitter {
    /// The process.
    pub replica: ReplicaId,
    /// The epoch in which it is live.
    pub epoch: Epoch,
    /// The boot that its machine comes from.
    pub life: u64,
}

/// A replica that went live.
#[derive(Clone, Copy, Debug)]
struct Reign {
    replica: ReplicaId,
    since: u64,
    /// From then on, nobody before it takes itself for the live one.
    alone_from: u64,
    life: u64,
    /// Outputs that its machine had made before.
    made: u64,
}

/// All outputs of one boot of the machine that ever left.
#[derive(Clone, Debug, Default)]
struct History {
    outputs: Vec<Output>,
}

/// A client's side of the history.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// Values, by request.
    answered: BTreeMap<u64, u64>,
    /// The request under way, and the highest value that anybody knew when it began.
    open: Option<(u64, u64)>,
}

/// The checkers.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    violation: Option<String>,
    histories: BTreeMap<u64, History>,
    live: BTreeMap<Epoch, Reign>,
    /// Entries by boot, epoch and number, as first seen on the wire or executed.
    log: BTreeMap<(u64, Epoch, u64), Entry>,
    told_end: BTreeSet<u128>,
    ledgers: [Ledger; CLIENTS],
    values: BTreeSet<u64>,
    /// Who let the last new output leave.
    last: Option<ReplicaId>,
    /// What happened.
    pub counts: Counts,
}

impl Checker {
    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Something happened that must not.
    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn holds(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// A replica goes live at `now`, with a machine that has `made` so many outputs; `alone_from`
    /// then, nobody before it takes itself for the live one.
    pub fn goes_live(
        &mut self,
        who: &Emitter,
        made: u64,
        [now, alone_from]: [u64; 2],
        owner: Option<(Epoch, ReplicaId)>,
    ) {
        self.counts.live += 1;
        let told = self.told_end.contains(&who.replica.0);
        self.holds(!told, || format!("{who:?} goes live after it was told that the guest ended"));
        let last = self.live.last_key_value().map(|(epoch, _)| *epoch);
        self.holds(last.is_none_or(|last| last < who.epoch), || {
            format!("{who:?} goes live, but {last:?} has been live already")
        });
        self.holds(owner.is_some_and(|(e, by)| e.next() == who.epoch && by == who.replica), || {
            format!("{who:?} goes live, but the arbiter says {owner:?}")
        });
        let Emitter { replica, epoch, life } = *who;
        self.live.insert(epoch, Reign { replica, since: now, alone_from, life, made });
    }

    /// A replica of `epoch` takes itself for the live one until then.
    pub fn reigns_until(&mut self, epoch: Epoch, until: u64) {
        if let Some((next, reign)) = self.live.range(epoch.next()..).next()
            && until > reign.alone_from
        {
            let what = format!(
                "who is live in {epoch:?} counts on it until {until}, but {next:?} is another's \
                 alone from {}",
                reign.alone_from
            );
            self.violated(what);
        }
    }

    /// A replica lets an output leave, which its machine made at `made_at`.
    pub fn emits(&mut self, who: &Emitter, output: &Output, made_at: u64) {
        if let Some(problem) = self.superseded(who, output, made_at) {
            return self.violated(problem);
        }
        let history = self.histories.entry(who.life).or_default();
        let next = history.outputs.len() as u64;
        let known = history.outputs.get(output.number as usize);
        let problem = match known {
            Some(known) if known == output => {
                self.counts.repeated += 1;
                return;
            }
            Some(known) => Some(format!("{who:?} forks history: {output:?} was {known:?}")),
            None if output.number > next => {
                Some(format!("{who:?} leaves a gap: {output:?} before output {next}"))
            }
            None => None,
        };
        if let Some(problem) = problem {
            return self.violated(problem);
        }
        let before = history.outputs.last().map_or(0, |last| last.ns);
        history.outputs.push(*output);
        self.counts.outputs += 1;
        self.last = Some(who.replica);
        self.holds(output.ns >= before, || format!("guest time goes back: {before}, {output:?}"));
    }

    /// Why a replica that is not the latest must not emit: it may be late, with what the next has
    /// inherited.
    fn superseded(&self, who: &Emitter, output: &Output, made_at: u64) -> Option<String> {
        let (epoch, next) = self.live.range(who.epoch.next()..).next()?;
        let reign = format!("{who:?}, {output:?}; {:?} is live in {epoch:?}", next.replica);
        if next.since < made_at {
            return Some(format!("two live machines: {reign}"));
        }
        let inherited = next.life != who.life || output.number < next.made;
        (!inherited).then(|| format!("two emitters: {reign} from output {}", next.made))
    }

    /// Who let the last new output leave, since the last call.
    pub fn take_last_emitter(&mut self) -> Option<ReplicaId> {
        self.last.take()
    }

    /// Whether all outputs of a boot below `number` have left.
    #[must_use]
    pub fn has_left(&self, life: u64, number: u64) -> bool {
        let left = self.histories.get(&life).map_or(0, |history| history.outputs.len());
        left as u64 >= number
    }

    /// A replica is told by the other that the guest has ended.
    pub fn told_that_it_ended(&mut self, replica: ReplicaId) {
        self.told_end.insert(replica.0);
    }

    /// An entry is sent in the log of a boot, or executed from it.
    pub fn entry(&mut self, life: u64, epoch: Epoch, entry: &Entry) {
        let known = self.log.entry((life, epoch, entry.seq)).or_insert_with(|| entry.clone());
        if known != entry {
            let what = format!("two entries in one place: {entry:?}, {known:?}");
            self.violated(what);
        }
    }

    /// A client begins a request.
    pub fn asks(&mut self, client: u8, request: u64) {
        let floor = self.values.last().copied().unwrap_or(0);
        self.ledgers[usize::from(client)].open = Some((request, floor));
    }

    /// A client has an answer; whether it ended the request under way.
    pub fn answered(&mut self, client: u8, request: u64, value: u64) -> bool {
        let ledger = &mut self.ledgers[usize::from(client)];
        if let Some(known) = ledger.answered.get(&request) {
            let known = *known;
            self.holds(known == value, || {
                format!("client {client}, request {request}: answer {value}, but it was {known}")
            });
            return false;
        }
        let Some((open, floor)) = ledger.open.filter(|(open, _)| *open == request) else {
            self.violated(format!("client {client}: an answer to request {request}, never made"));
            return false;
        };
        ledger.answered.insert(open, value);
        ledger.open = None;
        self.holds(value > floor, || {
            format!("client {client}, request {request}: {value}, but {floor} was known before")
        });
        let new = self.values.insert(value);
        self.holds(new, || format!("two increments gave {value}"));
        self.counts.answered += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(number: u64, chain: u64) -> Output {
        Output { number, ns: number, chain, reply: None }
    }

    fn emitter(id: u128, epoch: u64) -> Emitter {
        Emitter { replica: ReplicaId(id), epoch: Epoch(epoch), life: 0 }
    }

    #[test]
    fn the_history_is_one() {
        let (one, two) = (emitter(1, 1), emitter(2, 2));
        let mut good = Checker::default();
        good.goes_live(&one, 0, [5; 2], Some((Epoch(0), one.replica)));
        good.emits(&one, &output(0, 7), 6);
        good.emits(&one, &output(1, 8), 7);
        good.goes_live(&two, 2, [10; 2], Some((Epoch(1), two.replica)));
        good.emits(&two, &output(1, 8), 9);
        good.emits(&two, &output(2, 9), 11);
        good.emits(&one, &output(1, 8), 8);
        assert_eq!(good.violation(), None);
        let bad: [(Emitter, Output, u64, &str); 5] = [
            (two, output(2, 1), 12, "forks"),
            (two, output(4, 1), 12, "gap"),
            (one, output(1, 8), 12, "two live"),
            (one, output(3, 8), 9, "two emitters"),
            (two, Output { ns: 1, ..output(3, 1) }, 12, "goes back"),
        ];
        for (who, output, at, what) in bad {
            let mut checker = good.clone();
            checker.emits(&who, &output, at);
            let said = checker.violation().expect("a violation");
            assert!(said.contains(what), "{what}: {said}");
        }
    }

    #[test]
    fn epochs_and_increments_are_unique() {
        let (one, two) = (emitter(1, 1), emitter(2, 1));
        let mut checker = Checker::default();
        checker.goes_live(&one, 0, [5; 2], Some((Epoch(0), one.replica)));
        checker.goes_live(&two, 0, [6; 2], Some((Epoch(0), two.replica)));
        assert!(checker.violation().is_some());
        let mut good = Checker::default();
        good.asks(0, 1);
        assert!(good.answered(0, 1, 3));
        assert!(!good.answered(0, 1, 3));
        good.asks(1, 1);
        assert_eq!(good.violation(), None);
        for (client, request, value) in [(0, 1, 4), (1, 1, 3), (1, 1, 2), (1, 9, 9)] {
            let mut checker = good.clone();
            checker.answered(client, request, value);
            assert!(checker.violation().is_some(), "{client} {request} {value}");
        }
    }
}
