//! The control socket: what the user may ask of a running machine.
//!
//! Contract: one JSON object per line in and out over a Unix socket that only its owner can open
//! (mode 0600). Requests are posted to the driver with a handle for the reply; the driver decides.
//! What changes the machine becomes a log entry there, so that both sides of a pair do it at the
//! same instruction.
//!
//! ```text
//! {"request":"status"}                              {"status":{"role":"primary",…}}
//! {"request":"sendkey","keys":"ctrl-alt-delete"}    {"done":{}}
//! {"request":"promote"}                             {"error":"this side is the primary already"}
//! ```

pub mod ask;
pub mod keys;
pub mod server;
pub mod status;
pub mod status_line;

pub use ask::ask;
pub use keys::Keys;
pub use server::{ControlRequest, Respond, Server};
pub use status::{Joining, Role, Status};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Longest line, bytes.
pub const LINE_MAX: usize = 64 * 1024;

/// What may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How the machine is: answered by [`Reply::Status`].
    Status {},
    /// Backup: go live; the user says that the primary is dead.
    Promote {},
    /// Primary: go on without the backup.
    Detach {},
    /// Press the power button.
    Powerdown {},
    /// Press the reset button.
    Reset {},
    /// Stop executing until `Resume`.
    Pause {},
    /// Go on executing.
    Resume {},
    /// Write the machine's state to a file.
    Snapshot {
        /// An absolute path: the machine's process has a working directory of its own.
        file: PathBuf,
    },
    /// Press and release keys.
    Sendkey {
        /// Which.
        keys: Keys,
    },
}

impl Request {
    /// How long an answer may take.
    #[must_use]
    pub fn patience(&self) -> Duration {
        match self {
            Self::Snapshot { .. } => Duration::from_secs(120),
            _ => Duration::from_secs(10),
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It is done, or on its way.
    Done {},
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// It is not done: one line for the user.
    Error(String),
}

impl Reply {
    /// A reply that says why something is not done.
    #[must_use]
    pub fn error(why: impl Into<String>) -> Self {
        Self::Error(why.into())
    }
}
