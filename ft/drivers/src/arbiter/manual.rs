//! The arbiters `manual` and `none`: the user decides, or nobody does.
//!
//! Contract of `manual`: a claim gets no verdict until the user promotes this replica, and then
//! wins; the user answers for the other one being dead. What was won is written into the record
//! beside the disk image before the machine goes live, and is told from there to the arbiter of the
//! next process ([`Promotion::remember`]). `none` lets everybody win, and is
//! refused unless the user accepts two live replicas.

use super::{Arbiter, Claimed, Verdict, judge};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long a claim waits for the user before it is an error, to be asked again.
const WAIT: Duration = Duration::from_millis(500);
/// A claim that was not repeated for so long is not waiting any more.
const FORGET: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Desk {
    /// The claim that waits for the user, and when it was last made.
    waiting: Option<(u128, Claimed, Instant)>,
    /// Claims that the user granted, one for each machine.
    granted: Vec<(u128, Claimed)>,
    /// When the user granted a claim that was still to come.
    expected: Option<Instant>,
}

impl Desk {
    fn latest(&self, vm: u128) -> Option<Claimed> {
        self.granted.iter().find(|(of, _)| *of == vm).map(|(_, claimed)| *claimed)
    }

    fn grant(&mut self, vm: u128, claimed: Claimed) {
        self.granted.retain(|(of, _)| *of != vm);
        self.granted.push((vm, claimed));
    }
}

/// The user's end of [`Manual`]; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Promotion(Arc<(Mutex<Desk>, Condvar)>);

impl Promotion {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.0.lock().expect("nobody panics at the desk")
    }

    /// What the record says that the user granted an earlier process.
    pub fn remember(&self, vm: u128, claimed: Claimed) {
        self.desk().grant(vm, claimed);
    }

    /// Grants the claim that waits. `false`: none does.
    #[must_use]
    pub fn promote(&self) -> bool {
        let mut desk = self.desk();
        let Some((vm, claimed, asked)) = desk.waiting.take() else { return false };
        if asked.elapsed() > FORGET {
            return false;
        }
        desk.grant(vm, claimed);
        self.0.1.notify_all();
        true
    }

    /// Grants the next claim, if it comes within seconds: the user has promoted a replica that had
    /// no reason to claim yet.
    pub fn promote_next(&self) {
        self.desk().expected = Some(Instant::now());
    }

    /// The epoch whose claim waits for the user.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        let desk = self.desk();
        desk.waiting.filter(|(_, _, asked)| asked.elapsed() <= FORGET).map(|(_, c, _)| c.epoch)
    }
}

/// The user as arbiter.
#[derive(Clone, Debug)]
pub struct Manual {
    promotion: Promotion,
}

impl Manual {
    /// Claims wait for `promotion`.
    #[must_use]
    pub fn new(promotion: Promotion) -> Self {
        Self { promotion }
    }
}

impl Arbiter for Manual {
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        let deadline = Instant::now() + WAIT;
        let mut desk = self.promotion.desk();
        loop {
            if let Some(verdict) = judge(desk.latest(vm), epoch, claimant) {
                return Ok(verdict);
            }
            let now = Instant::now();
            let claimed = Claimed { epoch, owner: claimant };
            if desk.expected.take().is_some_and(|at| at.elapsed() <= FORGET) {
                desk.waiting = None;
                desk.grant(vm, claimed);
                return Ok(Verdict::Won);
            }
            desk.waiting = Some((vm, claimed, now));
            let Some(left) = deadline.checked_duration_since(now).filter(|d| !d.is_zero()) else {
                let text = format!("epoch {epoch} waits for the user: promote this replica");
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            };
            let woken = self.promotion.0.1.wait_timeout(desk, left);
            desk = woken.expect("nobody panics at the desk").0;
        }
    }

    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>> {
        Ok(self.promotion.desk().latest(vm))
    }

    fn remembers(&self) -> bool {
        false
    }
}

/// No arbiter: every claim wins.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoArbiter;

impl Arbiter for NoArbiter {
    fn claim(&mut self, _vm: u128, _epoch: u64, _claimant: u128) -> io::Result<Verdict> {
        Ok(Verdict::Won)
    }

    fn latest(&mut self, _vm: u128) -> io::Result<Option<Claimed>> {
        Ok(None)
    }

    fn remembers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_wins_before_the_user_says_so() {
        let promotion = Promotion::default();
        assert!(!promotion.promote(), "nothing waits");
        let mut manual = Manual::new(promotion.clone());
        let e = manual.claim(1, 7, 10).expect_err("not promoted");
        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(promotion.waiting(), Some(7));
        assert_eq!(manual.latest(1).expect("at hand"), None);

        let claimant = std::thread::spawn(move || {
            let verdict = manual.claim(1, 7, 10);
            (manual, verdict)
        });
        assert!(promotion.promote(), "the claim of before still waits, or the new one does");
        let (mut manual, verdict) = claimant.join().expect("claimant");
        assert_eq!(verdict.expect("promoted"), Verdict::Won);
        let latest = Claimed { epoch: 7, owner: 10 };
        assert_eq!(manual.latest(1).expect("at hand"), Some(latest));
        assert_eq!(manual.claim(1, 7, 10).expect("a retry"), Verdict::Won);
        assert_eq!(manual.claim(1, 6, 10).expect("an old epoch"), Verdict::Lost(latest));
        assert_eq!(manual.claim(1, 7, 11).expect("another claimant"), Verdict::Lost(latest));
        assert!(manual.claim(1, 8, 10).is_err(), "the next epoch needs the next word");
        assert!(manual.claim(2, 7, 10).is_err(), "so does another machine");
    }

    #[test]
    fn a_word_given_before_the_claim_counts_for_one_claim() {
        let promotion = Promotion::default();
        let mut manual = Manual::new(promotion.clone());
        promotion.promote_next();
        assert_eq!(manual.claim(1, 7, 10).expect("promoted"), Verdict::Won);
        assert_eq!(promotion.waiting(), None);
        assert!(manual.claim(1, 8, 10).is_err(), "the next epoch needs the next word");
    }

    #[test]
    fn what_was_granted_before_is_remembered() {
        let promotion = Promotion::default();
        let before = Claimed { epoch: 7, owner: 10 };
        promotion.remember(1, before);
        let mut manual = Manual::new(promotion);
        assert_eq!(manual.latest(1).expect("at hand"), Some(before));
        assert_eq!(manual.claim(1, 7, 11).expect("another process"), Verdict::Lost(before));
        assert_eq!(manual.claim(1, 7, 10).expect("the same"), Verdict::Won);
        assert!(manual.claim(1, 8, 11).is_err(), "the next epoch needs the next word");
    }

    #[test]
    fn without_an_arbiter_both_win() {
        assert_eq!(NoArbiter.claim(1, 1, 10).expect("none"), Verdict::Won);
        assert_eq!(NoArbiter.claim(1, 1, 11).expect("none"), Verdict::Won);
        assert_eq!(NoArbiter.latest(1).expect("none"), None);
    }
}
