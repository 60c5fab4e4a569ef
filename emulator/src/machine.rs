//! The machine: CPU, RAM and board, driven by instruction counts and inputs.
//!
//! Contract: the same configuration and the same list of (icount, time, Input) give the same state at every count,
//! however `run` is sliced.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use devices::board::{Board, BoardConfig};
use devices::io::{Input, Output};
use devices::ram::Ram;
use devices::time::{Icount, VirtualNs};
use firmware::DirectBoot;
use serde::{Deserialize, Serialize};

/// Everything that fixes the machine besides its inputs. Part of every log and snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// RAM in bytes: whole MiB.
    pub ram_bytes: u64,
    /// Disks, network cards and serial ports.
    pub board: BoardConfig,
    /// A kernel to boot instead of a disk.
    pub direct_boot: Option<DirectBoot>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

/// Why [`Machine::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The instruction count asked for is reached.
    Reached,
    /// Outputs wait in [`Machine::poll_output`].
    Output,
    /// The CPU is halted; the next timer is due at this time (`None`: only an input can wake it). Go on with
    /// [`Machine::idle_to`] or [`Machine::inject`].
    Halted(Option<VirtualNs>),
    /// The guest was reset (the machine has begun anew; `run` goes on if called).
    Reset,
    /// The guest powered itself off.
    PowerOff,
    /// The guest wrote this value to isa-debug-exit.
    DebugExit(u32),
}

/// A hash of the whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// CPU registers and clock.
    pub cpu: u128,
    /// Devices, by name.
    pub devices: Vec<(String, u128)>,
    /// Sum over the hashes of all RAM pages.
    pub ram: u128,
}

/// A whole PC.
pub struct Machine {
    icount: Icount,
    board: Board,
    ram: Ram,
}

impl Machine {
    /// A machine just powered on.
    ///
    /// # Errors
    /// A configuration that cannot be built, with the reason.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut ram = Ram::new(config.ram_bytes, &firmware::rom());
        let mut board = Board::new(&config.board, &mut ram);
        firmware::power_on(&mut ram, &mut board, config.direct_boot.as_ref())
            .map_err(|error| ConfigError(error.to_string()))?;
        Ok(Self { icount: Icount(0), board, ram })
    }

    /// Retired instructions.
    pub fn icount(&self) -> Icount {
        self.icount
    }

    /// Virtual time.
    pub fn now(&self) -> VirtualNs {
        VirtualNs(self.icount.0)
    }

    /// Executes until `until` at the latest.
    pub fn run(&mut self, until: Icount) -> Stop {
        self.icount = until;
        Stop::Reached
    }

    /// While the CPU is halted, lets time pass to `to` (or to the first timer that wakes the CPU, if earlier);
    /// otherwise does nothing.
    pub fn idle_to(&mut self, _to: VirtualNs) {}

    /// Applies `input` at [`Machine::icount`] and [`Machine::now`].
    pub fn inject(&mut self, input: Input) {
        let now = self.now();
        self.board.input(&mut self.ram, now, input);
    }

    /// Takes the oldest output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.board.poll_output()
    }

    /// Hash of the whole state. Cost: the pages written since the last call.
    pub fn digest(&mut self) -> Digest {
        Digest { cpu: 0, devices: Vec::new(), ram: 0 }
    }

    /// The whole state as bytes (zero pages left out).
    pub fn save(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// The machine that [`Machine::save`] described.
    ///
    /// # Errors
    /// Bytes that are not such a state; they never panic.
    pub fn load(_state: &[u8]) -> Result<Self, ConfigError> {
        Err(ConfigError(String::from("not a snapshot")))
    }
}
