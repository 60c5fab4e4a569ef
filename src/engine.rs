//! Which engine executes the guest's instructions.
//!
//! Contract: the engine is no part of the machine: not of its configuration, its log or its
//! snapshots. A log that was recorded with one engine replays with the other.

use crate::cli::Engine;
use crate::failure::Failure;
use drivers::guest::Guest;
use drivers::lockstep::Lockstep;
use emulator::machine::Machine;
use jit::Jit;

/// The engine when none is named, on a host that has it.
pub const DEFAULT: Engine = Engine::Jit;

const MISSING: &str = "this computer cannot run the JIT";

/// What runs on this host for the engine that the user names.
///
/// # Errors
/// `both`, on a host that has only one.
pub fn choose(named: Option<Engine>) -> Result<Engine, Failure> {
    let wanted = named.unwrap_or(DEFAULT);
    if wanted == Engine::Interpreter || Jit::new().is_some() {
        return Ok(wanted);
    }
    if wanted == Engine::Both {
        return Err(Failure::Host(format!("{MISSING}: there is nothing to compare")));
    }
    if named.is_some() {
        log::warn!("{MISSING}: the interpreter runs instead");
    }
    Ok(Engine::Interpreter)
}

/// Gives a machine the JIT.
fn accelerate(machine: &mut Machine) {
    match Jit::new() {
        Some(jit) => drop(machine.set_accelerator(Some(Box::new(jit)))),
        None => log::warn!("no room for the JIT's code: the interpreter runs instead"),
    }
}

impl Engine {
    /// Gives a machine this engine. Under `both` it is the one that runs the interpreter.
    pub fn prepare(self, machine: &mut Machine) {
        if self == Self::Jit {
            accelerate(machine);
        }
    }

    /// A machine with this engine, as a driver runs it.
    ///
    /// # Errors
    /// No second machine can be made.
    pub fn guest(self, mut machine: Machine) -> Result<Box<dyn Guest>, Failure> {
        self.prepare(&mut machine);
        if self != Self::Both {
            return Ok(Box::new(machine));
        }
        let both = Lockstep::new(machine, Box::new(accelerate));
        Ok(Box::new(both.map_err(|e| Failure::Host(e.0))?))
    }
}

/// Fails if the engines of `guest` differ.
///
/// # Errors
/// With what differs.
pub fn verdict(guest: &dyn Guest) -> Result<(), Failure> {
    match guest.failure() {
        Some(text) => Err(Failure::Engines(text.into())),
        None => Ok(()),
    }
}
