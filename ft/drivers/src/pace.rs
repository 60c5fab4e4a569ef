//! Pacing: keeps the guest's clock with the host's.
//!
//! Contract: host times are nanoseconds since the start of the run and never go back. The guest's
//! clock follows [`Pace::target`]: the host's clock, but after a pause of the whole process the
//! guest catches up over time instead of jumping. A guest that is ahead waits ([`Pace::rest`]),
//! which costs nothing in a log; [`Pace::adjust`] asks for a new rate when it has to wait for long,
//! or is behind. Both leave it some way to either side, so that steady work needs two changes a
//! second, and work whose speed changes all the time has some thirty, instead of waiting.

use devices::time::{Rate, VirtualNs};

/// How far ahead the guest is kept, whether it runs or is halted: when the host takes the processor
/// away it falls behind at once, and a halted guest that was further ahead than it may be would
/// have to wait for its timers.
const LEAD: f64 = 8e6;
/// A guest that is further behind than its lead by this needs a faster clock, one further ahead a
/// slower one.
const TOLERATED: f64 = 15e6;
/// A guest that is this far ahead of the host waits,
const AHEAD: f64 = 30e6;
/// until it is this far ahead.
const RESTED: f64 = 26e6;
/// A small error is made good over this time, a larger one faster.
const HORIZON: f64 = 600e6;
/// An error that is made good twice as fast.
const LARGE: f64 = 20e6;
/// No more often than this, except when the guest falls further behind.
const PATIENCE: u64 = 300_000_000;
/// Two changes are this far apart, as long as the guest is less than [`URGENT`] behind.
const SPACING: u64 = 100_000_000;
/// The speed estimate needs this long to see a change.
const SETTLING: u64 = 2_000_000;
/// A guest so far behind that it comes near the 50 ms.
const URGENT: f64 = 25e6;
/// An error that has grown by this much is not left to patience.
const GROWN: f64 = 4e6;
/// A guest is this far behind before a rate that is far off is changed.
const EARLY: f64 = 8e6;
/// Speeds are averages over about this much processor time,
const LONG_MEMORY: f64 = 600e6;
/// over this much where the two differ by more than [`UNSTEADY`],
const MEMORY: f64 = 80e6;
/// or over this much where they differ by more than [`STEEP`].
const SHORT_MEMORY: f64 = 1e6;
/// A relative change of speed that is not chance.
const UNSTEADY: f64 = 0.12;
/// A relative change of speed that the guest's work has brought.
const STEEP: f64 = 0.25;
/// A rate so far above the guest's speed that it would mostly wait.
const WASTEFUL: f64 = 2.0;
/// Work of many kinds in turn, as a boot is, may have a new rate before it has to wait for long
/// instead: so many times,
const CREDIT: f64 = 40.0;
/// and so many more with each second.
const CREDITS_A_SECOND: f64 = 30.0;
/// Two of those changes are this far apart,
const QUICK: u64 = 8_000_000;
/// or this far where the rate is above the guest's speed by more than [`WASTEFUL`].
const AT_ONCE: u64 = 1_000_000;
/// A guest whose rate became slower because it was ahead, no longer ago than [`QUICK`], may be
/// ahead by this much more before it waits.
const GRACE: f64 = 8e6;
/// A step of the host's clock longer than this, in which the guest was not waiting, is a pause of
/// the process.
const PAUSE: u64 = 200_000_000;
/// What the guest has missed in pauses is made good at this speed relative to the host's clock.
const CATCH_UP: f64 = 0.5;
/// A guest that has come from another host follows this one's wall clock at this speed relative to
/// it.
const SLEW: f64 = 0.05;
/// Rates are multiples of 1/256 ns per instruction: they take three bytes of a log.
pub const STEP: u64 = 1 << 24;
/// First guess: a rate that an interpreter reaches.
const FIRST: f64 = 8.0;

/// An average that forgets: sums of times and instructions.
#[derive(Clone, Copy, Debug)]
struct Average {
    memory: f64,
    instructions: f64,
    wall: f64,
    cpu: f64,
}

impl Average {
    fn new(memory: f64) -> Self {
        Self { memory, instructions: memory / FIRST, wall: memory, cpu: memory }
    }

    fn add(&mut self, instructions: f64, wall: f64, cpu: f64) {
        let kept = (-cpu / self.memory).exp();
        self.instructions = self.instructions * kept + instructions;
        self.wall = self.wall * kept + wall;
        self.cpu = self.cpu * kept + cpu;
    }

    /// Nanoseconds of processor time per instruction.
    fn cost(&self) -> f64 {
        self.cpu / self.instructions.max(1.0)
    }

    /// Host time per processor time.
    fn share(&self) -> f64 {
        self.wall / self.cpu
    }
}

/// The controller.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Host time of the last [`Pace::target`] or [`Pace::waited`].
    last: u64,
    /// What the guest has missed in pauses and not made good yet.
    missed: f64,
    /// How far the guest is behind the wall clock of a host that it has come to, and has not made
    /// good yet.
    behind: f64,
    /// What it has made good of that.
    made_good: f64,
    /// How far ahead it is kept now: [`LEAD`], once that was made good.
    lead: f64,
    steady: Average,
    long: Average,
    short: Average,
    rate: Rate,
    changed: u64,
    error_then: f64,
    worst: f64,
    /// Changes that may come quickly.
    credit: f64,
    /// Host time up to which they were given.
    credited: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// A controller at host time 0, guest time 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            last: 0,
            missed: 0.0,
            behind: 0.0,
            made_good: 0.0,
            lead: 0.0,
            steady: Average::new(LONG_MEMORY),
            long: Average::new(MEMORY),
            short: Average::new(SHORT_MEMORY),
            rate: quantized(FIRST),
            changed: 0,
            error_then: 0.0,
            worst: 0.0,
            credit: CREDIT,
            credited: 0,
        }
    }

    /// A controller for a guest that goes on here: at host time and guest time `now`, with its
    /// clock at `rate`. It is `behind` ns behind the host's wall clock, or ahead if this is
    /// negative, which is made good slowly.
    #[must_use]
    pub fn resumed(now: u64, rate: Rate, behind: f64) -> Self {
        Self { last: now, rate, changed: now, credited: now, behind, ..Self::new() }
    }

    /// The rate to begin with, and in force.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Nanoseconds of processor time that an instruction takes of late.
    #[must_use]
    pub fn cost(&self) -> f64 {
        let (steady, long, short) = (self.steady.cost(), self.long.cost(), self.short.cost());
        if (short / long - 1.0).abs() > STEEP {
            short
        } else if (long / steady - 1.0).abs() > UNSTEADY {
            long
        } else {
            steady
        }
    }

    /// Host time per processor time of late.
    fn share(&self) -> f64 {
        let (steady, long) = (self.steady.share(), self.long.share());
        let share = if (long / steady - 1.0).abs() > UNSTEADY { long } else { steady };
        share.min(20.0)
    }

    /// The largest difference between target and guest seen by [`Pace::adjust`] while the guest
    /// ran, in nanoseconds.
    #[must_use]
    pub fn worst(&self) -> u64 {
        self.worst as u64
    }

    /// The guest time that belongs to host time `host`.
    pub fn target(&mut self, host: u64) -> u64 {
        let step = host.saturating_sub(self.last);
        self.last = self.last.max(host);
        if step > PAUSE {
            self.missed += step as f64;
        } else {
            self.missed = (self.missed - step as f64 * CATCH_UP).max(0.0);
            self.slew(step);
        }
        let kept = self.last.saturating_sub(self.missed as u64);
        kept.saturating_add_signed(self.made_good as i64)
    }

    /// The guest time up to which a halted guest may go at host time `host`.
    pub fn halted(&mut self, host: u64) -> u64 {
        self.target(host) + self.lead as u64
    }

    /// Makes good a part of the distance to the wall clock in a step of the host's clock.
    fn slew(&mut self, step: u64) {
        self.lead = (self.lead + step as f64 * CATCH_UP).min(LEAD);
        let most = step as f64 * SLEW;
        let part = self.behind.clamp(-most, most);
        self.behind -= part;
        self.made_good += part;
    }

    /// The process waited on purpose until `host`: that was no pause. Call before [`Pace::target`].
    pub fn waited(&mut self, host: u64) {
        let step = host.saturating_sub(self.last);
        self.last = self.last.max(host);
        self.missed = (self.missed - step as f64 * CATCH_UP).max(0.0);
        self.slew(step);
    }

    /// The guest has executed `instructions` in `wall` host nanoseconds, in `cpu` of which it had a
    /// processor.
    pub fn ran(&mut self, instructions: u64, wall: u64, cpu: u64) {
        let (instructions, wall, cpu) = (instructions as f64, wall as f64, cpu as f64);
        if instructions > 0.0 && cpu > 0.0 {
            self.steady.add(instructions, wall.max(cpu), cpu);
            self.long.add(instructions, wall.max(cpu), cpu);
            self.short.add(instructions, wall.max(cpu), cpu);
        }
    }

    /// How long a guest at `guest` that should be at `target` has to wait, if it is too far ahead.
    #[must_use]
    pub fn rest(&self, target: u64, guest: u64) -> Option<u64> {
        let ahead = guest.saturating_sub(target);
        let slowed = self.error_then < 0.0 && self.last - self.changed < QUICK;
        let most = if slowed { AHEAD + GRACE } else { AHEAD };
        (ahead as f64 > most).then(|| ahead - RESTED as u64)
    }

    /// The rate to change to, if the guest at `guest` should be at `target`.
    pub fn adjust(&mut self, target: u64, guest: u64) -> Option<Rate> {
        // Positive: the guest is behind.
        let error = target as f64 - guest as f64;
        if error.abs() > self.worst && self.last > VirtualNs::SECOND {
            self.worst = error.abs();
        }
        let error = error + self.lead;
        // The processor's speed of late, and how much of the time we have it in the longer run.
        let cost = self.cost() * self.share();
        let ratio = self.rate.0 as f64 / (1u64 << 32) as f64 / cost;
        let since = self.last - self.changed;
        let new = (self.last - self.credited) as f64 / 1e9 * CREDITS_A_SECOND;
        (self.credit, self.credited) = ((self.credit + new).min(CREDIT), self.last);
        let due = if error > 0.0 {
            let worse = error > self.error_then + GROWN;
            let off = ratio < 1.0 - STEEP && error > EARLY;
            let spacing = if error < URGENT { SPACING } else { SETTLING };
            let patient = error > TOLERATED && since >= PATIENCE;
            let stuck = error > URGENT && error > 0.8 * self.error_then && since >= SPACING;
            patient || stuck || ((worse || off) && error > EARLY && since >= spacing)
        } else {
            let spacing = if ratio < WASTEFUL { PATIENCE } else { SPACING };
            let waits = error < -TOLERATED;
            let apart = if ratio > WASTEFUL { AT_ONCE } else { QUICK };
            let quick = waits && ratio > 1.0 + STEEP && since >= apart && self.credit >= 1.0;
            if quick && since < spacing {
                self.credit -= 1.0;
            }
            quick || (waits && since >= spacing)
        };
        if !due && !self.is_slow(since) {
            return None;
        }
        let slope = (error - self.error_then) / since.max(1) as f64;
        let seen = if error > EARLY && since >= SPACING {
            // What the guest has in fact achieved since the last change.
            self.rate.0 as f64 / (1u64 << 32) as f64 / (1.0 - slope).max(0.1)
        } else {
            0.0
        };
        let cost = cost.max(seen);
        self.changed = self.last;
        self.error_then = error;
        let correction = error / HORIZON * (1.0 + error.abs() / LARGE);
        let rate = quantized(cost * (1.0 + correction).clamp(0.25, 4.0));
        if rate == self.rate {
            return None;
        }
        self.rate = rate;
        Some(rate)
    }

    /// Whether the guest is faster than its clock allows for, by all that is known: one that is
    /// halted again and again is never so far ahead that it waits, but each time it has to wait for
    /// its timers.
    fn is_slow(&self, since: u64) -> bool {
        let cost = self.steady.cost().max(self.long.cost()).max(self.short.cost());
        let rate = self.rate.0 as f64 / (1u64 << 32) as f64;
        since >= PATIENCE && rate > cost * self.share() * (1.0 + STEEP)
    }
}

fn quantized(ns: f64) -> Rate {
    let steps = (ns * 256.0).round().max(1.0) as u64;
    Rate(steps.saturating_mul(STEP)).clamped()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Runs a guest that is always busy; `cost(host)` is the processor's ns per instruction,
    /// `away(host)` the time in ns for which the processor is taken away after a slice. Returns the
    /// largest error after the first second, the number of rate changes and the time waited.
    fn busy(
        seconds: u64,
        cost: impl Fn(u64) -> f64,
        mut away: impl FnMut(u64) -> u64,
    ) -> (u64, u32, u64) {
        let mut pace = Pace::new();
        let (mut host, mut guest, mut changes, mut worst) = (0u64, 0f64, 0, 0f64);
        let mut waited = 0;
        let (mut rate, mut looked, mut looked_guest) = (pace.rate(), 0, 0f64);
        while host < seconds * 1000 * MS {
            let instructions = (60e3 / pace.cost()).max(100.0);
            let cpu = (instructions * cost(host)) as u64;
            let wall = cpu + away(host);
            host += wall;
            guest += instructions * rate.0 as f64 / (1u64 << 32) as f64;
            pace.ran(instructions as u64, wall, cpu);
            let target = pace.target(host);
            if host > 1000 * MS {
                worst = worst.max((target as f64 - guest).abs());
            }
            if host - looked >= MS || guest - looked_guest >= 4e6 {
                (looked, looked_guest) = (host, guest);
                if let Some(new) = pace.adjust(target, guest as u64) {
                    rate = new;
                    changes += 1;
                }
                if let Some(ns) = pace.rest(target, guest as u64) {
                    host += ns;
                    waited += ns;
                    pace.waited(host);
                }
            }
        }
        (worst as u64, changes, waited)
    }

    #[test]
    fn a_steady_host_needs_few_changes() {
        for cost in [1.3, 5.0, 8.0, 40.0] {
            let (worst, changes, _) = busy(60, |_| cost, |_| 0);
            assert!(worst < 36 * MS, "{cost}: {worst} ns");
            assert!(changes < 150, "{cost}: {changes} changes in a minute, worst {worst}");
        }
    }

    #[test]
    fn a_noisy_host_needs_a_few_a_second() {
        let mut slices = crate::slices::Slices::new(1);
        let noise: Vec<f64> =
            (0..4096).map(|_| 0.8 + (slices.number() % 1000) as f64 / 2000.0).collect();
        let cost = |host: u64| 7.0 * noise[(host / (7 * MS) % 4096) as usize];
        let (worst, changes, _) = busy(60, cost, |_| 0);
        assert!(worst < 36 * MS, "{worst} ns");
        assert!(changes < 300, "{changes} changes in a minute");
    }

    #[test]
    fn a_sudden_change_of_speed_stays_within_bounds() {
        for (a, b) in [(2.0, 20.0), (20.0, 2.0), (3.0, 60.0)] {
            let phase = |host: u64| if (host / (1500 * MS)).is_multiple_of(2) { a } else { b };
            let (worst, changes, _) = busy(30, phase, |_| 0);
            assert!(worst < 45 * MS, "{a} {b}: {worst} ns, {changes} changes");
            assert!(changes < 600, "{changes} changes, worst {worst}");
        }
    }

    #[test]
    fn a_short_work_that_is_faster_hardly_waits() {
        let phase = |host: u64| if host % (900 * MS) < 880 * MS { 28.0 } else { 0.45 };
        let (worst, changes, waited) = busy(45, phase, |_| 0);
        assert!(worst < 45 * MS, "{worst} ns");
        assert!(changes < 600, "{changes} changes");
        assert!(waited < 50 * 2 * MS, "{waited} ns in 50 times 20 ms");
    }

    #[test]
    fn work_whose_speed_changes_all_the_time_hardly_waits() {
        // As a compiler's: some milliseconds at one speed, some at another.
        let (mut slices, mut now) = (crate::slices::Slices::new(7), 1.0);
        let costs: Vec<f64> = (0..4096)
            .map(|_| {
                if slices.number().is_multiple_of(4) {
                    now = 0.6 * 1.6f64.powi((slices.number() % 5) as i32);
                }
                now
            })
            .collect();
        let (worst, changes, waited) =
            busy(60, |host| costs[(host / (5 * MS) % 4096) as usize], |_| 0);
        assert!(worst < 45 * MS, "{worst} ns");
        assert!(waited < 600 * MS, "{waited} ns of a minute");
        assert!(changes < 1800, "{changes} changes");
    }

    #[test]
    fn a_shared_host_takes_the_processor_away() {
        for (every, length) in [(6 * MS, 6 * MS), (3 * MS, 9 * MS), (40 * MS, 15 * MS)] {
            let mut next = every;
            let away = |host: u64| {
                if host < next {
                    return 0;
                }
                next = host + length + every;
                length
            };
            let (worst, changes, _) = busy(60, |_| 6.0, away);
            assert!(worst < 45 * MS, "{every} {length}: {worst} ns, {changes} changes");
            assert!(changes < 600, "{every} {length}: {changes} changes");
        }
    }

    #[test]
    fn an_overloaded_host_and_a_guest_that_changes_speed() {
        for (b, every, length) in [(1.5, 4, 36), (30.0, 4, 36), (130.0, 4, 12), (130.0, 4, 36)] {
            let mut next = every * MS;
            let away = |host: u64| {
                if host < next {
                    return 0;
                }
                next = host + (length + every) * MS;
                length * MS
            };
            let phase = |host: u64| if (host / (900 * MS)).is_multiple_of(2) { 1.5 } else { b };
            let (worst, changes, _) = busy(60, phase, away);
            assert!(worst < 90 * MS, "{b} {every} {length}: {worst} ns");
            // Of 9 bytes each: 8 kB of a log.
            assert!(changes < 900, "{b} {every} {length}: {changes} changes");
        }
    }

    #[test]
    fn a_pause_is_made_good_without_a_jump() {
        let mut pace = Pace::new();
        for host in 0..1000 {
            assert_eq!(pace.target(host * MS), host * MS);
        }
        let before = pace.target(1000 * MS);
        let after = pace.target(4000 * MS);
        assert!(after - before < MS, "the pause itself is not seen");
        let mut last = after;
        for host in 4001..11_000 {
            let target = pace.target(host * MS);
            assert!(target - last <= 3 * MS / 2 + 1);
            last = target;
        }
        assert_eq!(last, 10_999 * MS, "all is made good");
    }

    #[test]
    fn another_hosts_clock_is_approached_slowly() {
        for behind in [300.0, -300.0] {
            let (mut pace, start) = (Pace::resumed(9000 * MS, Rate::ONE, behind * 1e6), 9000);
            let mut last = pace.target(start * MS);
            assert_eq!(last, start * MS, "no jump");
            for ms in start + 1..start + 10_000 {
                let target = pace.target(ms * MS);
                let step = target.checked_sub(last).expect("never back");
                assert!(step.abs_diff(MS) <= MS / 20 + 2, "{step} ns in a millisecond");
                last = target;
            }
            let made_good = last as f64 / MS as f64 - (start + 9999) as f64;
            assert!((made_good - behind).abs() < 0.01, "{made_good} of {behind}");
        }
    }

    #[test]
    fn a_halted_guest_has_its_lead_without_a_jump() {
        for mut pace in [Pace::new(), Pace::resumed(0, Rate::ONE, 0.0)] {
            let mut last = pace.halted(0);
            assert_eq!(last, 0);
            for step in 1..1000 {
                let guest = pace.halted(step * MS / 10);
                assert!((1..=3 * MS / 20).contains(&(guest - last)), "{guest} after {last}");
                last = guest;
            }
            assert_eq!(last, 999 * MS / 10 + LEAD as u64);
        }
    }

    #[test]
    fn a_guest_that_is_halted_again_and_again_has_the_clock_of_its_speed() {
        // Its work takes 1.2 ms of the host each time, and 3 ms later there is more of it.
        let (mut pace, mut guest, mut host, mut changes) = (Pace::new(), 0f64, 0, 0);
        let (cost, mut rate) = (0.75, 1.8);
        pace.rate = quantized(rate);
        while host < 5000 * MS {
            let instructions = 1.2e6 / cost;
            host += 1_200_000;
            guest += instructions * rate;
            pace.ran(instructions as u64, 1_200_000, 1_200_000);
            let target = pace.target(host);
            if let Some(new) = pace.adjust(target, guest as u64) {
                rate = new.0 as f64 / (1u64 << 32) as f64;
                changes += 1;
            }
            host += 3_000_000.max(pace.rest(target, guest as u64).unwrap_or(0));
            guest = guest.max(pace.halted(host) as f64);
        }
        assert!(rate < cost * (1.0 + STEEP) * 1.01, "{rate} ns per instruction");
        assert!(changes < 20, "{changes} changes in 5 s");
    }

    #[test]
    fn waiting_is_no_pause() {
        let mut pace = Pace::new();
        pace.waited(5000 * MS);
        assert_eq!(pace.target(5000 * MS), 5000 * MS);
    }
}
