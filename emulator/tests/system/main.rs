//! Ring-0 behaviour of the CPU, case by case from the SDM.

// `drop` ends the arm of a `match` that only checks.
#![allow(clippy::drop_non_drop)]

mod debugging;
mod delivery;
mod invariants;
mod lab;
mod oracle;
mod paging;
mod pieces;
mod privilege;
mod segments;
mod selfmod;
mod tables;
mod tasks;
mod transfers;
