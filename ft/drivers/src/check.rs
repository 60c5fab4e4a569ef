//! What a log keeps of a digest: small, and still enough to name what differs.
//!
//! Contract: three forms, told apart by their length; equal digests give equal checks of a form.
//! The whole one is the hash over everything, and stands behind a snapshot. The short one is 16
//! bits: 8 of the hash over the whole digest, 4 of the CPU's, 2 of RAM's, and 2 that the devices
//! share. The named one has 32 bits of the whole, 8 of the CPU's, 8 of RAM's and 4
//! of each device's. The short one misses a difference of one component alone once in a thousand
//! times or less, and the next one sees it.

use crate::guest::Guest;
use devices::io::Input;
use emulator::machine::Digest;
use ft::log::entry::DIGEST_INTERVAL;
use xxhash_rust::xxh3::Xxh3;

/// How many short checks stand between two named ones, if no input asks for one earlier.
pub const SHORT_RUN: u32 = 31;

/// Bytes of the form that is the hash over everything.
const WHOLE: usize = 16;

/// When checks are made, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    next: u64,
    /// How many short checks may come before the next named one.
    shorts: u32,
}

impl Schedule {
    /// The schedule of a log that begins at `icount`.
    #[must_use]
    pub fn from(icount: u64) -> Self {
        Self { next: (icount / DIGEST_INTERVAL + 1) * DIGEST_INTERVAL, shorts: 0 }
    }

    /// The count at which the next check is due; the guest must not run past it.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The guest takes `input`.
    pub fn input(&mut self, input: &Input) {
        if !matches!(input, Input::ClockRate(_)) {
            // Something reached a device: should a replay differ, it is likely to begin here.
            self.shorts = 0;
        }
    }

    /// The check of `guest`, if one is due here; the next one comes at a multiple of `steps`
    /// intervals.
    pub fn check(&mut self, guest: &mut impl Guest, steps: u64) -> Option<Vec<u8>> {
        if guest.icount().0 != self.next {
            return None;
        }
        let apart = DIGEST_INTERVAL * steps.max(1);
        self.next = (self.next / apart + 1) * apart;
        let digest = guest.digest();
        if self.shorts == 0 {
            self.shorts = SHORT_RUN;
            return Some(named(&digest));
        }
        self.shorts -= 1;
        Some(short(&digest).to_vec())
    }
}

/// How far apart checks are: so far that they cost little, whatever the engine's speed.
///
/// Which counts have a check is the log's writer's choice; its readers find the checks in the log.
#[derive(Clone, Copy, Debug)]
pub struct Spacing {
    steps: u64,
    /// Count and host time in ns of the last check's end.
    last: (u64, u64),
}

impl Spacing {
    /// A check takes at most one part in so many of the time, where the spacing can be so wide.
    const SHARE: u64 = 200;
    /// Most intervals from one check to the next: some tenths of a second.
    const MOST: u64 = 64;

    /// The closest spacing, at `icount` and host time `now`.
    #[must_use]
    pub fn new(icount: u64, now: u64) -> Self {
        Self { steps: 1, last: (icount, now) }
    }

    /// Intervals from one check to the next: a power of two, so that the checks of two logs fall
    /// together.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A check at `icount` has taken the host's time from `began` to `ended`, in ns. What lies
    /// between two checks was spent on the guest, or waiting for it.
    pub fn checked(&mut self, icount: u64, began: u64, ended: u64) {
        let (last, since) = self.last;
        self.last = (icount, ended);
        let intervals = icount.saturating_sub(last).div_ceil(DIGEST_INTERVAL).max(1);
        let interval_ns = began.saturating_sub(since) / intervals;
        let wanted = ended.saturating_sub(began).saturating_mul(Self::SHARE) / interval_ns.max(1);
        // One that the host interrupted says little.
        let wanted = wanted.clamp(self.steps / 2, self.steps * 2);
        self.steps = wanted.clamp(1, Self::MOST).next_power_of_two();
    }
}

/// The hash over everything.
#[must_use]
pub fn whole(digest: &Digest) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&digest.cpu.to_le_bytes());
    hash.update(&digest.ram.to_le_bytes());
    for (name, value) in &digest.devices {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&value.to_le_bytes());
    }
    hash.digest128()
}

/// The usual check of `digest`.
#[must_use]
pub fn short(digest: &Digest) -> [u8; 2] {
    let devices = digest.devices.iter().fold(0, |sum, (_, hash)| sum ^ *hash as u16);
    let check = whole(digest) as u16 & 0xFF
        | (digest.cpu as u16 & 0xF) << 8
        | (digest.ram as u16 & 0x3) << 12
        | (devices & 0x3) << 14;
    check.to_le_bytes()
}

/// The check of `digest` that tells its devices apart.
#[must_use]
pub fn named(digest: &Digest) -> Vec<u8> {
    let mut check = (whole(digest) as u32).to_le_bytes().to_vec();
    check.extend([digest.cpu as u8, digest.ram as u8]);
    for pair in digest.devices.chunks(2) {
        let nibble = |n: usize| pair.get(n).map_or(0, |(_, hash)| *hash as u8 & 0xF);
        check.push(nibble(0) | nibble(1) << 4);
    }
    check
}

/// Names the components of `digest` that differ from what `expected` was made of, as far as its
/// bits tell: in the order CPU, devices, RAM. `None`: no difference.
#[must_use]
pub fn difference(digest: &Digest, expected: &[u8]) -> Option<String> {
    let found = match expected.len() {
        2 => short(digest).to_vec(),
        WHOLE => whole(digest).to_le_bytes().to_vec(),
        _ => named(digest),
    };
    if found == expected {
        return None;
    }
    if found.len() == WHOLE {
        return Some(String::from("the state"));
    }
    if found.len() != expected.len() {
        return Some(String::from("the form of the check"));
    }
    let differing: Vec<u8> = found.iter().zip(expected).map(|(a, b)| a ^ b).collect();
    let names = match *differing {
        [_, components] => named_if([
            ("cpu", components & 0xF != 0),
            ("devices", components >> 6 != 0),
            ("ram", components >> 4 & 0x3 != 0),
        ]),
        _ => {
            let devices = digest.devices.iter().enumerate();
            let devices = devices.map(|(n, (name, _))| {
                (name.as_str(), differing[6 + n / 2] >> (n % 2 * 4) & 0xF != 0)
            });
            let cpu = ("cpu", differing[4] != 0);
            named_if([cpu].into_iter().chain(devices).chain([("ram", differing[5] != 0)]))
        }
    };
    Some(if names.is_empty() { String::from("the state") } else { names })
}

/// The names that hold, as a list.
fn named_if<'a>(names: impl IntoIterator<Item = (&'a str, bool)>) -> String {
    let names: Vec<_> =
        names.into_iter().filter(|(_, holds)| *holds).map(|(name, _)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        let devices = (0..5u32).map(|i| (format!("chip{i}"), u128::from(i) << 64)).collect();
        Digest { cpu: 0x1234, devices, ram: 0x5678 }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Digest), by_short: Option<&str>, by_named: Option<&str>) {
        let mut other = digest();
        change(&mut other);
        assert_eq!(difference(&other, &short(&digest())).as_deref(), by_short);
        assert_eq!(difference(&other, &named(&digest())).as_deref(), by_named);
    }

    #[test]
    fn names_what_differs() {
        let state = Some("the state");
        check(|_| {}, None, None);
        check(|d| d.cpu ^= 1, Some("cpu"), Some("cpu"));
        check(|d| d.cpu ^= 0x80, state, Some("cpu"));
        check(|d| d.ram ^= 2, Some("ram"), Some("ram"));
        check(|d| d.ram ^= 1 << 100, state, state);
        check(|d| d.devices[3].1 ^= 1, Some("devices"), Some("chip3"));
        check(|d| d.devices[4].1 ^= 8, state, Some("chip4"));
        check(|d| d.devices[2].1 ^= 1 << 127, state, state);
        check(|d| d.devices[2].0.push('x'), state, state);
        let everything = |d: &mut Digest| {
            d.cpu ^= 1;
            d.devices[2].1 ^= 1;
            d.ram ^= 1;
        };
        check(everything, Some("cpu, devices, ram"), Some("cpu, chip2, ram"));
    }

    #[test]
    fn the_whole_form_sees_everything() {
        let expected = whole(&digest()).to_le_bytes();
        assert_eq!(difference(&digest(), &expected), None);
        let mut other = digest();
        other.ram ^= 1 << 127;
        assert_eq!(difference(&other, &expected).as_deref(), Some("the state"));
    }

    #[test]
    fn checks_of_a_fast_guest_are_far_apart() {
        const MS: u64 = 1_000_000;
        let settled = |interval_ns: u64, took: u64| {
            let (mut spacing, mut icount, mut now) = (Spacing::new(0, 0), 0, 0);
            for _ in 0..20 {
                icount += spacing.steps() * DIGEST_INTERVAL;
                now += spacing.steps() * interval_ns + took;
                spacing.checked(icount, now - took, now);
            }
            spacing.steps()
        };
        assert_eq!(settled(25 * MS, MS / 10), 1, "an interpreter");
        assert_eq!(settled(5 * MS, MS / 4), 16, "a fast engine, a guest that writes much");
        assert_eq!(settled(5 * MS, MS / 400), 1, "a guest that writes nothing");
        assert_eq!(settled(0, 5 * MS), Spacing::MOST, "bounded");
        let mut spacing = Spacing::new(0, 0);
        spacing.checked(DIGEST_INTERVAL, 5 * MS, 1000 * MS);
        assert_eq!(spacing.steps(), 2, "one that took long does not count for much");
        spacing.checked(3 * DIGEST_INTERVAL, 1000 * MS, 1000 * MS);
        assert_eq!(spacing.steps(), 1, "no time at all");
    }

    #[test]
    fn no_devices_are_no_difference() {
        let none = Digest { cpu: 0, devices: vec![], ram: 0 };
        assert_eq!(difference(&none, &short(&none)), None);
        assert_eq!(difference(&none, &named(&none)), None);
    }

    #[test]
    fn a_check_of_another_form_differs() {
        for form in [&[][..], &[0], &[0; 3], &[0; 8], &[0; 10], &[0; 99]] {
            assert!(difference(&digest(), form).is_some(), "{form:?}");
        }
    }
}
