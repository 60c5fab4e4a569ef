//! The arbiter: a register that only rises.
//!
//! Contract: a claim of an epoch is won by the first who makes it, and by the same again; every
//! other is lost, and so is a claim of an epoch below the latest.

use ft::event::Verdict;
use ft::types::{Epoch, ReplicaId};

/// The register.
#[derive(Clone, Debug, Default)]
pub struct Arbiter {
    latest: Option<(Epoch, ReplicaId)>,
    /// Says yes to everybody: a mistake for the checkers to find.
    pub yes_to_all: bool,
}

impl Arbiter {
    /// Test-and-set.
    pub fn claim(&mut self, epoch: Epoch, by: ReplicaId) -> Verdict {
        match self.latest {
            Some((latest, owner)) if epoch < latest || epoch == latest && owner != by => {
                if self.yes_to_all {
                    return Verdict::Won;
                }
                Verdict::Lost { epoch: latest, owner }
            }
            _ => {
                self.latest = Some((epoch, by));
                Verdict::Won
            }
        }
    }

    /// The latest epoch that was claimed, and by whom.
    #[must_use]
    pub fn latest(&self) -> Option<(Epoch, ReplicaId)> {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_one_owner() {
        let (one, two) = (ReplicaId(1), ReplicaId(2));
        let mut arbiter = Arbiter::default();
        assert_eq!(arbiter.claim(Epoch(3), one), Verdict::Won);
        assert_eq!(arbiter.claim(Epoch(3), one), Verdict::Won);
        let lost = Verdict::Lost { epoch: Epoch(3), owner: one };
        assert_eq!(arbiter.claim(Epoch(3), two), lost);
        assert_eq!(arbiter.claim(Epoch(2), two), lost);
        assert_eq!(arbiter.claim(Epoch(4), two), Verdict::Won);
        let lost = Verdict::Lost { epoch: Epoch(4), owner: two };
        assert_eq!(arbiter.claim(Epoch(3), one), lost);
        assert_eq!(arbiter.latest(), Some((Epoch(4), two)));
    }
}
