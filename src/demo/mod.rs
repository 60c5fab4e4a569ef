//! The parts of `ftemu demo`.

pub mod cluster;
pub mod report;
