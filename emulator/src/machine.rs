//! The machine: CPU, RAM and board, driven by instruction counts and inputs.
//!
//! Contract: the same configuration and the same list of (icount, time, Input) give the same state
//! at every count, however `run` is sliced.

use crate::accelerator::Accelerator;
use crate::core::Core;
use crate::cpu::flags::{IF, TF};
use crate::cpu::{Cpu, msr};
use crate::digest::PageHashes;
use crate::engine::Engine;
use crate::exception::{self, Cause, Exception};
use crate::fingerprint::Fingerprint;
use crate::interrupt::{Event, Source};
use crate::op::Exit;
use crate::snapshot;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use devices::board::{Board, BoardConfig, Signal};
use devices::io::{Input, Output};
use devices::ram::{OldPages, PAGE, Ram};
use devices::time::{Icount, VirtualNs};
use firmware::DirectBoot;
use serde::{Deserialize, Serialize};

/// Everything that fixes the machine besides its inputs. Part of every log and snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// RAM in bytes: whole MiB.
    pub ram_bytes: u64,
    /// Disks, network cards and serial ports.
    pub board: BoardConfig,
    /// A kernel to boot instead of a disk.
    pub direct_boot: Option<DirectBoot>,
}

impl Config {
    /// Whether there can be such a machine, as far as RAM goes.
    ///
    /// # Errors
    /// With the reason.
    pub fn check(&self) -> Result<(), ConfigError> {
        let whole = self.ram_bytes & 0xF_FFFF == 0;
        if whole && (4 << 20..=devices::ram::MAX).contains(&self.ram_bytes) {
            return Ok(());
        }
        Err(ConfigError(String::from("RAM must be whole MiB, 4 MiB to 64 GiB")))
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

/// Why [`Machine::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The instruction count asked for is reached.
    Reached,
    /// Outputs wait in [`Machine::poll_output`].
    Output,
    /// The CPU is halted; the next timer is due at this time (`None`: only an input can wake it).
    /// Go on with [`Machine::idle_to`] or [`Machine::inject`].
    Halted(Option<VirtualNs>),
    /// The guest was reset (the machine has begun anew; `run` goes on if called).
    Reset,
    /// The guest powered itself off.
    PowerOff,
    /// The guest wrote this value to isa-debug-exit.
    DebugExit(u32),
}

/// A hash of the whole state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// CPU registers and clock.
    pub cpu: u128,
    /// Devices, by name.
    pub devices: Vec<(String, u128)>,
    /// Sum over the hashes of all RAM pages.
    pub ram: u128,
}

/// A whole PC.
pub struct Machine {
    config: Config,
    /// Stands for the configuration in [`Machine::save_state`].
    identity: snapshot::Identity,
    core: Core,
    engine: Engine,
    hashes: PageHashes,
}

impl Machine {
    /// A machine just powered on.
    ///
    /// # Errors
    /// A configuration that cannot be built, with the reason.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let mut ram = Ram::new(config.ram_bytes, &firmware::rom());
        let mut board = Board::new(&config.board, &mut ram);
        firmware::power_on(&mut ram, &mut board, config.direct_boot.as_ref())
            .map_err(|error| ConfigError(error.to_string()))?;
        let hashes = PageHashes::new(ram.pages());
        let identity = snapshot::identity(config);
        Ok(Self::assemble(config.clone(), identity, Core::new(ram, board), hashes))
    }

    /// A machine around a core, with empty caches.
    pub(crate) fn assemble(
        config: Config,
        identity: snapshot::Identity,
        core: Core,
        hashes: PageHashes,
    ) -> Self {
        let engine = Engine::new(core.ram.bytes().len() / PAGE);
        Self { config, identity, core, engine, hashes }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// CPU, memory and devices, to look at.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The same, to change: for tests and debuggers. Call [`Machine::drop_caches`] afterwards.
    pub fn core_mut(&mut self) -> &mut Core {
        &mut self.core
    }

    /// Retired instructions.
    pub fn icount(&self) -> Icount {
        Icount(self.core.icount)
    }

    /// Virtual time.
    pub fn now(&self) -> VirtualNs {
        self.core.clock.now(self.icount())
    }

    /// Forgets everything that is cached. The guest cannot tell.
    pub fn drop_caches(&mut self) {
        self.engine.clear(&mut self.core);
        self.core.update_mode();
        self.core.flush_tlb();
    }

    /// Attaches what is to run instead of the interpreter, or goes back to that with `None`. The
    /// guest cannot tell. Gives back the last one.
    pub fn set_accelerator(
        &mut self,
        accelerator: Option<Box<dyn Accelerator>>,
    ) -> Option<Box<dyn Accelerator>> {
        self.core.tlb.forget_numbers();
        self.engine.set_accelerator(accelerator)
    }

    /// What runs instead of the interpreter.
    pub fn accelerator(&mut self) -> Option<&mut (dyn Accelerator + 'static)> {
        self.engine.accelerator()
    }

    /// Executes until `until` at the latest.
    pub fn run(&mut self, until: Icount) -> Stop {
        loop {
            if let Some(stop) = self.attend() {
                return stop;
            }
            if self.core.icount >= until.0 {
                return Stop::Reached;
            }
            if self.core.cpu.halted {
                return Stop::Halted(self.core.board.deadline());
            }
            let due = self.core.board.deadline().and_then(|at| self.core.clock.icount_at(at));
            self.core.limit = due.map_or(until.0, |at| at.0.min(until.0));
            self.proceed();
        }
    }

    /// Does everything that is due at this instant: outputs, signals, timers, interrupts.
    fn attend(&mut self) -> Option<Stop> {
        self.core.settle_resume();
        loop {
            let core = &mut self.core;
            core.refresh_memory_map();
            if core.cpu.shutdown {
                self.reset();
                return Some(Stop::Reset);
            }
            if core.board.has_signal()
                && let Some(stop) = self.signal()
            {
                return Some(stop);
            }
            let core = &mut self.core;
            if core.board.has_output() {
                return Some(Stop::Output);
            }
            let now = core.clock.now(Icount(core.icount));
            if core.board.deadline().is_some_and(|at| at <= now) {
                core.board.advance(&mut core.ram, now);
                continue;
            }
            if core.cpu.pending_debug != 0 && !core.cpu.shadow_debug {
                let dr6 = core::mem::take(&mut core.cpu.pending_debug);
                let exception = Exception { trap: true, dr6, ..Exception::new(exception::DB) };
                core.deliver_exception(exception);
                continue;
            }
            if core.cpu.shadow || !self.interrupt(now) {
                return None;
            }
        }
    }

    /// Delivers an NMI or interrupt if one is due; false if not.
    fn interrupt(&mut self, now: VirtualNs) -> bool {
        let core = &mut self.core;
        let vector = if !core.cpu.nmi_blocked && core.board.take_nmi() {
            core.cpu.nmi_blocked = true;
            exception::NMI
        } else if core.cpu.flags.system & IF != 0 && core.board.interrupt_pending() {
            match core.board.acknowledge_interrupt(now) {
                Some(vector) => vector,
                None => return false,
            }
        } else {
            return false;
        };
        core.cpu.halted = false;
        let rf = core.resuming();
        let event = Event { vector, source: Source::Hardware, code: None, rip: core.cpu.rip, rf };
        if core.deliver(event).is_err()
            && let Cause::Exception(exception) = core.cause
        {
            core.deliver_exception(exception);
        }
        true
    }

    /// Executes towards the core's limit.
    fn proceed(&mut self) {
        let core = &mut self.core;
        let single = core.cpu.flags.system & TF != 0 || core.cpu.dr[7] & 0xFF != 0;
        if core.cpu.shadow && !single {
            // The shadow covers one instruction.
            core.cpu.shadow = false;
            core.cpu.shadow_debug = false;
            core.limit = core.limit.min(core.icount + 1);
        }
        let exit = if single { self.step() } else { self.engine.execute(&mut self.core) };
        if exit == Exit::Trap
            && let Cause::Exception(exception) = self.core.cause
        {
            self.core.deliver_exception(exception);
        }
    }

    /// One instruction, with what single-stepping and breakpoints add.
    fn step(&mut self) -> Exit {
        let core = &mut self.core;
        if let Some(dr6) = core.instruction_breakpoint() {
            core.cause = Cause::Exception(Exception { dr6, ..Exception::new(exception::DB) });
            return Exit::Trap;
        }
        core.single_step = core.cpu.flags.system & TF != 0;
        core.cpu.shadow = false;
        core.cpu.shadow_debug = false;
        core.watch_hits = 0;
        let exit = self.engine.step(&mut self.core);
        let core = &mut self.core;
        // After MOV SS and POP SS the single-step trap is lost, not late (SDM 3A 6.8.3).
        let trap = core::mem::take(&mut core.single_step) && !core.cpu.shadow_debug;
        if exit != Exit::Trap {
            core.cpu.pending_debug |= core.watch_hits | u64::from(trap) << 14;
        }
        exit
    }

    fn signal(&mut self) -> Option<Stop> {
        match self.core.board.take_signal()? {
            Signal::Reset => {
                self.reset();
                Some(Stop::Reset)
            }
            Signal::Init => {
                self.init();
                None
            }
            Signal::PowerOff => Some(Stop::PowerOff),
            Signal::DebugExit(value) => Some(Stop::DebugExit(value)),
        }
    }

    /// Hard reset: CPU and board begin anew; RAM keeps its contents but for what the firmware
    /// writes.
    fn reset(&mut self) {
        let core = &mut self.core;
        let now = core.clock.now(Icount(core.icount));
        let random = core.cpu.random.clone();
        core.cpu = Cpu::new();
        core.cpu.random = random;
        core.cpu.msrs.tsc_offset = now.0.wrapping_neg();
        core.board.reset(&mut core.ram, now);
        firmware::power_on(&mut core.ram, &mut core.board, self.config.direct_boot.as_ref())
            .expect("it was accepted at power-on");
        self.drop_caches();
    }

    /// INIT: as reset, but the FPU, most MSRs and the devices stay (SDM 3A table 10-1).
    fn init(&mut self) {
        let core = &mut self.core;
        let old = core::mem::take(&mut core.cpu);
        core.cpu.fpu = old.fpu;
        core.cpu.xmm = old.xmm;
        core.cpu.mxcsr = old.mxcsr;
        core.cpu.random = old.random;
        core.cpu.msrs = msr::Msrs { ..old.msrs };
        self.drop_caches();
    }

    /// While the CPU is halted, lets time pass to `to` (or to the next timer, if earlier);
    /// otherwise does nothing.
    pub fn idle_to(&mut self, to: VirtualNs) {
        let core = &mut self.core;
        if !core.cpu.halted {
            return;
        }
        let to = core.board.deadline().map_or(to, |at| at.min(to));
        core.clock.skip_to(Icount(core.icount), to);
    }

    /// Applies `input` at [`Machine::icount`] and [`Machine::now`].
    pub fn inject(&mut self, input: Input) {
        let now = self.now();
        let core = &mut self.core;
        match input {
            Input::ClockRate(rate) => core.clock.set_rate(Icount(core.icount), rate),
            Input::Entropy(seed) => core.cpu.random.reseed(&seed),
            other => core.board.input(&mut core.ram, now, other),
        }
    }

    /// Whether a frame injected now for network card `nic` finds room in it: a hint for drivers
    /// whose networks can wait.
    pub fn nic_has_room(&self, nic: u8) -> bool {
        self.core.board.nic_has_room(self.now(), nic)
    }

    /// Takes the oldest output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.core.board.poll_output()
    }

    /// Hash of the whole state. Cost: the pages written since the last call.
    pub fn digest(&mut self) -> Digest {
        self.hashes.digest(&mut self.core)
    }

    /// Hashes up to `pages` of the pages that no digest has seen yet, and says whether there are no
    /// more: the first digest costs all of RAM unless this was called often enough before.
    pub fn prepare_digest(&mut self, pages: u32) -> bool {
        self.hashes.prepare(&mut self.core, pages as usize)
    }

    /// From the next digest on keeps what [`Machine::state_at`] needs to describe the state at
    /// each of the last `digests` ones; 0: nothing. Cost: for each, the list of pages that had
    /// changed and the chips that had.
    pub fn keep_history(&mut self, digests: usize) {
        self.hashes.keep_history(digests);
    }

    /// The state as it was at the last digest taken at `icount`, to be compared with that of
    /// another machine; `None` if it is not kept (any more).
    pub fn state_at(&self, icount: Icount) -> Option<Fingerprint> {
        self.hashes.state_at(icount)
    }

    /// Keeps what pages hold from here on before they are written, `most` of them at most (0: no
    /// longer), and gives back what was kept since the last call. Cost: a copy of each page when it
    /// is first written; digests do not disturb it.
    pub fn keep_old_pages(&mut self, most: usize) -> OldPages {
        let old = self.core.ram.keep_old(most);
        self.core.tlb.forget_writes();
        old
    }

    /// What has been kept since the last call of [`Machine::keep_old_pages`].
    pub fn old_pages(&self) -> &OldPages {
        self.core.ram.old()
    }

    /// Begins, with an empty list, or ends the list of [`Machine::take_dirty_pages`]. Costs nothing
    /// while off; digests do not disturb it.
    pub fn track_dirty(&mut self, on: bool) {
        self.core.ram.track_changes(on);
        self.core.tlb.forget_writes();
    }

    /// Takes the numbers of the pages written since the last call, or since
    /// [`Machine::track_dirty`]; each once, in no order.
    pub fn take_dirty_pages(&mut self) -> Vec<u32> {
        let pages = self.core.ram.take_changed();
        if !pages.is_empty() {
            self.core.tlb.forget_writes();
        }
        pages
    }

    /// How many pages [`Machine::take_dirty_pages`] would give.
    pub fn dirty_pages(&self) -> usize {
        self.core.ram.changed()
    }

    /// Pages of RAM.
    pub fn pages(&self) -> u32 {
        self.core.ram.pages() as u32
    }

    /// Whether a page of RAM may hold other than zeros; looking at one that may not costs the host
    /// memory.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn is_touched(&self, page: u32) -> bool {
        self.core.ram.is_touched(page as usize)
    }

    /// A page of RAM.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page(&self, page: u32) -> &[u8; PAGE] {
        self.core.ram.page(page as usize).try_into().expect("a page")
    }

    /// The whole state as bytes (zero pages left out).
    pub fn save(&mut self) -> Vec<u8> {
        snapshot::save(&self.config, &self.identity, &mut self.core)
    }

    /// Everything but RAM as bytes, for [`snapshot::Loader::finish`].
    pub fn save_state(&mut self) -> Vec<u8> {
        snapshot::save_state(&self.identity, &mut self.core)
    }

    /// The machine that [`Machine::save`] described.
    ///
    /// # Errors
    /// Bytes that are not such a state; they never panic.
    pub fn load(state: &[u8]) -> Result<Self, ConfigError> {
        snapshot::load(state)
    }
}
