//! What is kept of a divergence: a directory for whoever has to find out why.
//!
//! Contract: `report.txt` says where and what, `machine.snapshot` is the machine as it stood,
//! `log.txt` the last entries that it took, in words. Nothing depends on it: what cannot be written
//! is told and left.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
    /// The machine.
    pub snapshot: &'a [u8],
    /// The last entries, in words.
    pub log: &'a [String],
}

impl Bundle<'_> {
    /// Writes the bundle below `directory`, and tells the user where it is.
    pub fn write(&self, directory: &Path) {
        match self.try_write(directory) {
            Ok(path) => log::error!("what there is to see is in {}", path.display()),
            Err(e) => log::error!("{}: no bundle: {e}", directory.display()),
        }
    }

    fn try_write(&self, directory: &Path) -> io::Result<PathBuf> {
        let process = std::process::id();
        let path = directory.join(format!("divergence-{}-{}-{process}", self.icount, self.side));
        fs::create_dir_all(&path)?;
        let mut report = String::new();
        let _ = writeln!(
            report,
            "side    {}\nicount  {}\ndiffers {}",
            self.side, self.icount, self.what
        );
        let _ = writeln!(report, "{}", self.details);
        fs::write(path.join("report.txt"), report)?;
        fs::write(path.join("log.txt"), self.log.join("\n") + "\n")?;
        fs::write(path.join("machine.snapshot"), self.snapshot)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_the_directory() {
        let place = tempfile::tempdir().expect("temporary directory");
        let log = ["seq 1".to_owned()];
        let (side, what, details) = ("backup", "cpu", "rax: 1 here, 2 there");
        let bundle = Bundle { side, icount: 7, what, details, snapshot: &[1, 2], log: &log };
        let path = bundle.try_write(place.path()).expect("written");
        let text = |name| fs::read_to_string(path.join(name)).expect("text");
        let report = text("report.txt");
        assert!(report.contains("icount  7\n") && report.contains("rax: 1 here"), "{report}");
        assert_eq!(text("log.txt"), "seq 1\n");
        assert_eq!(fs::read(path.join("machine.snapshot")).expect("read"), [1, 2]);
    }
}
