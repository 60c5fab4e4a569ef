//! The guest that is embedded in the program.

/// A disk image: boots, keeps a counter on its disk and serves it over TCP. Source:
/// disk-images/counter.
pub const IMAGE: &[u8] = include_bytes!("../../disk-images/counter/counter.img");
