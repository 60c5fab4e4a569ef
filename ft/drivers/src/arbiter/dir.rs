//! The arbiter `dir:PATH`: a directory that both computers reach, on NFS for example.
//!
//! Each claim that won is a file `VM.EPOCH`, and the latest of a machine is its file with the
//! highest epoch. Files are never removed or changed by the program: an epoch is a failure that was
//! survived, so there are few.
//!
//! A claim of epoch e
//! 1. writes a file of another name with the claimant's identity, and makes it durable;
//! 2. reads the directory: a file of an epoch >= e decides (see [`judge`]);
//! 3. otherwise hard-links its file to `VM.e`, which fails if that exists: one winner, also on NFS;
//! 4. reads the directory again, whatever the link said (on NFS the link of a lost answer fails the
//!    second time), and lets the highest file decide: a higher one, or a file `VM.e` that names
//!    somebody else, means lost;
//! 5. makes the directory durable before it gives the verdict.
//!
//! Why claims of different epochs cannot go wrong: say A claims e and B claims e + 1. If B had won
//! before A linked, B's file was there when A read the directory in step 4, and A has lost, though
//! its file is there; nothing asks for it any more, since B's is higher. If A read the directory
//! before B linked, A linked before B: A won e, then B won e + 1, the order in which the register
//! took them. Since no file is ever removed, a directory that changes while it is being read shows
//! at least what was there when reading began. The link of step 3 (or the new file of step 1)
//! changes the directory, which makes an NFS client drop what it had cached of it;
//! [`Arbiter::latest`] has no such help and may lag by the client's attribute cache (a minute at
//! most); a claim never does.
//!
//! A file system that is not mounted looks like an empty directory. A file `ftemu-arbiter` with a
//! random number, made when the directory is first used, tells: a claim fails when it is not the
//! one of the start.

use super::{Arbiter, Claimed, Verdict, hex, judge, parse_decimal, parse_hex};
use crate::durable::sync_dir;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Names the directory.
const MARKER: &str = "ftemu-arbiter";
/// Longest file that is read; those written are about 100 bytes.
const MAX_FILE: u64 = 256;

/// A directory as arbiter.
#[derive(Debug)]
pub struct DirArbiter {
    path: PathBuf,
    /// Content of the marker when the directory was opened.
    marker: String,
}

impl DirArbiter {
    /// Uses the directory at `path`, which must be there: creating it would hide storage that is
    /// not mounted.
    ///
    /// # Errors
    /// It is no directory, or may not be written.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !fs::metadata(path).map_err(|e| at(path, e))?.is_dir() {
            return Err(at(path, io::ErrorKind::NotADirectory.into()));
        }
        let marker = path.join(MARKER);
        if !marker.exists() {
            let text = format!("ftemu-arbiter 1 {:016x}{:016x}\n", random(), random());
            let made = Temporary::create(path, "marker", &text)?;
            // Whoever else makes one now, the first stays.
            let _ = fs::hard_link(&made.path, &marker);
            sync(path)?;
        }
        let marker = read_short(&marker)?;
        Ok(Self { path: path.into(), marker })
    }

    /// As [`DirArbiter::open`], but makes the directory when it is missing: for one beside a local
    /// image.
    ///
    /// # Errors
    /// As [`DirArbiter::open`].
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path).map_err(|e| at(path, e))?;
        Self::open(path)
    }

    /// The file with the highest epoch of `vm`; drops files of claims that can no longer win on the
    /// way.
    fn highest(&self, vm: u128) -> io::Result<Option<Claimed>> {
        if read_short(&self.path.join(MARKER)).ok().as_ref() != Some(&self.marker) {
            let text = "is not the directory that it was: is the storage mounted?";
            return Err(at(&self.path, io::Error::other(text)));
        }
        let vm = hex(vm);
        let mut highest: Option<u64> = None;
        let mut begun = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| at(&self.path, e))? {
            let name = entry.map_err(|e| at(&self.path, e))?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(epoch) = epoch_of(name, &vm) {
                highest = highest.max(Some(epoch));
            } else if let Some(rest) = name.strip_prefix(".claim.")
                && let Some(epoch) = rest.get(..53).and_then(|claim| epoch_of(claim, &vm))
                && begun.len() < 64
            {
                begun.push((epoch, name.to_owned()));
            }
        }
        let Some(epoch) = highest else { return Ok(None) };
        for (_, name) in begun.iter().filter(|(e, _)| *e <= epoch) {
            // Left behind by a crash, or of a claim that is losing this moment: it needs the file
            // no more.
            let _ = fs::remove_file(self.path.join(name));
        }
        let path = self.path.join(file_name(&vm, epoch));
        let text = read_short(&path)?;
        let owner = text
            .strip_prefix("ftemu-claim 1 ")
            .and_then(|text| text.strip_suffix('\n'))
            .and_then(|text| text.strip_prefix(&*file_name(&vm, epoch)))
            .and_then(|text| text.strip_prefix(' '))
            .and_then(parse_hex)
            .ok_or_else(|| at(&path, io::Error::other("is damaged: it names no claimant")))?;
        Ok(Some(Claimed { epoch, owner }))
    }
}

impl Arbiter for DirArbiter {
    fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        let name = file_name(&hex(vm), epoch);
        let text = format!("ftemu-claim 1 {name} {}\n", hex(claimant));
        let claim = Temporary::create(&self.path, &format!("claim.{name}"), &text)?;
        if let Some(verdict) = judge(self.highest(vm)?, epoch, claimant) {
            sync(&self.path)?;
            return Ok(verdict);
        }
        let target = self.path.join(&name);
        let linked = fs::hard_link(&claim.path, &target);
        // What the directory holds decides, not what the link said.
        let verdict = judge(self.highest(vm)?, epoch, claimant);
        sync(&self.path)?;
        match (verdict, linked) {
            (Some(verdict), _) => Ok(verdict),
            (None, Err(e)) => Err(at(&target, e)),
            (None, Ok(())) => Err(at(&target, io::Error::other("was linked and is not there"))),
        }
    }

    fn latest(&mut self, vm: u128) -> io::Result<Option<Claimed>> {
        self.highest(vm)
    }
}

/// Names of files sort by epoch.
fn file_name(vm: &str, epoch: u64) -> String {
    format!("{vm}.{epoch:020}")
}

/// The epoch in the name of a file of `vm`.
fn epoch_of(name: &str, vm: &str) -> Option<u64> {
    let digits = name.strip_prefix(vm)?.strip_prefix('.')?;
    if digits.len() == 20 { parse_decimal(digits) } else { None }
}

/// A durable file of a name that nobody else uses; removed when dropped.
struct Temporary {
    path: PathBuf,
}

impl Temporary {
    fn create(dir: &Path, name: &str, text: &str) -> io::Result<Self> {
        let path = dir.join(format!(".{name}.{:016x}", random()));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut file = file.map_err(|e| at(&path, e))?;
        let made = Self { path };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|e| at(&made.path, e))?;
        Ok(made)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// From the host's generator, by way of the seeds of hash tables.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn read_short(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| at(path, e))?;
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|e| at(path, e))?;
    Ok(text)
}

fn sync(dir: &Path) -> io::Result<()> {
    sync_dir(dir).map_err(|e| at(dir, e))
}

fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("arbiter {}: {e}", path.display()))
}
