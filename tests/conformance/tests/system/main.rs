//! System-mode behaviour against the SDM: privileged instructions, protection, paging, gates,
//! tasks, debug exceptions and virtual-8086 mode, each case with the exception and error code that
//! the manual names.

mod bench;
mod control;
mod debug;
mod gates;
mod invariants;
mod paging;
mod protected;
mod segments;
mod v86;
