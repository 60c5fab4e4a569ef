//! Ring-0 behaviour of the CPU, case by case from the SDM.

mod debugging;
mod delivery;
mod invariants;
mod lab;
mod oracle;
mod paging;
mod privilege;
mod segments;
mod selfmod;
mod tasks;
mod transfers;
