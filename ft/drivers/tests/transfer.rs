//! A running machine is transferred while it computes, writes memory and uses its disk: at cut-over
//! both sides are the same, whatever the slices, and stay so.

use backends::disk::blocks::{BLOCK, BLOCK_SECTORS};
use backends::disk::memory::MemoryDisk;
use backends::disk::overlay::Overlay;
use backends::disk::raw::{Access, RawDisk};
use backends::disk::sync::{SyncAnswer, SyncRequest, Synced};
use backends::disk::worker::{Completion, DiskWorker, perform};
use backends::disk::{Disk, SECTOR};
use backends::wake::{Bell, Post, mailbox};
use devices::board::BoardConfig;
use devices::io::{DiskOperation, Input, Output};
use devices::time::{Icount, VirtualNs};
use drivers::slices::Slices;
use drivers::transfer::payload::{Header, decode};
use drivers::transfer::sink::Sink;
use drivers::transfer::source::Source;
use emulator::fingerprint::first_difference;
use emulator::machine::{Config, Machine, Stop};
use ft::join::{Decision, Limits};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Receiver;

/// Sectors of the guest's disk: 64 blocks and a bit.
const SECTORS: u64 = 64 * BLOCK_SECTORS + 24;

/// A boot sector:
///
/// ```text
/// again:  inc bp; fill the page 10000h + (bp * 5 & 3Fh) * 1000h with bp; add bp to [700h]
///         every fourth time: write 8 sectors of it at bp * 77 & 1FF8h by int 13h,
///         read 8 others at that ^ 0AA8h to 50000h, add their first word to [702h], inc [704h]
///         jmp again
/// fail:   out 0F4h,77h
/// ```
const GUEST: &str = "
31c08ed88ed0bc007c31ed4589e86bc00583e03fc1e0080500108ec031ff89e8b90008f3ab010600
07f7c5030075dcc70600061000c70602060800c706040600008c06060689e86bc04d25f81fa30806
c7060a060000c7060c060000c7060e060000be0006b280b80043cd13722b81360806a80ac7060606
0050be0006b280b442cd137214b800508ec026a1000001060207ff060407e972ffb077e6f4f4";

fn image(seed: u64) -> Vec<u8> {
    let digits: Vec<u8> = GUEST.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let text = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    let code: Vec<u8> = digits.chunks(2).map(|pair| text(pair).expect("hex")).collect();
    let mut bytes = vec![0; SECTORS as usize * SECTOR];
    // Some blocks are zero, the others are not.
    let mut numbers = Slices::new(seed);
    for block in bytes.chunks_mut(BLOCK) {
        if !numbers.number().is_multiple_of(3) {
            block.iter_mut().step_by(61).for_each(|byte| *byte = numbers.number() as u8);
        }
    }
    bytes[..512].fill(0);
    bytes[..code.len()].copy_from_slice(&code);
    bytes[510..512].copy_from_slice(&[0x55, 0xAA]);
    bytes
}

fn config() -> Config {
    let board = BoardConfig { disks: [Some(SECTORS), None, None, None], nics: vec![], uarts: 1 };
    Config { ram_bytes: 8 << 20, board, direct_boot: None }
}

/// The live side: machine, disk, and what waits for the disk.
struct Live {
    machine: Machine,
    worker: DiskWorker,
    answers: Receiver<Completion>,
    pending: BTreeMap<u64, DiskOperation>,
}

impl Live {
    fn new(disk: Box<dyn Disk>) -> Self {
        let (post, answers) = mailbox(64, Bell::new().waker());
        let worker = DiskWorker::spawn(0, disk, post).expect("thread");
        let machine = Machine::new(&config()).expect("a machine");
        Self { machine, worker, answers, pending: BTreeMap::new() }
    }

    fn answer(&mut self, answer: Completion) {
        self.pending.remove(&answer.request).expect("asked for");
        let Completion { disk, request, result } = answer;
        self.machine.inject(Input::DiskDone { disk, request, result });
    }

    /// Runs for about `slice` instructions.
    fn run(&mut self, slice: u64) {
        let until = Icount(self.machine.icount().0 + slice);
        while let Ok(answer) = self.answers.try_recv() {
            self.answer(answer);
        }
        loop {
            match self.machine.run(until) {
                Stop::Reached => return,
                Stop::Output => {
                    while let Some(output) = self.machine.poll_output() {
                        if let Output::Disk { request, operation, .. } = output {
                            self.pending.insert(request, operation.clone());
                            self.worker.submit(request, operation);
                        }
                    }
                }
                Stop::Halted(due) => match (self.pending.is_empty(), due) {
                    (false, _) => {
                        let answer = self.answers.recv().expect("the worker lives");
                        self.answer(answer);
                        return;
                    }
                    (true, due) => self.machine.idle_to(due.expect("a timer is on")),
                },
                stop => panic!("{stop:?}"),
            }
        }
    }
}

/// What a joining shall do wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    DroppedPages,
    DroppedBlock,
}

/// The new side after the joining.
struct Joined {
    machine: Machine,
    worker: DiskWorker,
    pending: BTreeMap<u64, DiskOperation>,
    rounds: u32,
    sent: u64,
}

/// Carries requests to `worker`.
fn ask(worker: &DiskWorker, request: Option<(u8, SyncRequest)>, reply: &Post<Synced>) -> bool {
    match request {
        Some((disk, request)) => {
            assert_eq!(disk, 0);
            worker.synchronize(request, reply);
            true
        }
        None => false,
    }
}

/// The joining: a channel that delivers when the dice say so.
fn join(live: &mut Live, disk: Box<dyn Disk>, dice: &mut Slices, planted: Planted) -> Joined {
    let (post, _answers) = mailbox(64, Bell::new().waker());
    let worker = DiskWorker::spawn(0, disk, post).expect("thread");
    let (source_post, source_mail) = mailbox(64, Bell::new().waker());
    let (sink_post, sink_mail) = mailbox(1024, Bell::new().waker());
    let disks = [(0, SECTORS)];
    let mut source = Source::new(&mut live.machine, &disks, Limits::default());
    let mut sink = Sink::new(&config(), &disks).expect("a machine");
    let (mut there, mut back) = (VecDeque::new(), VecDeque::new());
    // A block that is sent more than once may be the same each time: all of them are dropped.
    let (mut stopped, mut dropped) = (false, None);
    while !(source.is_complete() && there.is_empty() && sink.is_complete()) {
        if !stopped {
            live.run(dice.number() % 40_000);
            if source.decide(&live.machine) == Decision::CutOver {
                stopped = true;
                let extra = format!("{:?}", live.pending.keys());
                source.cut_over(&mut live.machine, extra.into_bytes());
            }
        }
        for _ in 0..dice.number() % 8 {
            if let Some(payload) = source.poll(&mut live.machine) {
                let (header, _) = decode(&payload).expect("its own payload");
                let drop = match (planted, &header) {
                    (Planted::DroppedPages, Header::Pages { .. }) => stopped && dropped.is_none(),
                    (Planted::DroppedBlock, Header::Block { block, .. }) => {
                        *block > 0 && dropped.is_none_or(|first| first == *block)
                    }
                    _ => false,
                };
                if drop {
                    dropped =
                        Some(if let Header::Block { block, .. } = header { block } else { 0 });
                    continue;
                }
                there.push_back(payload);
            }
            ask(&live.worker, source.disk_request(), &source_post);
        }
        for synced in source_mail.try_iter() {
            source.disk_answer(synced).expect("readable");
        }
        for _ in 0..dice.number() % 8 {
            if let Some(payload) = there.pop_front() {
                let payload: Vec<u8> = payload;
                sink.install(&payload).expect("fits");
            }
            back.extend(sink.poll());
            if dice.number().is_multiple_of(2)
                && let Some(payload) = back.pop_front()
            {
                let payload: Vec<u8> = payload;
                source.install(&payload).expect("fits");
            }
        }
        while ask(&worker, sink.disk_request(), &sink_post) {}
        for synced in sink_mail.try_iter() {
            sink.disk_answer(synced).expect("writable");
        }
    }
    assert_eq!(dropped.is_some(), planted != Planted::Nothing, "the bug was there");
    let progress = source.progress(&live.machine);
    let (machine, extra) = sink.finish().expect("complete");
    assert_eq!(extra, format!("{:?}", live.pending.keys()).into_bytes());
    let pending = live.pending.clone();
    Joined { machine, worker, pending, rounds: progress.round, sent: progress.sent }
}

/// Runs a machine on with a disk whose answers come at once.
fn go_on(machine: &mut Machine, disk: &mut dyn Disk, pending: BTreeMap<u64, DiskOperation>) {
    let until = Icount(machine.icount().0 + 3_000_000);
    let mut waiting: VecDeque<(u64, DiskOperation)> = pending.into_iter().collect();
    loop {
        while let Some((request, operation)) = waiting.pop_front() {
            let result = perform(disk, 0, &operation);
            machine.inject(Input::DiskDone { disk: 0, request, result });
        }
        match machine.run(until) {
            Stop::Reached => return,
            Stop::Halted(due) => machine.idle_to(due.unwrap_or(VirtualNs(u64::MAX))),
            Stop::Output => {
                while let Some(output) = machine.poll_output() {
                    if let Output::Disk { request, operation, .. } = output {
                        waiting.push_back((request, operation));
                    }
                }
            }
            stop => panic!("{stop:?}"),
        }
    }
}

/// A file with this content, and a disk on it.
fn file_disk(bytes: &[u8]) -> (tempfile::NamedTempFile, RawDisk) {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("write");
    let disk = RawDisk::open(file.path(), Access::ReadWrite).expect("open");
    (file, disk)
}

/// A machine that has used its disk, and both images.
struct Scene {
    live: Live,
    here: tempfile::NamedTempFile,
    there: tempfile::NamedTempFile,
    other: RawDisk,
}

fn scene(dice: &mut Slices) -> Scene {
    let original = image(5);
    let (here, disk) = file_disk(&original);
    // The other copy is an older one, with some blocks of its own.
    let mut old = original;
    for _ in 0..10 {
        let at = dice.number() as usize % (old.len() - 600) + 512;
        old[at] ^= 0x55;
    }
    let (there, other) = file_disk(&old);
    let mut live = Live::new(Box::new(disk));
    let rounds = |live: &Live| {
        let mut word = [0; 2];
        live.machine.core().ram.dma_read(0x704, &mut word);
        u16::from_le_bytes(word)
    };
    while rounds(&live) < 20 {
        live.run(100_000);
        assert!(live.machine.icount() < Icount(300_000_000), "the guest never gets anywhere");
    }
    Scene { live, here, there, other }
}

#[test]
fn a_running_machine_joins_with_its_disk() {
    for seed in 1..=4 {
        let mut dice = Slices::new(seed);
        let Scene { mut live, here, there, other } = scene(&mut dice);
        let before = live.machine.icount();
        let mut joined = join(&mut live, Box::new(other), &mut dice, Planted::Nothing);
        assert!(live.machine.icount() > before, "it went on");
        assert!(joined.rounds > 0 && joined.sent > 0);
        assert_eq!(live.machine.digest(), joined.machine.digest(), "seed {seed}");
        assert_eq!(live.machine.save(), joined.machine.save());
        for page in 0..live.machine.pages() {
            assert!(live.machine.page(page) == joined.machine.page(page), "page {page:#x}");
        }
        live.worker.finish().expect("flush");
        joined.worker.finish().expect("flush");
        let bytes = std::fs::read(here.path()).expect("read");
        assert!(bytes == std::fs::read(there.path()).expect("read"), "disks differ");
        let (mut one, mut two) = (MemoryDisk::new(bytes.clone()), MemoryDisk::new(bytes));
        go_on(&mut live.machine, &mut one, live.pending);
        go_on(&mut joined.machine, &mut two, joined.pending);
        assert_eq!(live.machine.digest(), joined.machine.digest(), "seed {seed}, later");
        assert_eq!(live.machine.save(), joined.machine.save());
    }
}

#[test]
fn copies_of_other_kinds_join_too() {
    let mut dice = Slices::new(77);
    let Scene { mut live, here, .. } = scene(&mut dice);
    let empty = Overlay::new(MemoryDisk::new(vec![0; SECTORS as usize * SECTOR])).expect("overlay");
    let (file, below) = file_disk(&image(6));
    for disk in [Box::new(empty) as Box<dyn Disk>, Box::new(Overlay::new(below).expect("overlay"))]
    {
        let mut joined = join(&mut live, disk, &mut dice, Planted::Nothing);
        assert_eq!(live.machine.digest(), joined.machine.digest());
        let (sync_post, sync_mail) = mailbox(256, Bell::new().waker());
        live.worker.synchronize(SyncRequest::Hash { first: 0, blocks: u64::MAX }, &sync_post);
        joined.worker.synchronize(SyncRequest::Hash { first: 0, blocks: u64::MAX }, &sync_post);
        joined.worker.finish().expect("flush");
        let mut hashes: BTreeMap<u64, Vec<u128>> = BTreeMap::new();
        let blocks = SECTORS.div_ceil(BLOCK_SECTORS) as usize;
        while hashes.values().map(Vec::len).sum::<usize>() < 2 * blocks {
            let answer = sync_mail.recv().expect("an answer").answer;
            let SyncAnswer::Hashes { first, hashes: some, .. } = answer else {
                panic!("{answer:?}");
            };
            for (n, hash) in (first..).zip(some) {
                hashes.entry(n).or_default().push(hash);
            }
        }
        assert!(hashes.values().all(|pair| pair[0] == pair[1]), "disks differ");
    }
    assert!(std::fs::read(file.path()).expect("read") == image(6), "the image below stays");
    drop(here);
}

#[test]
fn blocks_that_are_nothing_on_the_wire_wait_for_those_before_them() {
    let sectors = 600 * BLOCK_SECTORS;
    let mut config = config();
    config.board.disks[0] = Some(sectors);
    let mut machine = Machine::new(&config).expect("a machine");
    let mut source = Source::new(&mut machine, &[(0, sectors)], Limits::default());
    let mut sink = Sink::new(&config, &[(0, sectors)]).expect("a machine");
    let spawn = |byte| {
        let (post, _completions) = mailbox(64, Bell::new().waker());
        let disk = MemoryDisk::new(vec![byte; sectors as usize * SECTOR]);
        DiskWorker::spawn(0, Box::new(disk), post).expect("thread")
    };
    let (zeros, others) = (spawn(0), spawn(1));
    let (post, mail) = mailbox(1024, Bell::new().waker());
    let answers = |worker, request| {
        ask(worker, Some(request), &post);
        let mut more = true;
        std::iter::from_fn(|| {
            let synced = more.then(|| mail.recv().expect("the worker lives"))?;
            more = matches!(synced.answer, SyncAnswer::Hashes { more: true, .. });
            Some(synced)
        })
        .collect::<Vec<Synced>>()
    };
    // The sink's disk is so slow that it writes a block only when nothing else can be done.
    let (mut waiting, mut most, mut written) = (VecDeque::new(), 0, 0);
    loop {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            while let Some(request) = source.disk_request() {
                for synced in answers(&zeros, request) {
                    source.disk_answer(synced).expect("readable");
                }
                moved = true;
            }
            while let Some(payload) = source.poll(&mut machine) {
                sink.install(&payload).expect("no more than it can take");
                moved = true;
            }
            while let Some((disk, request)) = sink.disk_request() {
                if matches!(request, SyncRequest::Write(..)) {
                    waiting.push_back((disk, request));
                } else {
                    for synced in answers(&others, (disk, request)) {
                        sink.disk_answer(synced).expect("readable");
                    }
                }
                moved = true;
            }
            while let Some(payload) = sink.poll() {
                source.install(&payload).expect("an answer");
                moved = true;
            }
        }
        most = most.max(waiting.len());
        let Some(request) = waiting.pop_front() else { break };
        for synced in answers(&others, request) {
            sink.disk_answer(synced).expect("writable");
        }
        written += 1;
    }
    assert_eq!(written, 600, "all blocks differed");
    assert!((100..256).contains(&most), "{most} blocks waited at once");
}

#[test]
fn a_dropped_page_is_noticed_and_named() {
    let mut dice = Slices::new(9);
    let Scene { mut live, other, .. } = scene(&mut dice);
    live.machine.keep_history(1);
    let mut joined = join(&mut live, Box::new(other), &mut dice, Planted::DroppedPages);
    joined.machine.keep_history(1);
    assert_ne!(live.machine.digest(), joined.machine.digest());
    let here = live.machine.state_at(live.machine.icount()).expect("kept");
    let there = joined.machine.state_at(joined.machine.icount()).expect("kept");
    let what = first_difference(&here, &there).expect("they differ");
    assert!(what.starts_with("page 0x"), "{what}");
}

#[test]
fn a_dropped_block_is_noticed_when_it_is_read() {
    let mut dice = Slices::new(10);
    let Scene { mut live, here, there, other } = scene(&mut dice);
    let joined = join(&mut live, Box::new(other), &mut dice, Planted::DroppedBlock);
    live.worker.finish().expect("flush");
    joined.worker.finish().expect("flush");
    let read = |file: &tempfile::NamedTempFile| std::fs::read(file.path()).expect("read");
    assert!(read(&here) != read(&there));
}

/// A payload for the sink, honest or not.
fn strange(dice: &mut Slices) -> Vec<u8> {
    let number = |dice: &mut Slices, small: u64| match dice.number() % 8 {
        0 => dice.number(),
        1 => dice.number() & 0xFFFF_FFFF,
        _ => dice.number() % small,
    };
    let disk = (dice.number().is_multiple_of(8)) as u8;
    let packed = dice.number().is_multiple_of(2);
    let mut len = [0, 9, 4096, 8192, 65536][dice.number() as usize % 5];
    let header = match dice.number() % 32 {
        0..16 => {
            let run = |dice: &mut Slices| {
                let zero = dice.number().is_multiple_of(2);
                (number(dice, 2048) as u32, number(dice, 3) as u32, zero)
            };
            let runs: Vec<_> = (0..dice.number() % 4).map(|_| run(dice)).collect();
            if dice.number().is_multiple_of(2) {
                let full = runs.iter().filter(|(.., zero)| !zero).map(|&(_, n, _)| n as usize);
                len = full.sum::<usize>().min(99) * 4096;
            }
            Header::Pages { runs, packed }
        }
        16..22 => {
            let (block, len) = (number(dice, 66), [65536, 12288, 5][dice.number() as usize % 3]);
            Header::Block { disk, block, len, packed }
        }
        22..26 => {
            Header::WantHashes { disk, first: number(dice, 70), blocks: number(dice, 1 << 15) }
        }
        26..29 => Header::Hashes {
            disk,
            first: number(dice, 66),
            runs: vec![(number(dice, 66) as u32, dice.number().into())],
        },
        29 if dice.number().is_multiple_of(16) => {
            Header::State { machine: number(dice, 999) as u32, total: number(dice, 9999) as u32 }
        }
        _ => Header::Progress(number(dice, 9)),
    };
    let data = vec![dice.number() as u8; len];
    let data = if packed { lz4_flex::compress(&data) } else { data };
    let mut bytes = drivers::transfer::payload::encode(&header, &data);
    if dice.number().is_multiple_of(4) {
        let at = dice.number() as usize % bytes.len();
        bytes[at] = dice.number() as u8;
    }
    bytes
}

#[test]
fn hostile_payloads_give_errors_and_no_more() {
    let (mut refused, mut taken) = (0, 0);
    for seed in 0..60 {
        let mut dice = Slices::new(seed);
        let mut sink = Sink::new(&config(), &[(0, SECTORS)]).expect("a machine");
        let mut machine = Machine::new(&config()).expect("a machine");
        let mut source = Source::new(&mut machine, &[(0, SECTORS)], Limits::default());
        let mut outstanding = 0usize;
        for _ in 0..400 {
            let payload = strange(&mut dice);
            match sink.install(&payload) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
            outstanding += std::iter::from_fn(|| sink.disk_request()).count();
            assert!(outstanding < 300, "what waits for the disk is bounded");
            let _ = source.install(&payload);
            source.poll(&mut machine);
            while source.disk_request().is_some() {}
        }
        assert!(sink.finish().is_err());
    }
    assert!(refused > 1000 && taken > 1000, "{refused} refused, {taken} taken");
}
