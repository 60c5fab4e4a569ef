//! The command `ftemu`: flags to configuration to driver; no decisions are made here.

fn main() {}
