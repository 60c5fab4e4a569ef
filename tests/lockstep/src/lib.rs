//! Lockstep: random guest code on two engines, compared after every slice.
//!
//! A *program* ([`program`]) is a few dozen chunks of random instructions ([`instruction`]) of a
//! mode and a privilege level: arithmetic, SSE, x87, loops, calls, jumps through tables, string
//! instructions, stores into the code itself, accesses that cross pages or fault. It runs on a bare
//! machine ([`guest`]) whose handlers go on with the next chunk after a fault, and at every fourth
//! tick of a timer. A *session* ([`session`]) runs programs on two machines with different engines:
//! in random slices, with caches dropped and engines switched at random places, and compares
//! registers and memory at random counts. Everything follows from the session's seed.

pub mod guest;
pub mod instruction;
pub mod program;
pub mod session;
