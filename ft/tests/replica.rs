//! Two replicas by hand: each rule of the protocol once, without a machine.

use ft::event::{Action, Event, Halt, Pace, RecordRole, Tenure, Verdict};
use ft::log::{Body, Entry, Instant};
use ft::message::{Ack, Bye, Commit, Hello, Message, Standing};
use ft::replica::StatusRole;
use ft::types::{Conn, Epoch, HostNs, OutputNo, ReplicaId, VmId};
use ft::{Config, Replica, Start};

const LINK: Conn = Conn(1);

/// A replica and what it wanted, messages apart.
struct Side {
    replica: Replica,
    sent: Vec<Message>,
    wanted: Vec<Action>,
}

impl Side {
    fn new(id: u128, start: Start) -> Self {
        let replica = Replica::new(Config::new(ReplicaId(id)), start, HostNs(0));
        let mut side = Self { replica, sent: vec![], wanted: vec![] };
        side.drain();
        side
    }

    fn drain(&mut self) {
        while let Some(action) = self.replica.poll() {
            match action {
                Action::Send(LINK, message) => self.sent.push(message),
                Action::SetTimer(_) => {}
                action => self.wanted.push(action),
            }
        }
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.replica.handle(HostNs(ms * HostNs::MS), event);
        self.drain();
    }

    fn took(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.wanted)
    }

    fn entries(&mut self) -> Vec<Entry> {
        std::iter::from_fn(|| self.replica.next_entry()).collect()
    }
}

fn at(icount: u64) -> Instant {
    Instant { icount, halted_ns: None }
}

fn output(icount: u64, count: u64) -> Event {
    Event::Output { at: at(icount), count, executed: false }
}

fn won(epoch: u64) -> Event {
    Event::Verdict { epoch: Epoch(epoch), verdict: Verdict::Won }
}

fn lost(epoch: u64, owner: u128) -> Event {
    let verdict = Verdict::Lost { epoch: Epoch(epoch), owner: ReplicaId(owner) };
    Event::Verdict { epoch: Epoch(epoch), verdict }
}

/// Carries messages both ways until there are none.
fn exchange(a: &mut Side, b: &mut Side, ms: u64) {
    while !a.sent.is_empty() || !b.sent.is_empty() {
        for message in std::mem::take(&mut a.sent) {
            let message = Message::decode(&message.encode()).expect("a message");
            b.at(ms, Event::Received(LINK, message));
        }
        for message in std::mem::take(&mut b.sent) {
            let message = Message::decode(&message.encode()).expect("a message");
            a.at(ms, Event::Received(LINK, message));
        }
    }
}

/// A primary alone in epoch 1.
fn solo() -> Side {
    let mut side = Side::new(1, Start::Solo { vm: VmId(7), epoch: Epoch(0) });
    assert_eq!(side.took(), [Action::AskArbiter(Epoch(0))]);
    side.at(0, won(0));
    let live = side.took();
    assert!(matches!(live[0], Action::Persist(record) if record.role == RecordRole::Primary));
    assert_eq!(
        live[1],
        Action::GoLive { epoch: Epoch(1), emit_from: OutputNo(0), rival_until: HostNs(0) }
    );
    side
}

/// A pair in epoch 1; the machine is at 1000 and has made 3 outputs.
fn pair() -> (Side, Side) {
    let mut primary = solo();
    primary.at(1, output(900, 3));
    assert_eq!(primary.took(), [Action::Release(OutputNo(3))]);
    let mut backup = Side::new(2, Start::Spare { vm: None });
    for side in [&mut primary, &mut backup] {
        side.at(2, Event::Connected(LINK));
    }
    exchange(&mut primary, &mut backup, 2);
    assert_eq!(primary.took(), [Action::BeginTransfer(LINK)]);
    primary.at(3, Event::Transfer(vec![1, 2]));
    exchange(&mut primary, &mut backup, 3);
    let syncing = backup.took();
    assert!(matches!(syncing[0], Action::Persist(record) if record.role == RecordRole::Syncing));
    assert_eq!(syncing[1], Action::Install(vec![1, 2]));
    primary.at(4, Event::CutOver { at: at(1000), digest: 99 });
    exchange(&mut primary, &mut backup, 4);
    let commit = Commit {
        epoch: Epoch(1),
        icount: 1000,
        halted_ns: None,
        seq: 0,
        outputs: OutputNo(3),
        digest: 99,
    };
    assert_eq!(backup.took(), [Action::Adopt(commit)]);
    (primary, backup)
}

fn joined() -> (Side, Side) {
    let (mut primary, mut backup) = pair();
    backup.at(5, Event::Adopted);
    exchange(&mut primary, &mut backup, 5);
    primary.took();
    backup.took();
    assert_eq!(primary.replica.status().role, StatusRole::Primary);
    assert_eq!(backup.replica.status().role, StatusRole::Backup);
    (primary, backup)
}

#[test]
fn an_output_waits_for_the_acknowledgement() {
    let (mut primary, mut backup) = joined();
    primary.at(6, Event::Logged { at: at(1500), body: Body::Input(vec![5]) });
    assert!(primary.sent.is_empty(), "entries wait for company");
    primary.at(7, output(1600, 2));
    assert_eq!(primary.sent.len(), 1, "an output does not");
    assert_eq!(primary.took(), []);
    let log = primary.sent.pop().expect("just seen");
    backup.at(8, Event::Received(LINK, log));
    assert_eq!(backup.sent.len(), 1, "acknowledged on receipt");
    exchange(&mut primary, &mut backup, 9);
    assert_eq!(primary.took(), [Action::Release(OutputNo(5))]);
    let entries = backup.entries();
    assert_eq!(entries[0].body, Body::Input(vec![5]));
    assert_eq!((entries[1].at, &entries[1].body), (at(1600), &Body::Progress));
}

#[test]
fn nothing_leaves_before_the_backup_has_the_machine() {
    let (mut primary, mut backup) = pair();
    primary.at(5, output(1100, 1));
    exchange(&mut primary, &mut backup, 5);
    assert_eq!(primary.took(), []);
    backup.at(6, Event::Adopted);
    exchange(&mut primary, &mut backup, 6);
    assert!(primary.took().contains(&Action::Release(OutputNo(4))));
}

#[test]
fn the_backup_executes_all_of_its_log_and_emits_again_what_may_be_lost() {
    let (mut primary, mut backup) = joined();
    primary.at(6, output(1600, 1));
    exchange(&mut primary, &mut backup, 6);
    primary.at(7, output(1700, 1));
    exchange(&mut primary, &mut backup, 7);
    assert_eq!(backup.took(), [Action::Forget(OutputNo(4))]);
    backup.at(8, Event::Disconnected(LINK));
    assert!(backup.took().contains(&Action::AskArbiter(Epoch(1))));
    backup.at(9, won(1));
    assert_eq!(backup.took(), [], "the log is not executed");
    let seq = backup.entries().last().expect("two entries").seq + 1;
    backup.at(10, Event::Executed { seq, icount: 1700, outputs: OutputNo(5) });
    let rival_until = HostNs(357 * HostNs::MS);
    let live = Action::GoLive { epoch: Epoch(2), emit_from: OutputNo(4), rival_until };
    let took = backup.took();
    assert!(
        matches!(took[0], Action::Persist(record) if record.epoch == Epoch(2)),
        "first the record"
    );
    assert_eq!(took[1], live);
    backup.at(11, output(1800, 1));
    assert_eq!(backup.took(), [Action::Release(OutputNo(6))]);
}

#[test]
fn who_loses_the_arbiter_stops_and_releases_nothing() {
    let (mut primary, _backup) = joined();
    primary.at(6, output(1600, 1));
    primary.at(500, Event::Timer);
    let claims = primary.took();
    assert!(claims.contains(&Action::AskArbiter(Epoch(1))), "{claims:?}");
    primary.at(501, output(1700, 1));
    primary.at(502, lost(0, 2));
    assert_eq!(primary.took(), [], "an answer to another question");
    primary.at(503, lost(1, 2));
    let halt = Halt::Superseded { epoch: Epoch(1), owner: ReplicaId(2) };
    assert_eq!(primary.took(), [Action::Halt(halt)]);
    primary.at(504, won(1));
    assert_eq!(primary.took(), []);
}

#[test]
fn a_primary_without_its_backup_waits_for_the_arbiter_and_goes_on() {
    let (mut primary, _backup) = joined();
    primary.at(6, Event::Disconnected(LINK));
    primary.at(7, output(1600, 2));
    primary.took();
    let silent = Event::Verdict { epoch: Epoch(1), verdict: Verdict::Unreachable };
    primary.at(8, silent);
    primary.at(50, Event::Timer);
    primary.at(200, Event::Timer);
    assert!(primary.took().contains(&Action::AskArbiter(Epoch(1))));
    primary.at(400, Event::Timer);
    assert!(primary.took().contains(&Action::Run(Pace::Stop)), "not for ever on credit");
    primary.at(500, won(1));
    let went_on = primary.took();
    assert!(went_on.contains(&Action::Release(OutputNo(5))), "{went_on:?}");
    assert!(went_on.contains(&Action::Run(Pace::Full)), "{went_on:?}");
    assert_eq!(primary.replica.epoch(), Epoch(2));
}

#[test]
fn the_end_of_the_guest_stops_both() {
    let (mut primary, mut backup) = joined();
    primary.at(6, output(1600, 1));
    primary.at(6, Event::Logged { at: at(1601), body: Body::End(vec![]) });
    primary.at(6, Event::Ended);
    assert_eq!(primary.took(), []);
    exchange(&mut primary, &mut backup, 7);
    assert_eq!(
        primary.took(),
        [Action::Release(OutputNo(4)), Action::Close(LINK), Action::Halt(Halt::Ended)]
    );
    backup.took();
    let entries = backup.entries();
    assert_eq!(entries.last().expect("entries").body, Body::End(vec![]));
    let seq = entries.len() as u64;
    backup.at(8, Event::Executed { seq, icount: 1601, outputs: OutputNo(4) });
    assert_eq!(backup.took(), [Action::Halt(Halt::Ended)]);
}

#[test]
fn a_joining_that_breaks_harms_nothing() {
    let mut primary = solo();
    let mut backup = Side::new(2, Start::Spare { vm: None });
    for side in [&mut primary, &mut backup] {
        side.at(2, Event::Connected(LINK));
    }
    exchange(&mut primary, &mut backup, 2);
    primary.took();
    backup.took();
    primary.at(3, Event::Disconnected(LINK));
    backup.at(3, Event::Disconnected(LINK));
    assert!(primary.took().contains(&Action::AbortTransfer));
    assert!(backup.took().contains(&Action::AbortTransfer));
    primary.at(4, output(10, 1));
    assert_eq!(primary.took(), [Action::Release(OutputNo(1))]);
    assert_eq!(primary.replica.epoch(), Epoch(1));
    for side in [&mut primary, &mut backup] {
        side.at(5, Event::Connected(LINK));
    }
    exchange(&mut primary, &mut backup, 5);
    assert_eq!(primary.took(), [Action::BeginTransfer(LINK)], "and another try is welcome");
}

#[test]
fn a_damaged_log_or_a_broken_protocol_never_panics() {
    let (_, mut backup) = joined();
    let (frame, released) = (vec![9; 40], OutputNo(0));
    let log = Message::Log { frame, released, wanted: 0, stamp: 6 };
    backup.at(6, Event::Received(LINK, log));
    assert!(matches!(backup.took().last(), Some(Action::Halt(Halt::Unusable(_)))));
    assert_eq!(backup.sent, [Message::Bye(Bye::Failed)]);
    let (mut primary, _) = joined();
    primary.at(6, Event::Received(LINK, Message::Joined));
    primary.at(6, Event::Received(LINK, Message::Welcome { vm: VmId(1), epoch: Epoch(9) }));
    assert!(primary.took().contains(&Action::AskArbiter(Epoch(1))));
}

#[test]
fn an_output_can_wait_until_the_log_is_executed() {
    let (mut primary, mut backup) = joined();
    primary.at(6, Event::Logged { at: at(1500), body: Body::Input(vec![5]) });
    primary.at(7, Event::Output { at: at(1600), count: 1, executed: true });
    exchange(&mut primary, &mut backup, 8);
    assert_eq!(primary.took(), [], "the backup has the log, and has not executed it");
    let seq = backup.entries().last().expect("two entries").seq + 1;
    backup.at(9, Event::Executed { seq: seq - 1, icount: 1500, outputs: OutputNo(3) });
    assert!(backup.sent.is_empty(), "one entry is left");
    backup.at(10, Event::Executed { seq, icount: 1600, outputs: OutputNo(4) });
    assert_eq!(backup.sent.len(), 1, "it says so at once");
    exchange(&mut primary, &mut backup, 11);
    assert_eq!(primary.took(), [Action::Release(OutputNo(4))]);
    assert_eq!(primary.replica.executed(), Some((seq, seq)));
    // What is executed already holds nothing up for longer than an answer takes.
    primary.at(12, Event::Output { at: at(1600), count: 1, executed: true });
    exchange(&mut primary, &mut backup, 13);
    assert_eq!(primary.took(), [Action::Release(OutputNo(5))]);
}

#[test]
fn a_primary_counts_on_its_backup_from_the_question_not_from_the_answer() {
    let (mut primary, mut backup) = joined();
    primary.at(100, Event::Timer);
    exchange(&mut primary, &mut backup, 100);
    backup.at(101, Event::Timer);
    exchange(&mut primary, &mut backup, 102);
    // The heartbeat of 150 ms comes, and its answer is on its way for long.
    primary.at(150, Event::Timer);
    for message in std::mem::take(&mut primary.sent) {
        backup.at(151, Event::Received(LINK, message));
    }
    backup.at(250, Event::Timer);
    let until = HostNs((100 + 350) * HostNs::MS - 350 * HostNs::MS / 8);
    assert_eq!(primary.replica.tenure(), Tenure::Until(until));
    exchange(&mut primary, &mut backup, 280);
    assert_eq!(primary.replica.tenure(), Tenure::Until(until.after(50 * HostNs::MS)));
    // The backup is one for longer.
    backup.at(281, Event::Promote);
    backup.at(282, won(1));
    let took = backup.took();
    let rival = took.iter().find_map(|action| match action {
        Action::GoLive { rival_until, .. } => Some(*rival_until),
        _ => None,
    });
    assert!(rival.expect("it is live") >= until.after(50 * HostNs::MS), "{took:?}");
    assert_eq!(backup.replica.tenure(), Tenure::Open);
    primary.at(290, Event::Disconnected(LINK));
    assert_eq!(primary.replica.tenure(), Tenure::Ended);
    primary.at(300, won(1));
    assert_eq!(primary.replica.tenure(), Tenure::Open);
}

#[test]
fn who_stood_still_releases_nothing_for_an_old_answer() {
    let (mut primary, mut backup) = joined();
    primary.at(6, output(1600, 1));
    for message in std::mem::take(&mut primary.sent) {
        backup.at(7, Event::Received(LINK, message));
    }
    // The answer waits while the primary stands still.
    let old: Vec<Message> = std::mem::take(&mut backup.sent);
    assert_eq!(old.len(), 1);
    for message in old {
        primary.at(9000, Event::Received(LINK, message));
    }
    assert_eq!(primary.took(), [], "the backup may be live by now");
    assert!(matches!(primary.replica.tenure(), Tenure::Until(at) if at < HostNs(400 * HostNs::MS)));
    primary.at(9001, Event::Timer);
    exchange(&mut primary, &mut backup, 9002);
    backup.at(9060, Event::Timer);
    exchange(&mut primary, &mut backup, 9061);
    assert_eq!(primary.took(), [Action::Release(OutputNo(4))], "it is still a backup");
    // An answer to what was never asked.
    let ack = Ack { received: 1, executed: 1, stamp: 9999, ..Ack::default() };
    primary.at(9062, Event::Received(LINK, Message::Ack(ack)));
    assert!(primary.took().contains(&Action::AskArbiter(Epoch(1))));
}

/// What a replica does that meets another one which is live with its machine.
fn meets(side: &mut Side, epoch: u64, id: u128) -> Option<Action> {
    let hello = Hello {
        replica: ReplicaId(id),
        vm: Some(VmId(7)),
        epoch: Epoch(epoch),
        standing: Standing::Live,
    };
    side.took();
    side.at(20, Event::Connected(Conn(9)));
    side.at(20, Event::Received(Conn(9), Message::Hello(hello)));
    side.took().pop().filter(|action| matches!(action, Action::Halt(_)))
}

#[test]
fn who_meets_a_later_live_side_stops() {
    let halted = |epoch, owner| {
        let halt = Halt::Superseded { epoch: Epoch(epoch), owner: ReplicaId(owner) };
        Some(Action::Halt(halt))
    };
    assert_eq!(meets(&mut solo(), 2, 5), halted(1, 5));
    assert_eq!(meets(&mut solo(), 0, 5), None, "the other one stops");
    // The user has promoted both.
    assert_eq!(meets(&mut solo(), 1, 5), halted(0, 5));
    assert_eq!(meets(&mut solo(), 1, 0), None);
    assert_eq!(meets(&mut joined().1, 2, 5), halted(1, 5), "a backup");
    assert_eq!(meets(&mut joined().1, 1, 5), None);
    let mut starting = Side::new(1, Start::Solo { vm: VmId(7), epoch: Epoch(3) });
    assert_eq!(meets(&mut starting, 3, 5), None);
    assert_eq!(meets(&mut starting, 4, 5), halted(3, 5));
    let mut other = Side::new(1, Start::Solo { vm: VmId(8), epoch: Epoch(3) });
    assert_eq!(meets(&mut other, 4, 5), None, "another machine");
}
