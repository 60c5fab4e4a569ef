//! Measures what replication asks of a machine: digests, dirty pages, its state as bytes, and a
//! joining without a channel between the two sides.
//!
//! All times are of the processor, so that a busy host does not count.
//!
//!     joining KERNEL INITRD APPEND [MIB] [MILLIONS-OF-INSTRUCTIONS-BEFORE]

use devices::board::BoardConfig;
use devices::io::Input;
use devices::time::{Icount, Rate, VirtualNs};
use drivers::transfer::sink::Sink;
use drivers::transfer::source::Source;
use emulator::machine::{Config, Machine, Stop};
use firmware::DirectBoot;
use ft::join::{Decision, Limits};
use std::time::Duration;

/// Instructions between two digests.
const INTERVAL: u64 = 10_000_000;

fn main() {
    let mut args = std::env::args().skip(1);
    let mut file = |what| std::fs::read(args.next().expect(what)).expect(what);
    let (kernel, initrd) = (file("KERNEL"), file("INITRD"));
    let append = args.next().expect("APPEND").into_bytes();
    let mut number = |or| args.next().map_or(or, |text| text.parse::<u64>().expect("a number"));
    let (mib, before) = (number(512), number(3000));
    let config = Config {
        ram_bytes: mib << 20,
        board: BoardConfig { disks: [None; 4], nics: vec![], uarts: 1 },
        direct_boot: Some(DirectBoot { kernel, initrd, append }),
    };
    let mut machine = Machine::new(&config).expect("a machine");
    machine.inject(Input::ClockRate(Rate::ONE));
    run(&mut machine, before * 1_000_000);
    println!("icount {} M", machine.icount().0 / 1_000_000);
    prepare(&mut machine);
    let plain = speed(&mut machine);
    digests(&mut machine, plain);
    pages(&mut machine);
    joining(&config, &mut machine);
}

/// Runs for `count` instructions; timers wake the guest at once.
fn run(machine: &mut Machine, count: u64) {
    let until = Icount(machine.icount().0 + count);
    loop {
        match machine.run(until) {
            Stop::Reached => return,
            Stop::Halted(due) => machine.idle_to(due.unwrap_or(VirtualNs(u64::MAX))),
            Stop::Output => while machine.poll_output().is_some() {},
            stop => panic!("{stop:?} at {}", machine.icount().0),
        }
    }
}

/// What `what` costs of this thread's time on a processor, whoever else wants it.
fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let began = processor_time();
    let value = what();
    (value, processor_time() - began)
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn prepare(machine: &mut Machine) {
    let pages = machine.pages();
    let ((), first) = timed(|| while !machine.prepare_digest(1024) {});
    println!("first digest of {pages} pages, in slices: {first:.1?}");
}

fn speed(machine: &mut Machine) -> Duration {
    machine.digest();
    let ((), time) = timed(|| run(machine, 30 * INTERVAL));
    println!("{:.0} MIPS without digests", 30e-6 * INTERVAL as f64 / time.as_secs_f64());
    time / 30
}

fn digests(machine: &mut Machine, plain: Duration) {
    let mut costs = Vec::new();
    let mut dirty = 0;
    machine.track_dirty(true);
    machine.digest();
    for _ in 0..60 {
        run(machine, INTERVAL);
        dirty += machine.take_dirty_pages().len();
        costs.push(timed(|| machine.digest()).1);
    }
    machine.track_dirty(false);
    let mean = costs.iter().sum::<Duration>() / 60;
    costs.sort();
    println!(
        "digest after 10 M instructions: mean {mean:.1?}, median {:.1?}, worst {:.1?}, {} pages; \
         {:.2} % of the interval's {plain:.1?}, {:.2} % of 25 ms",
        costs[30],
        costs[59],
        dirty / 60,
        mean.as_secs_f64() / plain.as_secs_f64() * 100.0,
        mean.as_secs_f64() / 0.025 * 100.0,
    );
    let (_, idle) = timed(|| machine.digest());
    println!("digest with nothing written: {idle:.1?}");
}

fn pages(machine: &mut Machine) {
    let (state, time) = timed(|| machine.save_state());
    let (_, again) = timed(|| machine.save_state());
    println!("save_state: {} bytes, {time:.1?}, again {again:.1?}", state.len());
    machine.track_dirty(true);
    run(machine, INTERVAL);
    let (pages, time) = timed(|| machine.take_dirty_pages());
    println!("take_dirty_pages: {} pages, {time:.1?}", pages.len());
    machine.track_dirty(false);
}

fn joining(config: &Config, machine: &mut Machine) {
    let mut source = Source::new(machine, &[], Limits::default());
    let mut sink = Sink::new(config, &[]).expect("a machine");
    let began = processor_time();
    let (mut worst, mut making, mut taking) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut exchange = |machine: &mut Machine, source: &mut Source, sink: &mut Sink| {
        let (payload, cost) = timed(|| source.poll(machine));
        (worst, making) = (worst.max(cost), making + cost);
        let Some(payload) = payload else { return false };
        taking += timed(|| sink.install(&payload).expect("fits")).1;
        while let Some(back) = sink.poll() {
            source.install(&back).expect("fits");
        }
        true
    };
    loop {
        run(machine, 1_000_000);
        exchange(machine, &mut source, &mut sink);
        match source.decide(machine) {
            Decision::CutOver => break,
            // A share below the whole is time that the guest does not run: send more instead.
            Decision::Continue { share } => {
                for _ in 0..1000 / u32::from(share) - 1 {
                    exchange(machine, &mut source, &mut sink);
                }
            }
        }
    }
    let copying = processor_time() - began;
    let left = source.progress(machine);
    let began = processor_time();
    source.cut_over(machine, Vec::new());
    while exchange(machine, &mut source, &mut sink) {}
    let sent = processor_time() - began;
    let (here, digest) = timed(|| machine.digest());
    let ((mut there, _), loaded) = timed(|| sink.finish().expect("complete"));
    let (digest_there, second) = timed(|| there.digest());
    assert_eq!(here, digest_there, "the copy is the machine");
    println!(
        "joining: {copying:.1?} of copying in {} rounds, {} MiB of payloads; at cut-over {} kB \
         left; pause {:.1?}: {sent:.1?} the rest, digest {digest:.1?}, \
         load {loaded:.1?}, digest there {second:.1?}",
        left.round,
        source.progress(machine).sent >> 20,
        left.remaining >> 10,
        sent + digest + loaded + second,
    );
    println!("slices: {making:.1?} to make all, {worst:.1?} the longest, {taking:.1?} to take in");
}
