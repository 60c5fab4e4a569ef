//! Ring-0 behaviour of the CPU, case by case from the SDM.

mod delivery;
mod lab;
mod paging;
mod segments;
mod tasks;
mod transfers;
