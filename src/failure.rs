//! Why a command failed: one line for the user, and the exit status that goes with it.

use std::fmt;
use std::path::Path;

/// A failed command.
#[derive(Debug)]
pub enum Failure {
    /// Flags that do not go together.
    Usage(String),
    /// A file or an address that cannot be used.
    Input(String),
    /// A replay that differs from its record.
    Diverged(String),
    /// Two engines that differ.
    Engines(String),
    /// The host failed on the way.
    Host(String),
}

impl Failure {
    /// The file at `path` cannot be used: `what` says why.
    pub fn file(path: &Path, what: impl fmt::Display) -> Self {
        Self::Input(format!("{}: {what}", path.display()))
    }

    /// The exit status; the help lists them.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Input(_) => 3,
            Self::Diverged(_) => 4,
            Self::Engines(_) => 10,
            Self::Host(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Input(text)
            | Self::Diverged(text)
            | Self::Engines(text)
            | Self::Host(text) => f.write_str(text),
        }
    }
}
