//! The host ends of devices: disk files, network endpoints, consoles. They move bytes and hold no
//! decisions.
//!
//! Contract: whatever may block (files, sockets, terminals) does so on a thread of its own and
//! posts to a [`wake::mailbox`]; the thread that runs the machine never waits for the host except
//! in [`wake::Bell::wait`].
#![deny(unsafe_code)]

pub mod clock;
pub mod console;
pub mod disk;
pub mod net;
pub mod signal;
pub mod socket;
pub mod threads;
pub mod wake;
