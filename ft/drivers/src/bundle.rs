//! What is kept of a divergence: a directory for whoever has to find out why.
//!
//! Contract: `report.txt` says where and what, `machine.snapshot` is the machine as it stood,
//! `machine.log` is a log that begins with the last good state and leads to the difference, for
//! `ftemu replay`, and `log.txt` the same in words. Nothing depends on it: what cannot be written
//! is told and left.

use crate::recent::{Compared, Recent};
use crate::session::Session;
use emulator::machine::Machine;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// The log in a bundle.
pub const LOG: &str = "machine.log";

/// Where bundles go, and what their logs say of the machine.
#[derive(Clone, Debug)]
pub struct Bundles {
    /// Above them.
    pub directory: PathBuf,
    /// The program.
    pub build: String,
    /// The machine, its disks as [`crate::session::DiskSource::Log`].
    pub session: Session,
}

/// A divergence, from one side.
pub struct Bundle<'a> {
    /// `primary` or `backup`.
    pub side: &'a str,
    /// Where it was noticed.
    pub icount: u64,
    /// What differs.
    pub what: &'a str,
    /// More words.
    pub details: &'a str,
    /// How the machine came there.
    pub recent: Option<&'a Recent>,
    /// States that a replay is to be compared with.
    pub states: &'a [Compared<'a>],
}

impl Bundle<'_> {
    /// Writes the bundle of `machine`, and tells the user where it is.
    pub fn write(&self, machine: &mut Machine, to: &Bundles) {
        match self.try_write(machine, to) {
            Ok(path) => log::error!(
                "what there is to see is in {path}; 'ftemu replay {path}' executes up to there",
                path = path.display()
            ),
            Err(e) => log::error!("{}: no bundle: {e}", to.directory.display()),
        }
    }

    fn try_write(&self, machine: &mut Machine, to: &Bundles) -> io::Result<PathBuf> {
        let process = std::process::id();
        let name = format!("divergence-{}-{}-{process}", self.icount, self.side);
        let path = to.directory.join(name);
        fs::create_dir_all(&path)?;
        let mut report = String::new();
        let _ = writeln!(
            report,
            "side    {}\nicount  {}\ndiffers {}",
            self.side, self.icount, self.what
        );
        let _ = writeln!(report, "{}", self.details);
        let _ = match self.log(machine, to, &path.join(LOG))? {
            Some(from) => writeln!(report, "{LOG} begins at icount {from}"),
            None => writeln!(report, "no state before the difference was kept: no {LOG}"),
        };
        fs::write(path.join("report.txt"), report)?;
        let words = self.recent.map(|recent| recent.words(self.icount));
        fs::write(path.join("log.txt"), words.unwrap_or_default())?;
        fs::write(path.join("machine.snapshot"), machine.save())?;
        Ok(path)
    }

    /// Writes the log; where it begins.
    fn log(&self, machine: &Machine, to: &Bundles, path: &Path) -> io::Result<Option<u64>> {
        let Some(recent) = self.recent else { return Ok(None) };
        let mut out = BufWriter::new(File::create(path)?);
        let of = (&to.build[..], &to.session);
        let from = recent.write(machine, self.icount, of, self.states, &mut out)?;
        if from.is_none() {
            fs::remove_file(path)?;
        }
        Ok(from)
    }
}
