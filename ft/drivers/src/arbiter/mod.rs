//! Arbiters: the test-and-set that decides which replica is live in an epoch.
//!
//! An arbiter is one monotone register per virtual machine: the latest epoch that was claimed, and
//! by whom.
//!
//! Contract, held by the same tests for every arbiter:
//! - A claim of an epoch that is newer than the latest is recorded durably, then [`Verdict::Won`].
//! - A claim of the latest epoch by the claimant that owns it is [`Verdict::Won`] again: a retry
//!   after a lost answer.
//! - Every other claim is [`Verdict::Lost`] and names the latest.
//!
//! So exactly one of any number of racing claimants wins an epoch, an older epoch never wins again,
//! and whoever was told to have won stays the winner across crashes of the arbiter. An arbiter that
//! cannot be reached, or cannot make its record durable, is an error and never a verdict: the
//! claimant asks again, with the same identity.
//!
//! A claimant is the number that a process draws at random when it starts (its *incarnation*). A
//! primary that is live in epoch e has won the claim of e - 1; whoever wants to be live next claims
//! e. Two replicas must ask the same arbiter, and a backup can make sure of it when it joins a
//! primary of epoch e: its own [`Arbiter::latest`] is (e - 1, the primary's incarnation), or the
//! two are not configured for the same place.

pub mod asking;
pub mod dir;
pub mod etcd;
pub mod manual;
pub mod target;
pub mod witness;

use std::io;

/// A claim that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The epoch.
    pub epoch: u64,
    /// Who claimed it.
    pub owner: u128,
}

/// The answer to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The claimant owns the epoch.
    Won,
    /// It does not and never will: this is the latest claim.
    Lost(Claimed),
}

/// A monotone register per virtual machine. Calls may block; see [`asking`].
pub trait Arbiter: Send {
    /// Claims `epoch` of the machine `vm` for `claimant`.
    ///
    /// # Errors
    /// The arbiter gave no verdict. The claim may have been recorded all the same: ask again as the
    /// same claimant.
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict>;

    /// The latest claim for the machine `vm`.
    ///
    /// # Errors
    /// The arbiter cannot be reached, or its record is damaged.
    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>>;

    /// Whether claims are remembered when all replicas are gone.
    fn remembers(&self) -> bool {
        true
    }
}

impl<A: Arbiter + ?Sized> Arbiter for Box<A> {
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        (**self).claim(vm, epoch, claimant)
    }

    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>> {
        (**self).latest(vm)
    }

    fn remembers(&self) -> bool {
        (**self).remembers()
    }
}

/// What the register that holds `latest` says to a claim; `None`: the claim is to be recorded, and
/// then has won.
#[must_use]
pub fn judge(latest: Option<Claimed>, epoch: u64, claimant: u128) -> Option<Verdict> {
    match latest {
        Some(Claimed { epoch: e, owner }) if e == epoch && owner == claimant => Some(Verdict::Won),
        Some(latest) if latest.epoch >= epoch => Some(Verdict::Lost(latest)),
        _ => None,
    }
}

/// 32 hexadecimal digits, as [`hex`] writes them.
pub(crate) fn parse_hex(text: &str) -> Option<u128> {
    let digits = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// 1 to 20 decimal digits.
fn parse_decimal(text: &str) -> Option<u64> {
    let digits = text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A machine or claimant as text: 32 hexadecimal digits.
#[must_use]
pub fn hex(number: u128) -> String {
    format!("{number:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_judges() {
        let at = |epoch, owner| Some(Claimed { epoch, owner });
        let lost = |epoch, owner| Some(Verdict::Lost(Claimed { epoch, owner }));
        for (latest, epoch, claimant, verdict) in [
            (None, 0, 1, None),
            (None, 9, 1, None),
            (at(4, 1), 5, 2, None),
            (at(4, 1), u64::MAX, 1, None),
            (at(4, 1), 4, 1, Some(Verdict::Won)),
            (at(4, 1), 4, 2, lost(4, 1)),
            (at(4, 1), 3, 1, lost(4, 1)),
            (at(4, 1), 3, 2, lost(4, 1)),
        ] {
            assert_eq!(judge(latest, epoch, claimant), verdict, "{latest:?} {epoch} {claimant}");
        }
    }

    #[test]
    fn numbers_have_one_spelling() {
        assert_eq!(parse_hex(&hex(u128::MAX)), Some(u128::MAX));
        assert_eq!(parse_hex(&hex(0)), Some(0));
        for bad in
            ["", "0", "+1", &"F".repeat(32), &"0".repeat(33), "+0000000000000000000000000000000"]
        {
            assert_eq!(parse_hex(bad), None, "{bad}");
        }
        assert_eq!(parse_decimal("18446744073709551615"), Some(u64::MAX));
        for bad in ["", "+1", "-1", "1 ", "18446744073709551616", &"0".repeat(21)] {
            assert_eq!(parse_decimal(bad), None, "{bad}");
        }
    }
}
