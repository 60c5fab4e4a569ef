//! Properties of the log's bytes: they come back, they can be cut anywhere, and hostile ones do no
//! harm.

use ft::log::file::{Tail, VERSION};
use ft::log::{Body, Entry, Instant, LogReader, LogWriter, ReadError};
use proptest::prelude::*;

fn bodies() -> impl Strategy<Value = Body> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        bytes.clone().prop_map(Body::Input),
        Just(Body::Progress),
        proptest::collection::vec(any::<u8>(), 0..32).prop_map(Body::Digest),
        (".{0,20}", bytes.clone()).prop_map(|(build, config)| Body::Start { build, config }),
        bytes.clone().prop_map(Body::Snapshot),
        bytes.clone().prop_map(Body::State),
        bytes.prop_map(Body::End),
    ]
}

/// Entries in order, some on the digest grid, some halted, and whether to flush after each.
fn entries() -> impl Strategy<Value = Vec<(Entry, bool)>> {
    let steps = prop_oneof![Just(0u64), Just(1), 0..30_000_000u64, Just(10_000_000)];
    let one = (steps, proptest::option::of(0..5_000_000_000u64), bodies(), any::<bool>());
    proptest::collection::vec(one, 0..60).prop_map(|steps| {
        let (mut icount, mut ns) = (0, 0);
        let entry = |(seq, (ahead, wait, body, flush)): (usize, (u64, Option<u64>, Body, bool))| {
            icount += ahead;
            ns += wait.unwrap_or(0);
            let at = Instant { icount, halted_ns: wait.map(|_| ns) };
            (Entry { seq: seq as u64, at, body }, flush)
        };
        steps.into_iter().enumerate().map(entry).collect()
    })
}

/// The file, and after how many bytes each entry can be read.
fn write(entries: &[(Entry, bool)]) -> (Vec<u8>, Vec<usize>) {
    let mut writer = LogWriter::new();
    let mut file = writer.take();
    let mut readable = Vec::new();
    for (i, (entry, flush)) in entries.iter().enumerate() {
        assert_eq!(writer.push(entry.at, &entry.body), entry.seq);
        if *flush || i + 1 == entries.len() {
            writer.flush();
        }
        file.extend(writer.take());
        if !writer.has_pending() {
            readable.resize(i + 1, file.len());
        }
    }
    (file, readable)
}

/// Reads `file`, given in pieces of at most `piece` bytes.
fn read(mut file: &[u8], piece: usize) -> Result<(Vec<Entry>, Tail), ReadError> {
    let mut reader = LogReader::new();
    let mut entries = Vec::new();
    loop {
        while let Some(entry) = reader.next_entry() {
            entries.push(entry);
        }
        let n = reader.wanted().min(piece).min(file.len());
        if n == 0 {
            return Ok((entries, reader.tail()?));
        }
        reader.push(&file[..n])?;
        file = &file[n..];
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn entries_come_back(entries in entries(), piece in 1..5000usize) {
        let (file, _) = write(&entries);
        let entries: Vec<Entry> = entries.into_iter().map(|(entry, _)| entry).collect();
        prop_assert_eq!(read(&file, piece), Ok((entries, Tail::Clean)));
    }

    #[test]
    fn a_cut_log_is_read_to_the_last_whole_frame(entries in entries(), cut in any::<u16>()) {
        let (file, readable) = write(&entries);
        let cut = 12 + usize::from(cut) % (file.len() - 11);
        let (seen, tail) = read(&file[..cut], usize::MAX).expect("the header is whole");
        let whole = readable.iter().filter(|&&len| len <= cut).count();
        prop_assert_eq!(seen.len(), whole);
        prop_assert!(seen.iter().zip(&entries).all(|(seen, (entry, _))| seen == entry));
        prop_assert!(matches!(tail, Tail::Clean | Tail::Cut(_)));
    }

    #[test]
    fn a_flipped_bit_is_never_believed(entries in entries(), at in any::<u16>(), bit in 0..8u8) {
        let (mut file, _) = write(&entries);
        prop_assume!(file.len() > 12);
        let at = 12 + usize::from(at) % (file.len() - 12);
        file[at] ^= 1 << bit;
        let (seen, tail) = read(&file, 999).expect("the header is whole");
        prop_assert!(tail != Tail::Clean);
        prop_assert!(seen.iter().zip(&entries).all(|(seen, (entry, _))| seen == entry));
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut file = LogWriter::new().take();
        file.extend_from_slice(&bytes);
        let (seen, _) = read(&file, 7).expect("the header is whole");
        prop_assert!(seen.len() <= bytes.len());
        let _ = read(&bytes, 7);
    }
}

#[test]
fn hostile_frames_with_a_good_checksum_do_no_harm() {
    // What follows the checksum is taken apart: random payloads under a checksum that matches.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let payloads = proptest::collection::vec(prop_oneof![0..64u8, any::<u8>()], 0..64);
    runner
        .run(&payloads, |payload| {
            let mut file = LogWriter::new().take();
            file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            file.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            file.extend_from_slice(&payload);
            let (seen, _) = read(&file, usize::MAX).expect("the header is whole");
            prop_assert!(seen.len() <= payload.len());
            Ok(())
        })
        .expect("no panic");
}

#[test]
fn what_is_no_log_of_this_version_is_refused() {
    assert_eq!(read(b"", 9), Err(ReadError::NotALog));
    assert_eq!(read(b"ftemul", 9), Err(ReadError::NotALog));
    assert_eq!(read(b"\x7FELF-something-else", 9), Err(ReadError::NotALog));
    let mut other = LogWriter::new().take();
    other[8] = VERSION as u8 + 1;
    assert_eq!(read(&other, 9), Err(ReadError::Version(VERSION + 1)));
}

#[test]
fn a_frame_longer_than_any_may_be_ends_the_log_unread() {
    let mut file = LogWriter::new().take();
    file.extend_from_slice(&[0xFF; 100]);
    let (seen, tail) = read(&file, usize::MAX).expect("the header is whole");
    assert!(seen.is_empty() && matches!(tail, Tail::Damaged(_)));
}

#[test]
fn digests_of_a_busy_minute_are_small() {
    let mut writer = LogWriter::new();
    let mut bytes = writer.take().len();
    // 60 seconds at 740 million instructions a second, one frame a second, one digest in 32 long.
    for second in 0..60u64 {
        for n in 0..74 {
            let digest = second * 74 + n + 1;
            let at = Instant { icount: digest * 10_000_000, halted_ns: None };
            let len = if digest % 32 == 0 { 13 } else { 2 };
            writer.push(at, &Body::Digest(vec![0; len]));
        }
        writer.flush();
        bytes += writer.take().len();
    }
    assert!(bytes < 16_500, "{bytes} bytes");
}
