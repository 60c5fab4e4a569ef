//! The record beside a disk image, `IMAGE.ftemu`: which machine the copy belongs to, and how new it
//! is.
//!
//! It is JSON with all fields of [`Record`] in their order, numbers of 128 bits as 32 hexadecimal
//! digits, and `check`, the CRC-32 of the record's compact form without it. Whoever holds the image
//! open for writing (which takes a lock) is the only one who writes the record.
//!
//! Contract: a stored record survives a crash whole, and the one before it stays until then. A file
//! that is not exactly such a record is an error that says so, never a guess.

use crate::durable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Version of the format.
pub const VERSION: u32 = 1;
/// Longest file that is read.
const MAX_FILE: u64 = 64 * 1024;
/// Longest text that names the other side.
const MAX_PEER: usize = 1024;

/// What the process was that wrote the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It was live, or about to ask for the epoch.
    Primary,
    /// Its copy was whole and followed the primary's.
    Backup,
    /// Its copy was being filled: part old, part new.
    Syncing,
}

/// The standing of one copy of a machine's disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The machine.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub vm: u128,
    /// The epoch in which the copy was what `role` says. A primary won the epoch before it, and
    /// claims this one next.
    pub epoch: u64,
    /// What it was.
    pub role: Role,
    /// The claimant, drawn anew by each process, who wrote the record and makes the claims.
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub incarnation: u128,
    /// Instruction count of the last entry of the log when the record was written.
    pub icount: u64,
    /// Nanoseconds of guest time at the end of a primary's run; 0 before.
    pub guest_ns: u64,
    /// The guest was switched off, and the copy is complete: both sides ended alike.
    pub clean: bool,
    /// Where the other copy is, for the user.
    pub peer: String,
}

/// As stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    record: Record,
    check: String,
}

fn to_hex<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::arbiter::hex(*number))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::arbiter::parse_hex(&text)
        .ok_or_else(|| serde::de::Error::custom("a number is not 32 hexadecimal digits"))
}

/// Why there is no record to be had. Displays as a sentence with the path.
#[derive(Debug)]
pub enum LoadError {
    /// The host says so.
    Io(PathBuf, io::Error),
    /// It is no record.
    Damaged(PathBuf, String),
    /// It is one of another version of the format.
    Version(PathBuf, u64),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, e) => write!(f, "{}: {e}", path.display()),
            Self::Damaged(path, why) => write!(
                f,
                "{} is damaged ({why}): it cannot be told how new the image beside it is; \
                 remove the file to take the image for a new machine's",
                path.display()
            ),
            Self::Version(path, version) => {
                write!(f, "{} has format {version}, this program knows {VERSION}", path.display())
            }
        }
    }
}

impl std::error::Error for LoadError {}

/// The path of the record of `image`.
#[must_use]
pub fn path_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".ftemu");
    name.into()
}

/// The record beside `image`; `None`: there is none.
///
/// # Errors
/// See [`LoadError`].
pub fn load(image: &Path) -> Result<Option<Record>, LoadError> {
    let path = path_of(image);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LoadError::Io(path, e)),
        Ok(_) => {}
    }
    parse(&bytes).map(Some).map_err(|e| match e {
        Bad::Damaged(why) => LoadError::Damaged(path, why),
        Bad::Version(version) => LoadError::Version(path, version),
    })
}

/// Makes `record` the one beside `image`, durably.
///
/// # Errors
/// The host's; the record before it may stay.
pub fn store(image: &Path, record: &Record) -> io::Result<()> {
    let mut record = record.clone();
    while record.peer.len() > MAX_PEER {
        record.peer.pop();
    }
    let path = path_of(image);
    durable::replace(&path, text(record).as_bytes())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

fn text(record: Record) -> String {
    let check = check(&record);
    let mut text = serde_json::to_string_pretty(&Stored { record, check }).expect("plain data");
    text.push('\n');
    text
}

fn check(record: &Record) -> String {
    let compact = serde_json::to_vec(record).expect("plain data");
    format!("{:08x}", crc32fast::hash(&compact))
}

#[derive(Debug)]
enum Bad {
    Damaged(String),
    Version(u64),
}

fn parse(bytes: &[u8]) -> Result<Record, Bad> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(Bad::Damaged("too long".into()));
    }
    let damaged = |e: serde_json::Error| Bad::Damaged(e.to_string());
    let any: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match any["record"]["version"].as_u64() {
        Some(version) if version != u64::from(VERSION) => return Err(Bad::Version(version)),
        _ => {}
    }
    let stored: Stored = serde_json::from_value(any).map_err(damaged)?;
    if stored.check != check(&stored.record) {
        return Err(Bad::Damaged("its check sum is wrong".into()));
    }
    Ok(stored.record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> Record {
        Record {
            version: VERSION,
            vm: 0xABCD,
            epoch: 7,
            role: Role::Backup,
            incarnation: u128::MAX,
            icount: 1 << 40,
            guest_ns: u64::MAX,
            clean: true,
            peer: "192.0.2.7:4800 \"B\"".into(),
        }
    }

    #[test]
    fn a_record_comes_back_and_reads_well() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("disk.img");
        assert_eq!(load(&image).expect("none yet"), None);
        store(&image, &record()).expect("store");
        assert_eq!(load(&image).expect("load"), Some(record()));
        let text = std::fs::read_to_string(dir.path().join("disk.img.ftemu")).expect("read");
        assert!(text.contains("\"role\": \"backup\""), "{text}");
        assert!(text.contains("\"vm\": \"0000000000000000000000000000abcd\""), "{text}");
        let mut long = Record { role: Role::Primary, ..record() };
        long.peer = "\u{e9}".repeat(100_000);
        store(&image, &long).expect("store");
        let back = load(&image).expect("what is stored is readable").expect("there");
        assert_eq!((back.role, back.peer.len()), (Role::Primary, MAX_PEER));
    }

    #[test]
    fn damage_is_found_and_said() {
        let good = text(record());
        assert_eq!(parse(good.as_bytes()).expect("good"), record());
        for (from, to) in [
            ("\"epoch\": 7", "\"epoch\": 8"),
            ("\"clean\": true", "\"clean\": false"),
            ("\"clean\": true", "\"clean\": 1"),
            ("abcd", "ABCD"),
            ("backup", "primary"),
            ("\"epoch\": 7,", ""),
            ("\"epoch\": 7,", "\"epoch\": 7, \"era\": 1,"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            assert!(matches!(parse(bad.as_bytes()), Err(Bad::Damaged(_))), "{from} -> {to}");
        }
        let later = good.replacen("\"version\": 1", "\"version\": 2", 1);
        assert!(matches!(parse(later.as_bytes()), Err(Bad::Version(2))));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = dir.path().join("disk.img");
        std::fs::write(path_of(&image), "").expect("write");
        let said = load(&image).expect_err("empty").to_string();
        assert!(said.contains("disk.img.ftemu is damaged"), "{said}");
    }

    proptest! {
        #[test]
        fn no_cut_or_flipped_byte_is_taken_for_another_record(at in 0usize..400, bit in 0u8..8) {
            let good = text(record()).into_bytes();
            let at = at % good.len();
            let _ = parse(&good[..at]).map(|r| assert_eq!(r, record()));
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let _ = parse(&bad).map(|r| assert_eq!(r, record()));
        }

        #[test]
        fn hostile_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
