//! Threads that have little to do and for which somebody waits.
//!
//! Contract: a preference is a wish; without the right to it nothing changes.

/// Nice value of such threads (`setpriority(2)`).
const NICE: i32 = -10;

/// Has the host prefer the calling thread to those that compute, if it lets us: beside a machine on
/// each processor it would wait 100 µs and more for its turn.
pub fn be_preferred() {
    let _ = rustix::process::setpriority_process(None, NICE);
}
