//! The contract of [`Arbiter`], checked from outside by the history of what claimants were told.

use drivers::arbiter::target::Target;
use drivers::arbiter::{Arbiter, Claimed, Verdict, judge};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, Mutex};
use std::time::Instant;

/// A key that claimants and arbiters share.
pub const KEY: [u8; 32] = *b"what both sides of a test know..";
/// Names the arbiter, the claimant and the last epoch to a claimant process.
const CHILD: &str = "FTEMU_TEST_CLAIMANT";

/// An arbiter under test.
pub trait Subject: Sync {
    /// One claimant's way to it.
    fn connect(&self) -> Box<dyn Arbiter>;
    /// How another process names it; `None` if none can.
    fn target(&self) -> Option<String>;
    /// Kills it and starts it again, where it is a process.
    fn restart(&mut self);
    /// Whether claimants have [`KEY`].
    fn keyed(&self) -> bool {
        false
    }
}

/// The whole contract.
pub fn contract(subject: &mut dyn Subject) {
    register(subject, 300);
    racing_threads(subject);
    history(subject);
    subject.restart();
    register_is_kept(subject);
    racing_processes(subject);
}

/// A linear congruential generator (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// A single claimant at a time sees the register of the definition; machines do not disturb each
/// other.
pub fn register(subject: &dyn Subject, steps: u64) {
    let mut arbiter = subject.connect();
    let mut model: BTreeMap<u128, Claimed> = BTreeMap::new();
    let mut dice = Dice(1);
    for step in 0..steps {
        let vm = [1, 2, u128::MAX][dice.below(3) as usize];
        let owner = 1 + u128::from(dice.below(3));
        let latest = model.get(&vm).copied();
        let epoch = (latest.map_or(3, |l| l.epoch) + dice.below(5)).saturating_sub(2);
        let expected = judge(latest, epoch, owner).unwrap_or_else(|| {
            model.insert(vm, Claimed { epoch, owner });
            Verdict::Won
        });
        let verdict = arbiter.claim(vm, epoch, owner).expect("a verdict");
        assert_eq!(verdict, expected, "step {step}: claim({vm:x}, {epoch}, {owner}) at {latest:?}");
        assert_eq!(arbiter.latest(vm).expect("at hand"), model.get(&vm).copied(), "step {step}");
    }
    assert_eq!(arbiter.latest(77).expect("at hand"), None, "of a machine that never claimed");
}

/// One of eight threads wins each epoch, and the others are told who.
fn racing_threads(subject: &dyn Subject) {
    const VM: u128 = 0x1000;
    const EPOCHS: u64 = 20;
    let barrier = Barrier::new(8);
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for owner in 1..=8 {
            let (barrier, told) = (&barrier, &told);
            let mut arbiter = subject.connect();
            scope.spawn(move || {
                for epoch in 1..=EPOCHS {
                    barrier.wait();
                    let verdict = arbiter.claim(VM, epoch, owner).expect("a verdict");
                    // A retry after a lost answer is told the same, until the next epoch begins.
                    assert_eq!(arbiter.claim(VM, epoch, owner).expect("a verdict"), verdict);
                    told.lock().expect("no panic").push((epoch, owner, verdict));
                    barrier.wait();
                }
            });
        }
    });
    let told = told.into_inner().expect("no panic");
    for epoch in 1..=EPOCHS {
        let here: Vec<_> = told.iter().filter(|(e, ..)| *e == epoch).collect();
        let winners: Vec<_> = here.iter().filter(|(.., v)| *v == Verdict::Won).collect();
        assert_eq!((here.len(), winners.len()), (8, 1), "epoch {epoch}: {here:?}");
        let owner = winners[0].1;
        for (_, _, verdict) in here.iter().filter(|(_, o, _)| *o != owner) {
            assert_eq!(*verdict, Verdict::Lost(Claimed { epoch, owner }));
        }
    }
}

/// What a claimant asked, was told, and when.
#[derive(Debug)]
struct Told {
    asked: Instant,
    answered: Instant,
    epoch: u64,
    owner: u128,
    verdict: Verdict,
}

/// Threads race through epochs without waiting for each other; what they were told must be one
/// register's history.
fn history(subject: &dyn Subject) {
    const VM: u128 = 0x2000;
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for owner in 1..=6 {
            let told = &told;
            let mut arbiter = subject.connect();
            scope.spawn(move || {
                let mut dice = Dice(owner as u64);
                let mut seen = 1;
                for _ in 0..60 {
                    let epoch = seen + dice.below(3);
                    let asked = Instant::now();
                    let verdict = arbiter.claim(VM, epoch, owner).expect("a verdict");
                    let answered = Instant::now();
                    seen = match verdict {
                        Verdict::Won => epoch,
                        Verdict::Lost(latest) => latest.epoch,
                    };
                    let line = Told { asked, answered, epoch, owner, verdict };
                    told.lock().expect("no panic").push(line);
                }
            });
        }
    });
    check_history(&told.into_inner().expect("no panic"));
}

/// Holds every pair of answers against the register.
fn check_history(told: &[Told]) {
    assert!(told.iter().filter(|t| t.verdict == Verdict::Won).count() > 5, "somebody won");
    for one in told {
        // The latest claim that the register held at some time between question and answer, at
        // least.
        let known = match one.verdict {
            Verdict::Won => Claimed { epoch: one.epoch, owner: one.owner },
            Verdict::Lost(latest) => {
                assert!(latest.epoch >= one.epoch, "{one:?}");
                let claim = told.iter().find(|t| {
                    (t.epoch, t.owner) == (latest.epoch, latest.owner) && t.asked < one.answered
                });
                assert!(claim.is_some(), "nobody had claimed that yet: {one:?}");
                latest
            }
        };
        for other in told.iter().filter(|t| t.asked > one.answered) {
            match judge(Some(known), other.epoch, other.owner) {
                Some(Verdict::Lost(_)) => {
                    assert!(other.verdict != Verdict::Won, "{one:?} and then {other:?}");
                }
                // Won again, unless the register moved on; or a new epoch.
                Some(Verdict::Won) | None => {}
            }
            if let Verdict::Lost(latest) = other.verdict {
                assert!(latest.epoch >= known.epoch, "it went back: {one:?}, then {other:?}");
                assert!(latest.epoch > known.epoch || latest == known, "{one:?}, then {other:?}");
            }
        }
    }
}

/// After a restart the register of [`racing_threads`] and [`history`] still stands.
fn register_is_kept(subject: &dyn Subject) {
    let mut arbiter = subject.connect();
    for vm in [0x1000, 0x2000] {
        let latest = arbiter.latest(vm).expect("at hand").expect("it was claimed");
        let Claimed { epoch, owner } = latest;
        let mut claim = |epoch, owner| arbiter.claim(vm, epoch, owner).expect("a verdict");
        assert_eq!(claim(epoch, owner), Verdict::Won, "a retry after the restart");
        assert_eq!(claim(epoch, owner + 1), Verdict::Lost(latest));
        for stale in 0..epoch {
            assert_eq!(claim(stale, owner), Verdict::Lost(latest), "stale epoch {stale}");
        }
    }
}

/// Starts this test binary again as a claimant.
fn start_claimant(subject: &dyn Subject, target: &str, owner: u128, last: u64) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "claimant_process", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{owner} {last} {} {target}", subject.keyed()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a claimant process")
}

/// In a process of its own: claims epoch after epoch and says what it was told.
pub fn claimant_process() {
    let Ok(job) = std::env::var(CHILD) else { return };
    let mut words = job.splitn(4, ' ');
    let owner: u128 = words.next().expect("claimant").parse().expect("a number");
    let last: u64 = words.next().expect("epoch").parse().expect("a number");
    let key = (words.next() == Some("true")).then_some(&KEY);
    let target: Target = words.next().expect("arbiter").parse().expect("an arbiter");
    let mut arbiter = target.open(&Default::default(), key).expect("the arbiter");
    let mut epoch = 1;
    println!();
    while epoch <= last {
        // An arbiter that is being restarted is asked again.
        let Ok(verdict) = arbiter.claim(0x3000, epoch, owner) else { continue };
        match verdict {
            Verdict::Won => println!("told {epoch} {owner}"),
            Verdict::Lost(latest) => println!("told {} {}", latest.epoch, latest.owner),
        }
        std::io::stdout().flush().expect("the parent reads");
        epoch = match verdict {
            Verdict::Won => epoch + 1,
            Verdict::Lost(latest) => latest.epoch + 1,
        };
    }
}

/// Processes race, some are killed at any instant and the arbiter is restarted: nobody is ever told
/// different owners of one epoch, and the epochs that each is told never go back.
fn racing_processes(subject: &mut dyn Subject) {
    let Some(target) = subject.target() else { return };
    const EPOCHS: u64 = 60;
    let mut claimants: Vec<_> =
        (1..=6).map(|owner| start_claimant(subject, &target, owner, EPOCHS)).collect();
    let (mut owners, mut lines) = (BTreeMap::new(), Vec::new());
    let mut readers: Vec<_> = claimants
        .iter_mut()
        .map(|child| BufReader::new(child.stdout.take().expect("piped")).lines())
        .collect();
    // The first lives only as long as its ninth answer, the second as its third.
    for (child, answers) in [(0, 9), (1, 3)] {
        lines.extend(
            readers[child].by_ref().map_while(Result::ok).filter(|l| told(l)).take(answers),
        );
        claimants[child].kill().expect("it is our child");
        if child == 0 {
            subject.restart();
        }
    }
    for reader in &mut readers {
        let mut before = 0;
        for line in reader.map_while(Result::ok).filter(|l| told(l)) {
            let epoch = parse(&line).0;
            assert!(epoch > before, "told of epoch {epoch} after {before}");
            before = epoch;
            lines.push(line);
        }
    }
    for mut child in claimants {
        child.wait().expect("it is our child");
    }
    for (epoch, owner) in lines.iter().map(|line| parse(line)) {
        let first = *owners.entry(epoch).or_insert(owner);
        assert_eq!(owner, first, "epoch {epoch} has two owners");
    }
    let latest = subject.connect().latest(0x3000).expect("at hand").expect("it was claimed");
    assert_eq!(owners.last_key_value(), Some((&latest.epoch, &latest.owner)));
    assert_eq!(latest.epoch, EPOCHS);
}

fn told(line: &str) -> bool {
    line.starts_with("told ")
}

fn parse(line: &str) -> (u64, u128) {
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().expect("two numbers");
    (word().parse().expect("an epoch"), word().parse().expect("an owner"))
}
