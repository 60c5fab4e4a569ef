//! The LAN as a process: a learning switch for guests' cables and a gateway to the host's networks,
//! without root.
//!
//! Contract: guests attach with QEMU's stream framing. What arrives on a cable is data of a
//! stranger: nothing in it can make the process fail, and every table, queue and buffer has a
//! bound. [`switch`], [`gateway`], [`dhcp`] and [`flow`] are state machines without a clock or a
//! socket; [`server`] moves their bytes. Time is a [`std::time::Duration`] since the start.
#![forbid(unsafe_code)]

pub mod arp;
pub mod client;
pub mod config;
pub mod dhcp;
pub mod ethernet;
pub mod flow;
pub mod framing;
pub mod gateway;
pub mod packet;
pub mod server;
pub mod switch;
