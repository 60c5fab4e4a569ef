//! The JSON of `--profile`: where the guest's instructions and the engine's time went.

use crate::cli::{BootFlags, Engine};
use crate::failure::Failure;
use crate::symbols::Symbols;
use drivers::guest::Guest;
use drivers::outcome::Outcome;
use emulator::accelerator::{BlockCount, Statistics};
use emulator::machine::Machine;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Blocks and symbols that are listed: the hottest ones.
const LISTED: usize = 200;
/// Bytes of a block that are shown.
const BYTES: usize = 16;

/// A profile that is to be written.
pub struct Profile<'a> {
    path: &'a Path,
    symbols: Symbols,
}

impl<'a> Profile<'a> {
    /// The profile that the flags ask for, of a machine that is about to run.
    ///
    /// # Errors
    /// Flags that do not go together, or symbols that cannot be read.
    pub fn begin(
        flags: &'a BootFlags,
        engine: Engine,
        guest: &mut dyn Guest,
    ) -> Result<Option<Self>, Failure> {
        let Some(path) = &flags.profile else { return Ok(None) };
        let symbols = flags.symbols.as_deref().map(Symbols::read).transpose()?.unwrap_or_default();
        let machine = guest.machine().filter(|_| engine == Engine::Jit);
        let Some(jit) = machine.and_then(Machine::accelerator) else {
            return Err(Failure::Usage("--profile is of the JIT: it needs --engine jit".into()));
        };
        jit.count_blocks(true);
        Ok(Some(Self { path, symbols }))
    }

    /// Writes what the machine's engine has counted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, guest: &mut dyn Guest, outcome: &Outcome) -> Result<(), Failure> {
        let Some(machine) = guest.machine() else { return Ok(()) };
        let Some(jit) = machine.accelerator() else { return Ok(()) };
        let (statistics, mut blocks) = (jit.statistics(), jit.block_counts());
        blocks.sort_by_key(|block| (std::cmp::Reverse(instructions(block)), block.rip));
        let json = self.json(machine, &statistics, &blocks, outcome);
        let text = format!("{json:#}\n");
        std::fs::write(self.path, text)
            .map_err(|e| Failure::Host(format!("{}: {e}", self.path.display())))
    }

    fn json(
        &self,
        machine: &Machine,
        statistics: &Statistics,
        blocks: &[BlockCount],
        outcome: &Outcome,
    ) -> Value {
        let counted: u64 = blocks.iter().map(instructions).sum();
        let share = |part: u64, all: u64| (part as f64 / all.max(1) as f64 * 1e6).round() / 1e6;
        let listed: Vec<Value> = blocks
            .iter()
            .take(LISTED)
            .map(|block| {
                json!({
                    "address": format!("{:#x}", block.rip),
                    "symbol": self.symbols.find(block.rip).map(|(n, at)| format!("{n}+{at:#x}")),
                    "mode": block.bits,
                    "executed": block.executed,
                    "instructions": block.instructions,
                    "share": share(instructions(block), counted),
                    "bytes": first_bytes(machine, block),
                })
            })
            .collect();
        let exits: serde_json::Map<String, Value> = statistics
            .exits
            .iter()
            .map(|(name, count)| ((*name).into(), (*count).into()))
            .collect();
        json!({
            "icount": outcome.icount.0,
            "host_ns": outcome.host_ns,
            "busy_ns": outcome.busy_ns,
            "translated": {
                "blocks": statistics.blocks,
                "instructions": statistics.instructions,
                "guest_bytes": statistics.guest_bytes,
                "host_bytes": statistics.host_bytes,
                "ns": statistics.translating_ns,
                "share_of_busy_time": share(statistics.translating_ns, outcome.busy_ns),
            },
            "evicted": {
                "overwritten_blocks": statistics.dropped,
                "flushes": statistics.flushes,
                "host_bytes": statistics.evicted_bytes,
            },
            "entries": statistics.entries,
            "exits": exits,
            "counted_instructions": counted,
            "interpreted_instructions": outcome.icount.0.saturating_sub(counted),
            "blocks": listed,
            "symbols": self.hottest(blocks, counted),
        })
    }

    /// Symbols by the instructions executed in them.
    fn hottest(&self, blocks: &[BlockCount], counted: u64) -> Vec<Value> {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for block in blocks {
            if let Some((name, _)) = self.symbols.find(block.rip) {
                *sums.entry(name).or_default() += instructions(block);
            }
        }
        let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
        sums.sort_by_key(|&(name, sum)| (std::cmp::Reverse(sum), name));
        let entry = |&(name, sum): &(&str, u64)| {
            let share = (sum as f64 / counted.max(1) as f64 * 1e6).round() / 1e6;
            json!({ "name": name, "instructions": sum, "share": share })
        };
        sums.iter().take(LISTED).map(entry).collect()
    }
}

/// Instructions executed in a block.
fn instructions(block: &BlockCount) -> u64 {
    block.executed.saturating_mul(block.instructions.into()).saturating_sub(block.skipped)
}

/// The first bytes of a block as they are now.
fn first_bytes(machine: &Machine, block: &BlockCount) -> String {
    let ram = machine.core().ram.bytes();
    let bytes = ram.get(block.place..).unwrap_or_default();
    bytes.iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}
