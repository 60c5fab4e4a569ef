//! Whole clusters under a seed, in one thread: replicas, arbiter, network, disks and clients,
//! through every fault.
//!
//! Contract: the same seed gives the same run. Faults strike for some seconds of simulated time;
//! then everything works, and the machine must be live, protected and answering within a bound,
//! unless nobody is left who may. The checkers stand outside the replicas.
#![forbid(unsafe_code)]

pub mod arbiter;
pub mod checker;
pub mod clients;
mod driver;
mod faults;
pub mod machine;
pub mod mistake;
pub mod network;
pub mod node;
pub mod rng;
mod run;
mod steps;
pub mod weather;
mod wire;
pub mod world;

pub use checker::Counts;
pub use mistake::Mistake;
pub use run::{FIXED, once, seeds_to_catch};
pub use world::{Failure, World};
