//! A run: bad weather, then fair weather and the demand for progress.
//!
//! Contract: one seed decides all of it.

use crate::checker::Counts;
use crate::mistake::Mistake;
use crate::rng::Rng;
use crate::weather::{MS, Weather};
use crate::world::{Failure, World};
use ft::Config;
use ft::types::ReplicaId;

/// Seeds that failed once, and must never again.
pub const FIXED: &[u64] = &[106, 440, 466, 805, 3835, 4062, 4837];

/// Longest time from fair weather to a protected machine that answers.
const PATIENCE: u64 = 20_000 * MS;

fn config(rng: &mut Rng) -> Config {
    let mut config = Config::new(ReplicaId(0));
    config.timeout = rng.pick(&[120, 350, 350, 1000]) * MS;
    config.heartbeat = rng.pick(&[6, 20, 50, 50]) * MS;
    config.joining_timeout = rng.pick(&[500, 2000, 5000]) * MS;
    config.buffer_bytes = rng.pick(&[150, 2000, 64 << 20, 64 << 20]);
    config.lag_max = rng.pick(&[20, 100, 100]) * MS;
    config.flush = rng.pick(&[2, 10, 40]) * MS;
    config
}

/// Runs a seed.
///
/// # Errors
/// A checker saw a violation, or there was no progress in fair weather.
pub fn once(seed: u64, mistake: Option<Mistake>, trace: bool) -> Result<Counts, Failure> {
    let mut rng = Rng::new(seed);
    let weather = Weather::of(&mut rng);
    let config = config(&mut rng);
    if trace {
        println!("{weather:#?}\n{config:#?}");
    }
    let until = weather.until;
    let mut world = World::new(rng.next(), weather, config, mistake);
    world.trace = trace;
    world.begin_faults();
    world.run_until(until);
    world.note(0, || "== the weather clears".into());
    world.clear();
    let mut lost = 0;
    while world.checker.violation().is_none() && world.now < until + PATIENCE {
        world.run_until(world.now + 250 * MS);
        if world.is_well() {
            return finish(&world);
        }
        // A claim that was on its way when its process died may be granted after the next one has
        // looked: users try again, as the messages say.
        world.users_look();
        lost = if world.can_go_on() { 0 } else { lost + 1 };
        if lost == 4 {
            world.checker.counts.stuck += u64::from(!world.has_ended());
            return finish(&world);
        }
    }
    world.checker.violated("no progress in fair weather".into());
    finish(&world)
}

fn finish(world: &World) -> Result<Counts, Failure> {
    match world.checker.violation() {
        Some(what) => Err(Failure { at: world.now, what: what.into() }),
        None => Ok(world.counts()),
    }
}

/// How many seeds, from 0, it takes until a mistake is seen, and what was seen; `None`: `most` are
/// not enough.
#[must_use]
pub fn seeds_to_catch(mistake: Mistake, most: u64) -> Option<(u64, String)> {
    (0..most).find_map(|seed| match std::panic::catch_unwind(|| once(seed, Some(mistake), false)) {
        Ok(Ok(_)) => None,
        Ok(Err(failure)) => Some((seed + 1, failure.what)),
        Err(_) => Some((seed + 1, "a panic".into())),
    })
}

impl World {
    /// Whether the machine is live, protected, and answers what it is asked in fair weather.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let answers = self.clients.iter().all(|client| client.request > client.before_clear + 2);
        answers && (self.is_protected() || self.has_ended())
    }
}
