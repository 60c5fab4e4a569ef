//! What happened, for people and for programs.

use super::cluster::Status;
use std::fmt;

/// One death of the live side.
#[derive(Clone, Debug)]
pub struct Failover {
    /// From 1.
    pub number: u32,
    /// The epoch after it.
    pub epoch: u64,
    /// What the live side said of itself last.
    pub before: Status,
    /// Longest time without an answer around it, in ms.
    pub gap_ms: f64,
}

/// What happened.
#[derive(Clone, Debug)]
pub struct Report {
    /// In order.
    pub rows: Vec<Failover>,
    /// Answers that the client got.
    pub increments: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Numbers that came again.
    pub repeated: u64,
    /// How long all of it took.
    pub seconds: f64,
}

impl Report {
    /// Whether the client saw every number once.
    pub fn is_right(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.increments > 0
    }

    /// One object.
    pub fn json(&self) -> serde_json::Value {
        let gaps: Vec<f64> = self.rows.iter().map(|row| rounded(row.gap_ms)).collect();
        let rows = self.rows.iter().map(|row| {
            serde_json::json!({
                "epoch": row.epoch,
                "icount": row.before.icount,
                "log_entries": row.before.log_entries,
                "log_bytes": row.before.log_bytes,
                "gap_ms": rounded(row.gap_ms),
            })
        });
        let rows: Vec<_> = rows.collect();
        serde_json::json!({
            "failovers": self.rows.len(),
            "increments": self.increments,
            "lost": self.lost,
            "repeated": self.repeated,
            "gap_ms": gaps,
            "seconds": rounded(self.seconds),
            "kills": rows,
        })
    }
}

/// To a tenth.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "kill  at instruction  log entries  log bytes  new epoch   gap")?;
        for Failover { number, epoch, before, gap_ms } in &self.rows {
            let Status { icount, log_entries, log_bytes, .. } = before;
            writeln!(
                f,
                "{number:4}  {icount:14}  {log_entries:11}  {log_bytes:9}  {epoch:9}  {gap_ms:4.0} ms"
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{} increments over one TCP connection: {} lost, {} repeated; {:.1} s in all",
            self.increments, self.lost, self.repeated, self.seconds
        )
    }
}
