//! The witness's registers and the file that keeps them.
//!
//! The file begins with `ftemu-witness-state 1`; each further line is `VM EPOCH OWNER CRC`, a claim
//! that won, CRC the CRC-32 of the line before it as 8 hexadecimal digits. The last line of a
//! machine counts. A line is appended and made durable before the claim is answered. Only one line
//! at a time is not yet durable, so a crash can spoil the last line and no other: a last line that
//! is cut or does not check is dropped, since its claim was never answered; anything else that is
//! wrong is damage, and the witness does not start. Each start, and each time that it has grown
//! long, the file is written anew beside itself and renamed.
//!
//! Contract: [`State::claim`] gives a verdict only when the record behind it is durable.

use crate::arbiter::{Claimed, Verdict, hex, judge, parse_decimal, parse_hex};
use crate::durable;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Most machines.
pub(super) const MAX_VMS: usize = 1 << 16;
/// Lines beyond one for each machine before the file is written anew.
const SLACK: usize = 10_000;
const HEADER: &str = "ftemu-witness-state 1";
/// Longest file: what [`MAX_VMS`] and [`SLACK`] need is 9 MB.
const MAX_FILE: u64 = 64 << 20;

/// Why a witness cannot start, or cannot go on.
#[derive(Debug)]
pub enum WitnessError {
    /// Another process keeps this state.
    InUse,
    /// The file is not what a witness wrote; the number is that of the line.
    Damaged(usize),
    /// The host says so.
    Io(io::Error),
}

impl std::fmt::Display for WitnessError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse => f.write_str("is in use by another witness"),
            Self::Damaged(line) => write!(
                f,
                "is damaged in line {line}: who has won which epoch is not known any more. \
                 Restore the file, or move it away when no machine that used it is running"
            ),
            Self::Io(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for WitnessError {}

impl From<io::Error> for WitnessError {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The registers.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    file: File,
    /// Bytes of the file that are durable.
    len: u64,
    lines: usize,
    latest: BTreeMap<u128, Claimed>,
    /// The file's end could not be made durable or taken back: what it holds is unknown.
    broken: bool,
    _lock: File,
}

impl State {
    /// Opens or creates the state at `path` and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, WitnessError> {
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(lock)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WitnessError::InUse),
            Err(TryLockError::Error(e)) => return Err(e.into()),
        }
        let latest = match File::open(path) {
            Ok(file) => load(file)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(e.into()),
        };
        let (file, len) = rewrite(path, &latest)?;
        let lines = latest.len();
        Ok(Self { path: path.into(), file, len, lines, latest, broken: false, _lock: lock })
    }

    pub(super) fn latest(&self, vm: u128) -> Option<Claimed> {
        self.latest.get(&vm).copied()
    }

    /// Whether nothing can be recorded any more before a new start.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn claim(&mut self, vm: u128, epoch: u64, claimant: u128) -> io::Result<Verdict> {
        if self.broken {
            return Err(io::Error::other("the state cannot be kept"));
        }
        let latest = self.latest(vm);
        if let Some(verdict) = judge(latest, epoch, claimant) {
            return Ok(verdict);
        }
        if latest.is_none() && self.latest.len() >= MAX_VMS {
            return Err(io::Error::other("the witness has no room for another machine"));
        }
        if self.lines > self.latest.len() + SLACK {
            (self.file, self.len) = rewrite(&self.path, &self.latest)?;
            self.lines = self.latest.len();
        }
        let claimed = Claimed { epoch, owner: claimant };
        self.append(&line(vm, claimed))?;
        self.latest.insert(vm, claimed);
        Ok(Verdict::Won)
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        if let Err(e) = self.file.write_all(line.as_bytes()) {
            // A full disk: take back what was written of it.
            let back = self.file.set_len(self.len).and_then(|()| self.file.sync_all());
            self.broken = back.is_err();
            return Err(e);
        }
        // After a failure the host may take the lost data for written, so nothing can be said until
        // a new start.
        self.file.sync_data().inspect_err(|_| self.broken = true)?;
        self.len += line.len() as u64;
        self.lines += 1;
        Ok(())
    }
}

fn line(vm: u128, claimed: Claimed) -> String {
    let text = format!("{} {} {}", hex(vm), claimed.epoch, hex(claimed.owner));
    format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()))
}

fn parse_line(line: &str) -> Option<(u128, Claimed)> {
    let (text, crc) = line.rsplit_once(' ')?;
    if crc != format!("{:08x}", crc32fast::hash(text.as_bytes())) {
        return None;
    }
    let words: Vec<&str> = text.splitn(4, ' ').collect();
    let [vm, epoch, owner] = words[..] else { return None };
    let claimed = Claimed { epoch: parse_decimal(epoch)?, owner: parse_hex(owner)? };
    Some((parse_hex(vm)?, claimed))
}

fn load(file: File) -> Result<BTreeMap<u128, Claimed>, WitnessError> {
    let mut reader = BufReader::new(file.take(MAX_FILE));
    let mut latest = BTreeMap::new();
    let (mut bytes, mut number) = (Vec::new(), 0);
    let mut bad = None;
    loop {
        bytes.clear();
        if reader.by_ref().take(1024).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        number += 1;
        // Only the last line may be spoilt.
        if let Some(bad) = bad {
            return Err(WitnessError::Damaged(bad));
        }
        let line = bytes.strip_suffix(b"\n").and_then(|line| str::from_utf8(line).ok());
        if number == 1 {
            if line != Some(HEADER) {
                return Err(WitnessError::Damaged(1));
            }
            continue;
        }
        let Some((vm, claimed)) = line.and_then(parse_line) else {
            bad = Some(number);
            continue;
        };
        let before = latest.insert(vm, claimed);
        if before.is_some_and(|before: Claimed| before.epoch >= claimed.epoch)
            || latest.len() > MAX_VMS
        {
            return Err(WitnessError::Damaged(number));
        }
    }
    if number == 0 || reader.into_inner().limit() == 0 {
        // It is renamed to its place when it has its header.
        return Err(WitnessError::Damaged(1));
    }
    Ok(latest)
}

/// Writes the file anew; gives it open at its end, and its length.
fn rewrite(path: &Path, latest: &BTreeMap<u128, Claimed>) -> io::Result<(File, u64)> {
    let mut text = format!("{HEADER}\n");
    text.extend(latest.iter().map(|(vm, claimed)| line(*vm, *claimed)));
    durable::replace(path, text.as_bytes())?;
    Ok((OpenOptions::new().append(true).open(path)?, text.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn claimed(epoch: u64, owner: u128) -> Claimed {
        Claimed { epoch, owner }
    }

    /// A file after three claims, its bytes, and where each line ends.
    fn three() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("state");
        let mut state = State::open(&path).expect("new");
        for (vm, epoch, owner) in [(1, 1, 10), (2, 7, 11), (1, 2, 12)] {
            assert_eq!(state.claim(vm, epoch, owner).expect("kept"), Verdict::Won);
        }
        let bytes = fs::read(&path).expect("read");
        (dir, path, bytes)
    }

    #[test]
    fn a_crash_at_any_byte_of_an_append_loses_what_was_not_answered_and_nothing_else() {
        let (_dir, path, bytes) = three();
        let lines: Vec<usize> =
            (0..bytes.len()).filter(|i| bytes[*i] == b'\n').map(|i| i + 1).collect();
        for cut in lines[0]..=bytes.len() {
            fs::write(&path, &bytes[..cut]).expect("write");
            let state = State::open(&path).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
            let whole = lines.iter().filter(|end| **end <= cut).count() - 1;
            let expected: &[_] = match whole {
                0 => &[None, None],
                1 => &[Some(claimed(1, 10)), None],
                2 => &[Some(claimed(1, 10)), Some(claimed(7, 11))],
                _ => &[Some(claimed(2, 12)), Some(claimed(7, 11))],
            };
            assert_eq!([state.latest(1), state.latest(2)], expected, "cut at {cut}");
        }
        // A last line whose sectors were written in part.
        let mut torn = bytes.clone();
        torn[lines[2] + 5..].fill(0);
        fs::write(&path, &torn).expect("write");
        assert_eq!(State::open(&path).expect("torn").latest(1), Some(claimed(1, 10)));
    }

    #[test]
    fn damage_before_the_last_line_stops_it() {
        let (_dir, path, bytes) = three();
        let last =
            bytes.len() - 1 - bytes.iter().rev().skip(1).position(|b| *b == b'\n').expect("lines");
        for at in 0..last - 1 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("write");
            assert!(matches!(State::open(&path), Err(WitnessError::Damaged(_))), "byte {at}");
        }
        for bad in [&b""[..], b"\n", b"another file\n", &[b'x'; 10_000]] {
            fs::write(&path, bad).expect("write");
            assert!(matches!(State::open(&path), Err(WitnessError::Damaged(_))));
        }
        // A register that went back.
        let mut back = bytes.clone();
        back.extend(line(1, claimed(1, 10)).bytes());
        fs::write(&path, back).expect("write");
        assert!(matches!(State::open(&path), Err(WitnessError::Damaged(5))));
    }

    #[test]
    fn one_witness_keeps_a_state() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("state");
        let first = State::open(&path).expect("new");
        assert!(matches!(State::open(&path), Err(WitnessError::InUse)));
        drop(first);
        State::open(&path).expect("free again");
        assert!(matches!(State::open(dir.path()), Err(WitnessError::Io(_))), "a directory");
    }

    #[test]
    fn a_file_that_cannot_be_written_gives_no_verdict() {
        let (_dir, path, _) = three();
        let mut state = State::open(&path).expect("as above");
        state.file = File::open(&path).expect("for reading only");
        assert!(state.claim(1, 9, 13).is_err());
        assert!(state.is_broken(), "it could not be taken back");
        assert!(state.claim(1, 2, 12).is_err(), "not even of what it knows");
        assert_eq!(state.latest(1), Some(claimed(2, 12)));
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("state");
        let mut state = State::open(&path).expect("new");
        state.claim(1, 1, 10).expect("kept");
        state.lines = SLACK + 2;
        state.claim(1, 2, 10).expect("kept");
        assert_eq!(state.lines, 2);
        state.claim(1, 3, 10).expect("kept");
        drop(state);
        let text = fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().count(), 4, "header, the line of the rewriting, two more: {text}");
        assert_eq!(State::open(&path).expect("whole").latest(1), Some(claimed(3, 10)));
    }

    proptest! {
        #[test]
        fn hostile_files_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let path = dir.path().join("state");
            let file = [HEADER.as_bytes(), b"\n", &bytes].concat();
            fs::write(&path, file).expect("write");
            let _ = State::open(&path);
        }
    }
}
