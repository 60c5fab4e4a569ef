//! The replication protocol and its log: knows instruction counts, inputs and outputs as opaque
//! bytes, no CPU, no clock.
//!
//! Contract: sans-IO and pure. Bytes from outside give typed errors, never a panic, and are bounded
//! before they are held.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod event;
pub mod join;
pub mod log;
pub mod message;
pub mod replica;
pub mod types;

pub use event::{Action, Event};
pub use message::Message;
pub use replica::{Config, Replica, Start};
