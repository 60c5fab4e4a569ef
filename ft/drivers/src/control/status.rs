//! How a machine is, for people and programs.

use ft::replica::StatusRole;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write};

/// What a side of a pair does, in a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Waits for the arbiter's leave to start.
    Starting,
    /// Waits for a machine.
    Spare,
    /// A machine is being transferred to it.
    Joining,
    /// Follows the primary.
    Backup,
    /// Has lost the primary and is taking over.
    TakingOver,
    /// Its machine is live, without a backup.
    #[default]
    Solo,
    /// Its machine is live, and a backup is joining.
    SoloJoining,
    /// Its machine is live, with a backup.
    Primary,
    /// Its machine has lost its backup; outputs wait for the arbiter.
    Claiming,
    /// It has stopped.
    Stopped,
}

impl Role {
    /// The word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Spare => "spare",
            Self::Joining => "joining",
            Self::Backup => "backup",
            Self::TakingOver => "taking-over",
            Self::Solo => "solo",
            Self::SoloJoining => "solo-joining",
            Self::Primary => "primary",
            Self::Claiming => "claiming",
            Self::Stopped => "stopped",
        }
    }
}

impl From<StatusRole> for Role {
    fn from(role: StatusRole) -> Self {
        match role {
            StatusRole::Starting => Self::Starting,
            StatusRole::Spare => Self::Spare,
            StatusRole::Joining => Self::Joining,
            StatusRole::Backup => Self::Backup,
            StatusRole::TakingOver => Self::TakingOver,
            StatusRole::Solo => Self::Solo,
            StatusRole::SoloJoining => Self::SoloJoining,
            StatusRole::Primary => Self::Primary,
            StatusRole::Claiming => Self::Claiming,
            StatusRole::Stopped => Self::Stopped,
        }
    }
}

/// How far a joining is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joining {
    /// Bytes sent or received so far.
    pub done_bytes: u64,
    /// Bytes in all, as known now: it grows while the machine writes.
    pub total_bytes: u64,
}

impl Joining {
    /// In percent, never more than 100.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let done = u128::from(self.done_bytes) * 100;
        done.checked_div(u128::from(self.total_bytes))
            .map_or(100, |percent| percent.min(100) as u64)
    }
}

/// How a machine is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// What this side does.
    pub role: Role,
    /// The epoch: how often the machine has changed its sides.
    pub epoch: u64,
    /// Retired instructions.
    pub icount: u64,
    /// The guest's time since power-on, nanoseconds.
    pub guest_ns: u64,
    /// How far the backup's execution is behind, nanoseconds.
    pub lag_ns: u64,
    /// How long the machine has stood still in its life here because the backup was too far behind,
    /// or buffers were full; nanoseconds.
    pub slowed_ns: u64,
    /// Entries of the log in this machine's life: made on a primary, received on a backup.
    pub log_entries: u64,
    /// Bytes of the log sent to, or received from, the other side.
    pub log_bytes: u64,
    /// Of late, per second.
    pub log_bytes_per_s: u64,
    /// From sending entries to their acknowledgement, microseconds.
    pub ack_latency_us: u64,
    /// Outputs that wait for an acknowledgement.
    pub held_outputs: u64,
    /// The address of the other side, while it is connected.
    pub peer: Option<String>,
    /// Whether the machine would survive the death of this computer now.
    pub protected: bool,
    /// Who decides which side goes live, as `dir:/path`.
    pub arbiter: Option<String>,
    /// While a backup is joining.
    pub joining: Option<Joining>,
    /// Whether the user has stopped the machine.
    pub paused: bool,
}

impl Status {
    /// One line for a terminal.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("{}, epoch {}", self.role.name(), self.epoch);
        let mut add = |text: fmt::Arguments| {
            line.write_fmt(text).expect("writing to a string");
        };
        if self.paused {
            add(format_args!(", paused"));
        }
        add(format_args!(", {}", if self.protected { "protected" } else { "NOT protected" }));
        if let Some(joining) = &self.joining {
            add(format_args!(", joining {} %", joining.percent()));
        }
        add(format_args!(", icount {}", count(self.icount)));
        if self.role == Role::Primary {
            let rate = count(self.log_bytes_per_s);
            add(format_args!(", lag {}ms, log {rate}B/s", self.lag_ns / 1_000_000));
            add(format_args!(", ack {}us", self.ack_latency_us));
        }
        if self.held_outputs > 0 {
            add(format_args!(", {} held", self.held_outputs));
        }
        line
    }
}

/// A number in three digits or so.
fn count(number: u64) -> String {
    let units = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")];
    match units.into_iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) if number < 10 * unit => {
            format!("{}.{}{name}", number / unit, number % unit * 10 / unit)
        }
        Some((unit, name)) => format!("{}{name}", number / unit),
        None => number.to_string(),
    }
}

impl fmt::Display for Status {
    /// For people, one value a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let none = "none".to_string();
        writeln!(f, "role          {}", self.role.name())?;
        writeln!(f, "protected     {}", yes(self.protected))?;
        writeln!(f, "epoch         {}", self.epoch)?;
        writeln!(f, "icount        {}", self.icount)?;
        let (seconds, rest) = (self.guest_ns / 1_000_000_000, self.guest_ns % 1_000_000_000);
        writeln!(f, "guest time    {seconds}.{:03} s", rest / 1_000_000)?;
        writeln!(f, "peer          {}", self.peer.as_ref().unwrap_or(&none))?;
        writeln!(f, "arbiter       {}", self.arbiter.as_ref().unwrap_or(&none))?;
        writeln!(
            f,
            "lag           {}.{:03} ms",
            self.lag_ns / 1_000_000,
            self.lag_ns / 1000 % 1000
        )?;
        if self.slowed_ns > 0 {
            writeln!(f, "slowed for    {} ms by the backup", self.slowed_ns / 1_000_000)?;
        }
        writeln!(
            f,
            "log           {} entries, {} bytes, {} per second",
            self.log_entries, self.log_bytes, self.log_bytes_per_s
        )?;
        writeln!(f, "ack latency   {} us", self.ack_latency_us)?;
        writeln!(f, "held outputs  {}", self.held_outputs)?;
        if let Some(joining) = &self.joining {
            let Joining { done_bytes, total_bytes } = joining;
            writeln!(
                f,
                "joining       {} %: {done_bytes} of {total_bytes} bytes",
                joining.percent()
            )?;
        }
        write!(f, "paused        {}", yes(self.paused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_first_what_matters() {
        let mut status = Status { epoch: 3, icount: 1_234_567_890, ..Status::default() };
        assert_eq!(status.line(), "solo, epoch 3, NOT protected, icount 1.2G");
        status = Status {
            role: Role::Primary,
            protected: true,
            peer: Some("192.0.2.1:7000".into()),
            lag_ns: 12_000_000,
            log_bytes_per_s: 45_678,
            ack_latency_us: 95,
            held_outputs: 2,
            ..status
        };
        let line =
            "primary, epoch 3, protected, icount 1.2G, lag 12ms, log 45kB/s, ack 95us, 2 held";
        assert_eq!(status.line(), line);
        status.joining = Some(Joining { done_bytes: 1, total_bytes: 3 });
        assert!(status.line().contains(", joining 33 %,"));
        assert!(!status.to_string().contains("slowed"));
        status.slowed_ns = 1_234_567_890;
        assert!(status.to_string().contains("slowed for    1234 ms by the backup\n"));
    }

    #[test]
    fn numbers_are_short() {
        let cases = [(0, "0"), (999, "999"), (1000, "1.0k"), (9_999, "9.9k"), (10_000, "10k")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!(count(u64::MAX), "18446744T");
        assert_eq!(Joining { done_bytes: u64::MAX, total_bytes: 1 }.percent(), 100);
    }

    #[test]
    fn a_role_is_one_word_everywhere() {
        for role in [Role::TakingOver, Role::SoloJoining, Role::Primary] {
            let json = serde_json::to_string(&role).expect("JSON");
            assert_eq!(json, format!("\"{}\"", role.name()));
        }
    }
}
