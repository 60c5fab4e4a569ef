//! The board: RAM, buses and chips, and the vocabulary of inputs, outputs and time.
//!
//! Contract: a pure state machine. No clock, thread, file, socket, randomness or unsafe code. Time
//! enters as an argument ([`time::VirtualNs`]), the outside world as an [`io::Input`], and
//! everything that leaves is an [`io::Output`].
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod board;
pub mod fixed;
pub mod ide;
pub mod io;
pub mod net;
pub mod octets;
pub mod pc;
pub mod pci;
pub mod ram;
pub mod time;
