//! Entries as bytes: instants as differences to the entry before.
//!
//! Contract: encoder and decoder that start from the same base agree; hostile bytes give `None`.

use super::entry::{Body, DIGEST_INTERVAL, Entry, Instant};
use super::varint;
use alloc::string::String;
use alloc::vec::Vec;

/// Low bits of an entry's first byte: [`Body::ordinal`].
const ORDINAL: u8 = 0x07;
/// The CPU was halted: nanoseconds since [`Base::ns`] follow.
const HALTED: u8 = 0x08;
/// The count is the next multiple of [`DIGEST_INTERVAL`]: no difference is stored.
const ON_GRID: u8 = 0x10;
/// The count is that of the entry before: no difference is stored.
const SAME: u8 = 0x20;
/// A digest of [`SHORT_DIGEST`] bytes: no length is stored.
const SHORT: u8 = 0x40;
const KNOWN: u8 = ORDINAL | HALTED | ON_GRID | SAME | SHORT;
/// Bytes of the usual digest.
const SHORT_DIGEST: usize = 2;

/// What instants are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Number of the next entry.
    pub seq: u64,
    /// Count of the last entry.
    pub icount: u64,
    /// Nanoseconds of the last entry that had them.
    pub ns: u64,
}

impl Base {
    /// Appends the base itself.
    pub(super) fn put(self, out: &mut Vec<u8>) {
        varint::put(out, self.seq);
        varint::put(out, self.icount);
        varint::put(out, self.ns);
    }

    /// Takes a base off the front of `bytes`.
    pub(super) fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            seq: varint::take(bytes)?,
            icount: varint::take(bytes)?,
            ns: varint::take(bytes)?,
        })
    }

    fn next_on_grid(self) -> Option<u64> {
        (self.icount / DIGEST_INTERVAL).checked_add(1)?.checked_mul(DIGEST_INTERVAL)
    }

    fn pass(&mut self, at: Instant) {
        self.seq += 1;
        self.icount = at.icount;
        self.ns = at.halted_ns.unwrap_or(self.ns);
    }
}

/// Appends an entry for `body` at `at`, and moves `base` past it.
///
/// # Panics
/// If `at` is before `base`: a log is in order.
pub fn encode(base: &mut Base, at: Instant, body: &Body, out: &mut Vec<u8>) {
    let ahead = at.icount.checked_sub(base.icount).expect("entries are in order of icount");
    let mut tag = body.ordinal();
    if ahead == 0 {
        tag |= SAME;
    } else if base.next_on_grid() == Some(at.icount) {
        tag |= ON_GRID;
    }
    if at.halted_ns.is_some() {
        tag |= HALTED;
    }
    if matches!(body, Body::Digest(bytes) if bytes.len() == SHORT_DIGEST) {
        tag |= SHORT;
    }
    out.push(tag);
    if tag & (SAME | ON_GRID) == 0 {
        varint::put(out, ahead);
    }
    if let Some(ns) = at.halted_ns {
        varint::put(out, ns.checked_sub(base.ns).expect("entries are in order of time"));
    }
    match body {
        Body::Digest(bytes) if tag & SHORT != 0 => out.extend_from_slice(bytes),
        Body::Progress => {}
        Body::Start { build, config } => {
            put_bytes(out, build.as_bytes());
            put_bytes(out, config);
        }
        Body::Input(bytes)
        | Body::Digest(bytes)
        | Body::End(bytes)
        | Body::Snapshot(bytes)
        | Body::State(bytes) => put_bytes(out, bytes),
    }
    base.pass(at);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes the next entry off the front of `bytes`, and moves `base` past it; `None`: not an entry.
pub fn decode(base: &mut Base, bytes: &mut &[u8]) -> Option<Entry> {
    let (&tag, rest) = bytes.split_first()?;
    *bytes = rest;
    if tag & !KNOWN != 0 || tag & (SAME | ON_GRID) == SAME | ON_GRID {
        return None;
    }
    let icount = match tag & (SAME | ON_GRID) {
        SAME => base.icount,
        ON_GRID => base.next_on_grid()?,
        _ => base.icount.checked_add(varint::take(bytes)?)?,
    };
    let halted_ns = match tag & HALTED {
        0 => None,
        _ => Some(base.ns.checked_add(varint::take(bytes)?)?),
    };
    let body = match tag & (ORDINAL | SHORT) {
        0x42 => {
            let (digest, rest) = bytes.split_at_checked(SHORT_DIGEST)?;
            *bytes = rest;
            Body::Digest(digest.into())
        }
        0 => Body::Input(varint::take_bytes(bytes)?.into()),
        1 => Body::Progress,
        2 => Body::Digest(varint::take_bytes(bytes)?.into()),
        3 => Body::Start {
            build: String::from_utf8(varint::take_bytes(bytes)?.into()).ok()?,
            config: varint::take_bytes(bytes)?.into(),
        },
        4 => Body::End(varint::take_bytes(bytes)?.into()),
        5 => Body::Snapshot(varint::take_bytes(bytes)?.into()),
        6 => Body::State(varint::take_bytes(bytes)?.into()),
        _ => return None,
    };
    let entry = Entry { seq: base.seq, at: Instant { icount, halted_ns }, body };
    base.seq.checked_add(1)?;
    base.pass(entry.at);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(icount: u64, halted_ns: Option<u64>) -> Instant {
        Instant { icount, halted_ns }
    }

    #[test]
    fn entries_come_back_and_are_small() {
        let entries = [
            (at(0, None), Body::Start { build: "b 1".into(), config: vec![1, 2] }, 8),
            (at(0, None), Body::Input(vec![5, 6, 7]), 5),
            (at(10_000_000, None), Body::Digest(vec![8; 7]), 9),
            (at(20_000_000, None), Body::Digest(vec![9; 2]), 3),
            (at(20_000_123, Some(1_000_000_000)), Body::Input(vec![]), 8),
            (at(20_000_123, Some(1_000_000_100)), Body::Input(vec![1]), 4),
            (at(50_000_000, None), Body::Digest(vec![9; 2]), 7),
            (at(50_000_001, None), Body::Progress, 2),
            (at(50_000_001, None), Body::Snapshot(vec![1, 2, 3]), 5),
            (at(50_000_001, None), Body::State(vec![4]), 3),
            (at(u64::MAX, Some(u64::MAX)), Body::End(vec![0]), 23),
        ];
        let mut bytes = Vec::new();
        let mut base = Base::default();
        for (at, body, size) in &entries {
            let before = bytes.len();
            encode(&mut base, *at, body, &mut bytes);
            assert_eq!(bytes.len() - before, *size, "{body:?}");
        }
        let mut rest = &bytes[..];
        let mut base = Base::default();
        for (seq, (at, body, _)) in entries.into_iter().enumerate() {
            let expected = Entry { seq: seq as u64, at, body };
            assert_eq!(decode(&mut base, &mut rest), Some(expected));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn hostile_bytes_are_refused() {
        for bytes in [
            &[][..],
            &[0x80],                // unknown flag
            &[0x07],                // unknown ordinal, no count
            &[0x25, 0xFF, 0xFF, 3], // state longer than the bytes
            &[0x30],                // same and on the grid
            &[0x20, 200],           // body longer than the bytes
            &[0x23, 1, 0xFF, 0],    // build is not UTF-8
            &[0x21 | HALTED, 0x80], // cut number
        ] {
            assert_eq!(decode(&mut Base::default(), &mut &bytes[..]), None, "{bytes:x?}");
        }
        let mut end = Base { seq: 0, icount: u64::MAX, ns: u64::MAX };
        assert_eq!(decode(&mut end, &mut &[0x01, 1][..]), None, "count overflows");
        assert_eq!(decode(&mut end, &mut &[0x11][..]), None, "grid overflows");
        assert_eq!(decode(&mut end, &mut &[0x29, 1][..]), None, "time overflows");
    }
}
