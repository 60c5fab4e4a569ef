//! The JSON of `--stats`.

use crate::failure::Failure;
use drivers::check;
use drivers::outcome::Outcome;
use std::path::Path;

/// Writes what a run cost to `path`.
pub fn write(path: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let busy_us = (outcome.busy_ns / 1000).max(1) as f64;
    let devices: serde_json::Map<String, serde_json::Value> = outcome
        .digest
        .devices
        .iter()
        .map(|(name, value)| (name.clone(), format!("{value:032x}").into()))
        .collect();
    let json = serde_json::json!({
        "icount": outcome.icount.0,
        "guest_ns": outcome.guest.0,
        "host_ns": outcome.host_ns,
        "busy_ns": outcome.busy_ns,
        "mips": (outcome.icount.0 as f64 / busy_us * 1000.0).round() / 1000.0,
        "log_bytes": outcome.log_bytes,
        "log_entries": outcome.log_entries,
        "clock_error_ns": outcome.clock_error_ns,
        "rate_changes": outcome.rate_changes,
        "digest": format!("{:032x}", check::whole(&outcome.digest)),
        "components": {
            "cpu": format!("{:032x}", outcome.digest.cpu),
            "devices": devices,
            "ram": format!("{:032x}", outcome.digest.ram),
        },
        "exit": outcome.exit.name(),
    });
    let text = format!("{json:#}\n");
    std::fs::write(path, text).map_err(|e| Failure::Host(format!("{}: {e}", path.display())))
}
