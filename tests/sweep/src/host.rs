//! One of the two computers: a replica, its machine and its disk, without clocks or threads.
//!
//! Contract: what a driver does, in the world's time. A disk's requests are carried out when the
//! guest makes them, on each side's own copy; live, the answer comes a fixed guest time later.

use devices::io::{DiskOperation, DiskResult, Input, Output};
use devices::time::{Icount, VirtualNs};
use emulator::machine::{Machine, Stop};
use ft::Replica;
use ft::log::Instant;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a sector.
const SECTOR: usize = 512;
/// Guest ns after which a disk answers.
const DISK_LATENCY: u64 = 20_000;

/// One of the two computers.
pub struct Host {
    /// The protocol.
    pub replica: Replica,
    /// The machine, once there is one.
    pub machine: Option<Machine>,
    /// This side's copy of the disk.
    pub disk: Vec<u8>,
    /// The machine is live here.
    pub live: bool,
    /// Time has moved without instructions since the last one.
    pub halted: bool,
    /// Guest time minus the world's time, while live.
    pub offset: i128,
    /// Number of the first output in `outputs`.
    pub first_output: u64,
    /// Outputs that have not left.
    pub outputs: VecDeque<Output>,
    /// Every input since the joining.
    pub inputs: Vec<(Instant, Input)>,
    /// Frames for the guest that have arrived.
    pub frames: VecDeque<Vec<u8>>,
    /// Serial output that has left.
    pub console: Vec<u8>,
    /// Results of requests that the guest does not know of yet.
    pending: BTreeMap<u64, DiskResult>,
    /// When it will, while live.
    due: VecDeque<(VirtualNs, u64)>,
}

impl Host {
    /// A computer with this disk.
    pub fn new(replica: Replica, machine: Option<Machine>, disk: Vec<u8>) -> Self {
        Self {
            replica,
            machine,
            disk,
            live: false,
            halted: false,
            offset: 0,
            first_output: 0,
            outputs: VecDeque::new(),
            inputs: Vec::new(),
            frames: VecDeque::new(),
            console: Vec::new(),
            pending: BTreeMap::new(),
            due: VecDeque::new(),
        }
    }

    /// The machine.
    ///
    /// # Panics
    /// If there is none.
    pub fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("this side has a machine")
    }

    /// Where the machine stands.
    pub fn instant(&mut self) -> Instant {
        let halted = self.halted;
        let machine = self.machine();
        Instant { icount: machine.icount().0, halted_ns: halted.then(|| machine.now().0) }
    }

    /// Takes the machine's outputs, and says how many there were besides requests to the disk.
    pub fn take_outputs(&mut self) -> u64 {
        let mut count = 0;
        while let Some(output) = self.machine().poll_output() {
            count += self.take(output);
        }
        count
    }

    /// Carries out what the machine asks of its disk; another output waits, and counts.
    fn take(&mut self, output: Output) -> u64 {
        let Output::Disk { request, operation, .. } = output else {
            self.outputs.push_back(output);
            return 1;
        };
        let result = perform(&mut self.disk, &operation);
        self.pending.insert(request, result);
        if self.live {
            let due = self.machine().now().after(DISK_LATENCY);
            self.due.push_back((due, request));
        }
        0
    }

    /// The answer of the disk that is due, if one is.
    pub fn answer(&mut self) -> Option<Input> {
        let now = self.machine().now();
        let &(_, request) = self.due.front().filter(|(due, _)| *due <= now)?;
        self.due.pop_front();
        let result = self.pending.remove(&request).expect("it was asked for");
        Some(Input::DiskDone { disk: 0, request, result })
    }

    /// When the next answer of the disk is due.
    pub fn next_answer(&self) -> Option<VirtualNs> {
        self.due.front().map(|(due, _)| *due)
    }

    /// The requests that nobody has answered are answered here.
    pub fn go_live(&mut self, world_ns: u64) {
        self.live = true;
        self.halted = true;
        let now = self.machine().now();
        self.offset = i128::from(now.0) - i128::from(world_ns);
        self.due = self.pending.keys().map(|request| (now, *request)).collect();
    }

    /// Follows the primary to `at`, and takes its input.
    ///
    /// # Panics
    /// If the machine goes another way than the primary's.
    pub fn follow(&mut self, at: Instant, input: Option<Input>) {
        for output in advance(self.machine(), at) {
            self.take(output);
        }
        if let Some(input) = input {
            if let Input::DiskDone { request, result, .. } = &input {
                let ours = self.pending.remove(request).expect("both machines ask the same");
                assert_eq!(*result, ours, "both disks answer the same");
            }
            self.inputs.push((at, input.clone()));
            self.machine().inject(input);
            // What is due at this very instant happens before the next entry.
            self.machine().run(Icount(at.icount));
        }
        self.take_outputs();
    }

    /// State and disk, as they travel to a new backup.
    pub fn save(&mut self) -> Vec<u8> {
        let state = self.machine().save();
        let parts = (state, &self.disk, &self.pending);
        postcard::to_allocvec(&parts).expect("plain data can be encoded")
    }

    /// Takes what [`Host::save`] gave.
    pub fn load(&mut self, bytes: &[u8]) {
        let (state, disk, pending): (Vec<u8>, _, _) =
            postcard::from_bytes(bytes).expect("it was encoded here");
        self.machine = Some(Machine::load(&state).expect("it was saved here"));
        self.disk = disk;
        self.pending = pending;
    }

    /// One number for the whole state.
    pub fn digest(&mut self) -> u128 {
        whole(self.machine())
    }
}

/// One number for the whole state of `machine`.
pub fn whole(machine: &mut Machine) -> u128 {
    let digest = machine.digest();
    let devices = digest.devices.iter().fold(0, |sum: u128, (_, hash)| sum.rotate_left(1) ^ hash);
    digest.cpu ^ digest.ram.rotate_left(3) ^ devices.rotate_left(7)
}

/// Lets `machine` execute, and time pass, up to `at`; what it makes meanwhile.
///
/// # Panics
/// If it does not get there.
pub fn advance(machine: &mut Machine, at: Instant) -> Vec<Output> {
    let mut outputs = Vec::new();
    while machine.icount().0 < at.icount {
        let from = (machine.icount(), machine.now(), outputs.len());
        match machine.run(Icount(at.icount)) {
            Stop::Output | Stop::Reached => {}
            Stop::Halted(Some(deadline)) if machine.icount().0 < at.icount => {
                machine.idle_to(deadline);
            }
            Stop::Halted(_) => {}
            stop => panic!("the guest stopped: {stop:?}"),
        }
        outputs.extend(std::iter::from_fn(|| machine.poll_output()));
        let stuck = from == (machine.icount(), machine.now(), outputs.len());
        assert!(!stuck, "the machine is halted, and the primary's was not");
    }
    while let Some(ns) = at.halted_ns.filter(|ns| machine.now().0 < *ns) {
        machine.run(Icount(at.icount));
        outputs.extend(std::iter::from_fn(|| machine.poll_output()));
        let before = machine.now();
        machine.idle_to(VirtualNs(ns));
        assert_ne!(machine.now(), before, "the machine is not halted, and the primary's was");
    }
    outputs
}

fn perform(disk: &mut [u8], operation: &DiskOperation) -> DiskResult {
    match operation {
        DiskOperation::Read { lba, sectors } => {
            let at = *lba as usize * SECTOR;
            DiskResult::Data(disk[at..at + *sectors as usize * SECTOR].to_vec())
        }
        DiskOperation::Write { lba, data } => {
            let at = *lba as usize * SECTOR;
            disk[at..at + data.len()].copy_from_slice(data);
            DiskResult::Done
        }
        DiskOperation::Flush => DiskResult::Done,
    }
}
