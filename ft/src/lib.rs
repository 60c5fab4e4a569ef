//! The replication protocol and its log: knows instruction counts, inputs and outputs as opaque bytes, no CPU, no clock.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
