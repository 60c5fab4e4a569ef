//! One file per subcommand: flags to configuration to driver.

pub mod boot;
pub mod counter;
pub mod ctl;
pub mod demo;
pub mod files;
pub mod keygen;
pub mod lan;
pub mod pages;
mod profile;
mod protect;
pub mod replay;
pub mod stats;
pub mod witness;
