//! Executing towards the next entry of a log, of a file or of a primary.
//!
//! Contract: the guest executes exactly what it executed when the log was made, however the way to
//! an entry is cut. A guest that cannot get there has taken another way, and the text says how that
//! was noticed.

use crate::guest::Guest;
use crate::outcome::Exit;
use devices::io::Output;
use devices::time::{Icount, VirtualNs};
use emulator::machine::Stop;
use ft::log::Instant;

/// How far a guest has followed.
#[derive(Debug, Default)]
pub struct Follower {
    ended: Option<Exit>,
}

/// Takes outputs, with the guest's time.
pub type Outlet<'a> = &'a mut dyn FnMut(Output, VirtualNs);

impl Follower {
    /// How the guest has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Exit> {
        self.ended
    }

    /// Executes towards `at`: `most` instructions at most, or lets some time pass. Whether it is
    /// there.
    ///
    /// # Errors
    /// What differs from the way that leads to `at`.
    pub fn advance<G: Guest>(
        &mut self,
        guest: &mut G,
        at: Instant,
        most: u64,
        outlet: Outlet,
    ) -> Result<bool, String> {
        if guest.icount().0 < at.icount {
            self.execute(guest, at, most, outlet)?;
        } else if let Some(ns) = at.halted_ns
            && guest.now().0 < ns
        {
            pass_time(guest, at, ns, outlet)?;
        }
        let early = at.halted_ns.is_some_and(|ns| guest.now().0 < ns);
        if guest.icount().0 < at.icount || early {
            return Ok(false);
        }
        let late = at.halted_ns.is_some_and(|ns| guest.now().0 > ns);
        if guest.icount().0 > at.icount || late {
            return Err("time, before the next entry of the log".into());
        }
        Ok(true)
    }

    fn execute<G: Guest>(
        &mut self,
        guest: &mut G,
        at: Instant,
        most: u64,
        outlet: Outlet,
    ) -> Result<(), String> {
        if self.ended.is_some() {
            return Err("the guest has ended, and in the record it goes on".into());
        }
        let from = (guest.icount(), guest.now());
        let until = at.icount.min(from.0.0.saturating_add(most));
        let stop = guest.run(Icount(until));
        drain(guest, outlet);
        match stop {
            Stop::Reached | Stop::Output | Stop::Reset => {}
            Stop::PowerOff => self.ended = Some(Exit::PowerOff),
            Stop::DebugExit(value) => self.ended = Some(Exit::DebugExit(value)),
            Stop::Halted(deadline) if guest.icount().0 < at.icount => {
                if let Some(deadline) = deadline {
                    guest.idle_to(deadline);
                    drain(guest, outlet);
                }
                if (guest.icount(), guest.now()) == from {
                    return Err("the CPU is halted for ever, and in the record it goes on".into());
                }
            }
            Stop::Halted(_) => {}
        }
        Ok(())
    }
}

/// Lets a halted guest's time pass towards `ns`.
fn pass_time<G: Guest>(guest: &mut G, at: Instant, ns: u64, outlet: Outlet) -> Result<(), String> {
    // Timers that are due fire here, as they did between two waits of the live run; no instruction
    // does.
    if let Stop::PowerOff | Stop::DebugExit(_) = guest.run(Icount(at.icount)) {
        return Err("the guest ended, and in the record it goes on".into());
    }
    drain(guest, outlet);
    let before = guest.now();
    guest.idle_to(VirtualNs(ns));
    drain(guest, outlet);
    match guest.now() == before {
        true => Err(format!("the CPU is not halted until {ns} ns, as it was recorded")),
        false => Ok(()),
    }
}

/// Takes what waits in the guest.
pub fn drain<G: Guest>(guest: &mut G, outlet: Outlet) {
    while let Some(output) = guest.poll_output() {
        let now = guest.now();
        outlet(output, now);
    }
}
