//! The BIOS: ROM image and services. Pure: no clock, file, thread or randomness.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
