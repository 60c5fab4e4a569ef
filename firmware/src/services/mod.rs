//! The BIOS services, one file per interrupt or device.

pub mod boot;
pub mod clock;
pub mod disk;
pub mod drive;
pub mod keyboard;
mod keymap;
pub mod memory_map;
pub mod mouse;
pub mod pci_bios;
pub mod printer;
pub mod serial;
pub mod system;
pub mod transfer;
pub mod video;
