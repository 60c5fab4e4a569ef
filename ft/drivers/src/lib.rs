//! Drivers: live, record and replay. They feed events to the pure core and carry out its actions.
//!
//! Contract: everything that reaches the guest does so as an `Input` through
//! [`record::Recorder::inject`] or from a log; the drivers decide when, never what.
#![forbid(unsafe_code)]

pub mod announce;
pub mod arbiter;
pub mod backup;
pub mod black_box;
pub mod bundle;
pub mod channel;
pub mod check;
pub mod control;
pub mod copy;
pub mod durable;
pub mod follow;
pub mod guest;
pub mod handover;
pub mod held;
pub mod host;
pub mod live;
pub mod lockstep;
pub mod mirror;
pub mod outcome;
pub mod pace;
pub mod pair;
pub mod recent;
pub mod record;
pub mod replay;
pub mod session;
pub mod sidecar;
pub mod slices;
pub mod start_check;
pub mod transfer;
pub mod wire;
