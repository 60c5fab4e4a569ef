//! Inputs and outputs: the only ways into and out of the machine.
//!
//! Contract: every variant has a fixed ordinal on the wire and in logs (its position here); a new
//! one is added at the end and an ordinal is never reused.

use crate::time::Rate;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Something from outside that takes effect at an instruction boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// An Ethernet frame (without FCS) arrives at a network card.
    NetRx {
        /// Index of the card.
        nic: u8,
        /// Destination address first.
        frame: Vec<u8>,
    },
    /// Bytes arrive at a serial port.
    ConsoleRx {
        /// Index of the UART (0 is COM1).
        port: u8,
        /// In order of arrival.
        bytes: Vec<u8>,
    },
    /// Keyboard scan codes, set 2 as on the wire of the keyboard.
    Key(Vec<u8>),
    /// The mouse moved or a button changed.
    Pointer {
        /// Movement to the right, in counts.
        dx: i16,
        /// Movement upwards, in counts.
        dy: i16,
        /// Bit 0 left, 1 right, 2 middle.
        buttons: u8,
    },
    /// A disk request has completed.
    DiskDone {
        /// Index of the disk.
        disk: u8,
        /// The number from [`Output::Disk`].
        request: u64,
        /// The data of a read, or the failure.
        result: DiskResult,
    },
    /// Nanoseconds per instruction from here on.
    ClockRate(Rate),
    /// Seed for RDRAND and RDSEED.
    Entropy([u8; 32]),
    /// The front panel.
    Power(PowerInput),
    /// Wall-clock time at this instant, nanoseconds since 1970-01-01 UTC: sets the RTC. Sent once,
    /// at power-on.
    WallClock(u64),
}

/// How a disk request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskResult {
    /// Read data: exactly the requested sectors.
    Data(Vec<u8>),
    /// A write or flush is complete.
    Done,
    /// The medium failed: uncorrectable data error.
    Failed,
}

/// What somebody does at the front panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerInput {
    /// A short press of the power button (ACPI).
    Button,
    /// The reset button.
    Reset,
    /// The plug is pulled.
    Off,
}

/// Something that leaves the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// An Ethernet frame (without FCS) to send.
    NetTx {
        /// Index of the card.
        nic: u8,
        /// Destination address first.
        frame: Vec<u8>,
    },
    /// Bytes sent by a serial port.
    ConsoleTx {
        /// Index of the UART (0 is COM1).
        port: u8,
        /// In order.
        bytes: Vec<u8>,
    },
    /// A byte written to the debug console, port 0xE9.
    Debug(u8),
    /// A disk request; answered by [`Input::DiskDone`].
    Disk {
        /// Index of the disk.
        disk: u8,
        /// Number of the request, unique within the machine's life.
        request: u64,
        /// What to do.
        operation: DiskOperation,
    },
}

/// What a disk is asked to do. Positions and lengths are in 512-byte sectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskOperation {
    /// Read `sectors` sectors from `lba`.
    Read {
        /// First sector.
        lba: u64,
        /// How many.
        sectors: u32,
    },
    /// Write `data` (whole sectors) at `lba`.
    Write {
        /// First sector.
        lba: u64,
        /// Whole sectors.
        data: Vec<u8>,
    },
    /// All completed writes reach stable storage.
    Flush,
}
