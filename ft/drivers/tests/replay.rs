//! Recorded runs replay to the same states: however they are sliced, however the log was cut, with
//! the disk gone.

mod toy;

use backends::console::ConsoleEvent;
use backends::disk::fault::FaultDisk;
use backends::disk::memory::MemoryDisk;
use backends::disk::worker::DiskWorker;
use backends::disk::{Disk, SECTOR};
use backends::wake::Post;
use devices::board::BoardConfig;
use devices::time::{Icount, Rate};
use drivers::bundle::Bundles;
use drivers::copy::DiskCopy;
use drivers::guest::Guest;
use drivers::host::{Ends, mail};
use drivers::live::{self, LiveConfig, Timing};
use drivers::outcome::{Exit, Outcome};
use drivers::record::Recorder;
use drivers::replay::{self, LogSource, ReplayConfig, ReplayError, Replayed};
use drivers::session::{DiskSource, Session};
use drivers::slices::Slices;
use ft::log::file::Tail;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use toy::{SECTORS, Toy};

const SEED: u64 = 42;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn session() -> Session {
    Session {
        ram_bytes: 1 << 20,
        board: BoardConfig { disks: [Some(SECTORS), None, None, None], nics: vec![], uarts: 1 },
        direct_boot: None,
        disks: vec![DiskSource::Log],
        initial: 0,
    }
}

fn config(timing: Timing, max_icount: Option<u64>) -> LiveConfig {
    LiveConfig {
        timing,
        no_reboot: true,
        max_icount: max_icount.map(Icount),
        slice_seed: None,
        wall_clock: 1_800_000_000_000_000_000,
        entropy: [7; 32],
        reseed: None,
        disk_sizes: vec![],
        shared: false,
        bundles: Bundles {
            directory: std::env::temp_dir(),
            build: "toy".into(),
            session: session(),
        },
    }
}

fn disk() -> Box<dyn Disk> {
    let bytes = (0..SECTORS as usize * SECTOR).map(|i| (i / 7) as u8).collect();
    let mut disk = FaultDisk::new(MemoryDisk::new(bytes));
    disk.fail_reads(20..21);
    disk.fail_writes(40..41);
    Box::new(disk)
}

/// Runs `guest`; `typist` types on its console from a thread of its own. Returns the outcome and
/// the log.
fn record(
    guest: &mut Toy,
    config: &LiveConfig,
    typist: impl FnOnce(Post<ConsoleEvent>) + Send + 'static,
) -> (Outcome, Vec<u8>) {
    let (posts, mail) = mail();
    let mut ends = Ends::default();
    ends.disks.push(DiskWorker::spawn(0, disk(), posts.answers.clone()).expect("thread"));
    let log = Buffer::default();
    let mut recorder =
        Recorder::new(Box::new(log.clone()), "toy", &session()).expect("memory takes it");
    let typed = posts.typed.clone();
    let typist = std::thread::spawn(move || typist(typed));
    let outcome = live::run(guest, config, mail, ends, &mut recorder).expect("the log is written");
    typist.join().expect("typist");
    (outcome, log.take())
}

fn replay(
    guest: &mut Toy,
    log: &[u8],
    config: &ReplayConfig,
) -> Result<(Replayed, Vec<u8>), ReplayError> {
    let mut log = LogSource::new(log);
    let (build, start) = log.start()?;
    assert_eq!(build, "toy");
    assert_eq!(Session::decode(&start), Some(session()));
    let disks = vec![DiskCopy::unknown(SECTORS).expect("temporary file")];
    let replayed = replay::run(guest, &mut log, disks, Ends::default(), config)?;
    Ok((replayed, Vec::new()))
}

fn bytes(text: &[u8]) -> ConsoleEvent {
    ConsoleEvent::Bytes { port: 0, bytes: text.to_vec() }
}

/// Types now and then, and `last` in the end.
fn type_for(millis: u64, last: u8) -> impl FnOnce(Post<ConsoleEvent>) + Send + 'static {
    move |post| {
        for n in 0..millis / 10 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            if post.send(bytes(&[b'a', n as u8])).is_err() {
                return;
            }
        }
        let _ = post.send(bytes(&[last]));
    }
}

#[test]
fn a_live_run_replays_to_the_same_end() {
    let mut guest = Toy::new(SEED);
    let (outcome, log) = record(&mut guest, &config(Timing::Paced, None), type_for(300, b'x'));
    assert_eq!(outcome.exit, Exit::DebugExit(0x21));
    assert_eq!(outcome.exit.status(), 0x43);
    assert_eq!(outcome.log_bytes, log.len() as u64);
    assert!(outcome.guest.0 > 200_000_000 && outcome.guest.0 <= outcome.host_ns + 50_000_000);
    for slice_seed in (0..8).map(|n| (n > 0).then_some(n)) {
        let mut again = Toy::new(SEED);
        let config = ReplayConfig { slice_seed, ..ReplayConfig::default() };
        let (replayed, _) = replay(&mut again, &log, &config).expect("no difference");
        assert_eq!(replayed.outcome.exit, outcome.exit);
        assert_eq!(replayed.outcome.icount, outcome.icount);
        assert_eq!(replayed.outcome.guest, outcome.guest);
        assert_eq!(replayed.outcome.digest, outcome.digest);
        assert_eq!(replayed.outcome.log_entries, outcome.log_entries);
        assert_eq!(replayed.tail, Some(Tail::Clean));
    }
}

#[test]
fn a_log_cut_anywhere_replays_up_to_there() {
    let mut guest = Toy::new(SEED);
    let (outcome, log) = record(&mut guest, &config(Timing::Paced, None), type_for(100, b'q'));
    let mut numbers = Slices::new(3);
    for _ in 0..50 {
        let cut = numbers.number() as usize % log.len();
        match replay(&mut Toy::new(SEED), &log[..cut], &ReplayConfig::default()) {
            Ok((replayed, _)) => assert!(replayed.outcome.icount <= outcome.icount),
            Err(e) => assert!(matches!(e, ReplayError::Read(_) | ReplayError::NoStart), "{e}"),
        }
    }
}

#[test]
fn another_guest_is_noticed_at_the_first_digest() {
    let mut guest = Toy::new(SEED);
    guest.restless = true;
    let fixed = config(Timing::Fixed(Rate::ONE), Some(35_000_000));
    let (outcome, log) = record(&mut guest, &fixed, |_| ());
    assert_eq!((outcome.exit, outcome.icount), (Exit::Icount, Icount(35_000_000)));
    let mut same = Toy::new(SEED);
    same.restless = true;
    let (replayed, _) = replay(&mut same, &log, &ReplayConfig::default()).expect("no difference");
    assert_eq!(replayed.digests, 4, "three on the way and one at the end");
    let mut other = Toy::new(SEED + 1);
    other.restless = true;
    let error = replay(&mut other, &log, &ReplayConfig::default()).expect_err("differs");
    let ReplayError::Diverged { icount, what } = error else { panic!("{error}") };
    assert!(icount <= Icount(10_000_000), "{} {what}", icount.0);
}

#[test]
fn a_replay_stops_where_it_is_told_to() {
    let mut guest = Toy::new(SEED);
    let (_, log) = record(&mut guest, &config(Timing::Paced, None), type_for(50, b'q'));
    let mut other = Toy::new(SEED);
    let stop = ReplayConfig { to: Some(Icount(5_000)), ..ReplayConfig::default() };
    let (replayed, _) = replay(&mut other, &log, &stop).expect("no difference yet");
    assert_eq!(replayed.outcome.icount, Icount(5_000));
    assert_eq!(replayed.outcome.exit, Exit::Icount);
    assert_eq!(replayed.outcome.digest, other.digest());
}

#[test]
fn at_a_fixed_rate_every_run_is_the_same() {
    let mut runs = Vec::new();
    for slice_seed in [None, None, Some(1), Some(2)] {
        let mut guest = Toy::new(SEED);
        let mut fixed = config(Timing::Fixed(Rate(3 << 31)), Some(30_000_000));
        fixed.slice_seed = slice_seed;
        let (outcome, log) = record(&mut guest, &fixed, |_| ());
        runs.push((outcome.icount, outcome.guest, outcome.digest, outcome.log_entries, log));
    }
    for run in &runs[1..] {
        assert!(runs[0] == *run, "{:?} {:?}", (runs[0].0, runs[0].1), (run.0, run.1));
    }
}

#[test]
fn a_reset_ends_the_run_when_it_is_to() {
    let (outcome, _) =
        record(&mut Toy::new(SEED), &config(Timing::Paced, None), type_for(20, b'r'));
    assert_eq!(outcome.exit, Exit::Reset);
    let mut config = config(Timing::Paced, None);
    config.no_reboot = false;
    let (outcome, log) = record(&mut Toy::new(SEED), &config, |post| {
        type_for(20, b'r')(post.clone());
        type_for(20, b'q')(post);
    });
    assert_eq!(outcome.exit, Exit::PowerOff);
    let (replayed, _) =
        replay(&mut Toy::new(SEED), &log, &ReplayConfig::default()).expect("no difference");
    assert_eq!(replayed.outcome.exit, Exit::PowerOff);
}

#[test]
fn hostile_logs_do_no_harm() {
    let mut guest = Toy::new(SEED);
    let (_, log) = record(&mut guest, &config(Timing::Paced, None), type_for(30, b'q'));
    let mut numbers = Slices::new(9);
    for _ in 0..200 {
        // Entries with wrong content under checksums that are right.
        let mut source = LogSource::new(&log[..]);
        let mut writer = ft::log::LogWriter::new();
        while let Some(mut entry) = source.next_entry().expect("whole") {
            if let ft::log::Body::Input(bytes) = &mut entry.body
                && numbers.number().is_multiple_of(8)
                && !bytes.is_empty()
            {
                let at = numbers.number() as usize % bytes.len().min(12);
                bytes[at] ^= 1 << (numbers.number() % 8);
            }
            writer.push(entry.at, &entry.body);
        }
        writer.flush();
        let _ = replay(&mut Toy::new(SEED), &writer.take(), &ReplayConfig::default());
    }
}

/// A log that begins with these pieces of a machine's state.
fn log_of(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = ft::log::LogWriter::new();
    let start = ft::log::Body::Start { build: "toy".into(), config: session().encode() };
    writer.push(ft::log::Instant::default(), &start);
    for piece in pieces {
        writer.push(ft::log::Instant::default(), &ft::log::Body::Snapshot(piece.clone()));
    }
    writer.flush();
    writer.take()
}

#[test]
fn states_that_are_none_are_refused() {
    use drivers::transfer::payload::{self, Header};
    use emulator::machine::Config;
    let config = Config { ram_bytes: 1 << 20, board: session().board, direct_boot: None };
    let taken = |pieces: &[Vec<u8>]| {
        let bytes = log_of(pieces);
        let mut log = LogSource::new(&bytes[..]);
        log.start().expect("a start");
        log.machine(&config)
    };
    assert!(matches!(taken(&[]), Ok(None)), "it begins where the machine is switched on");
    let piece = |header: &Header| payload::encode(header, &[]);
    let pages = piece(&Header::Pages { runs: vec![(0, 256, true)], packed: false });
    for pieces in [
        vec![vec![]],
        vec![vec![0xFF; 100]],
        // All pages, and no state; state of a length that nobody has; a page outside; a block.
        vec![pages.clone()],
        vec![pages.clone(), piece(&Header::State { machine: 0, total: 0 })],
        vec![pages.clone(), piece(&Header::State { machine: 9, total: u32::MAX })],
        vec![piece(&Header::Pages { runs: vec![(0, u32::MAX, true)], packed: false })],
        vec![piece(&Header::Block { disk: 0, block: 0, len: 65536, packed: false })],
        vec![pages, payload::encode(&Header::State { machine: 4, total: 4 }, b"none")],
    ] {
        assert!(matches!(taken(&pieces), Err(ReplayError::Snapshot(_))), "{pieces:?}");
    }
    let mut numbers = Slices::new(SEED);
    for _ in 0..2000 {
        let len = numbers.number() % 60;
        let random: Vec<u8> = (0..len).map(|_| (numbers.number() % 9) as u8).collect();
        assert!(taken(&[random]).is_err());
    }
}
