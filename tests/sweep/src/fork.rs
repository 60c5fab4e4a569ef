//! Copies of this process.
//!
//! Contract: the process has one thread.

use rustix::process::{Pid, WaitOptions, wait};

/// Which of the two the caller is.
pub enum Side {
    /// The copy.
    Child,
    /// The original, with the copy's number.
    Parent(i32),
}

/// Copies this process.
///
/// # Panics
/// If the host has no room for another process.
pub fn fork() -> Side {
    // SAFETY: this process has a single thread, so the child may use all that the parent could: no
    // lock is held by a thread that is not there.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        _ if pid < 0 => panic!("no room for another process"),
        Some(child) => Side::Parent(child.as_raw_nonzero().get()),
        None => Side::Child,
    }
}

/// Waits for one child to end; whether all was well with it.
///
/// # Panics
/// If there is no child.
pub fn wait_for_one() -> (i32, bool) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                return (pid.as_raw_nonzero().get(), status.exit_status() == Some(0));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("waiting for a copy of this process: {e}"),
        }
    }
}
