//! `ftemu boot`: a machine in the host's time.

use super::profile::Profile;
use super::{counter, files, protect, stats};
use crate::cli::{BootFlags, Engine, LogDiskData, Role};
use crate::engine;
use crate::failure::Failure;
use crate::targets::{NetTarget, RateFlag, RtcFlag, SerialTarget};
use backends::console::{Console, Full, file, socket, stdio, terminal};
use backends::disk::fence::Fence;
use backends::disk::memory::MemoryDisk;
use backends::disk::overlay::Overlay;
use backends::disk::raw::Access;
use backends::disk::worker::DiskWorker;
use backends::disk::{Disk, fingerprint};
use backends::net::capture::Capture;
use backends::net::{Network, stream, tap};
use devices::board::BoardConfig;
use devices::time::Icount;
use drivers::backup::{self, BackupConfig, Ending};
use drivers::black_box::BlackBox;
use drivers::bundle::Bundles;
use drivers::control::{Server, status_line::StatusLine};
use drivers::guest::Guest;
use drivers::host::{Ends, Mail, Posts, mail};
use drivers::live::{self, LiveConfig, Timing};
use drivers::outcome::{Exit, Outcome};
use drivers::record::Recorder;
use drivers::session::{DiskSource, NamedBoot, NamedFile, Session};
use emulator::machine::{Config, Machine};
use firmware::DirectBoot;
use std::path::Path;

/// What a log calls the program that wrote it.
pub const BUILD: &str = concat!("ftemu ", env!("CARGO_PKG_VERSION"));
/// 2026-01-01: the guest's clock at power-on where runs are to be the same every time.
const FIXED_CLOCK: u64 = 1_767_225_600;
/// IDE disks of the board.
const DISKS_MAX: usize = 4;
/// Serial ports of the board.
const PORTS_MAX: usize = 4;

/// The disks of the machine, and what a log says of each.
type Disks = Vec<(Box<dyn Disk>, DiskSource)>;

/// Boots a machine and runs it to its end.
pub fn run(flags: &BootFlags) -> Result<u8, Failure> {
    check(flags)?;
    let engine = engine::choose(flags.engine)?;
    let direct = direct_boot(flags)?;
    let disks = disks(flags)?;
    let mut sizes = [None; DISKS_MAX];
    for (size, (disk, _)) in sizes.iter_mut().zip(&disks) {
        *size = Some(disk.sectors());
    }
    // The embedded guest wants a card even where nothing is plugged into it.
    let card = flags.net != NetTarget::None || is_embedded(flags);
    let nics = if card { vec![flags.mac] } else { vec![] };
    let board = BoardConfig { disks: sizes, nics, uarts: flags.serial.len().max(1) as u8 };
    let (boot, named) = direct.unzip();
    let config = Config { ram_bytes: flags.memory, board, direct_boot: boot };
    let (disks, sources): (Vec<_>, Vec<_>) = disks.into_iter().unzip();
    let (posts, mail) = mail();
    let fence = (flags.pair.shared_disk && flags.pair.role != Role::Solo).then(Fence::new);
    let ends = outgoing(flags, &posts, disks, fence.as_ref())?;
    let bundles = Bundles {
        directory: protect::bundles(flags),
        build: BUILD.into(),
        session: session(&config, named.clone()),
    };
    let host = Host { flags, engine, posts, mail, ends, fence, bundles };
    if flags.pair.role == Role::Backup {
        let black_box = black_box(flags, &host.bundles.session)?;
        return host.backup(&config, black_box.as_ref());
    }
    let mut machine = machine(&config)?;
    let recorder = recorder(flags, &mut machine, &config, named, sources)?;
    let mut guest = engine.guest(machine)?;
    let profile = Profile::begin(flags, engine, &mut *guest)?;
    let status = host.live(&mut guest, config, recorder, profile.as_ref());
    engine::verdict(&*guest)?;
    status
}

/// Refuses flags that do not go together.
fn check(flags: &BootFlags) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.into()));
    if flags.disks.len() > DISKS_MAX {
        return usage("a machine has at most four disks");
    }
    match flags.pair.role {
        Role::Solo => protect::warn_alone(flags),
        _ if flags.engine == Some(Engine::Both) => {
            return usage("--engine both is for a machine that is no side of a pair");
        }
        _ => protect::check(flags)?,
    }
    if flags.profile.is_some() && flags.pair.role == Role::Backup {
        return usage("--profile is for the side that switches the machine on");
    }
    if flags.serial.len() > PORTS_MAX {
        return usage("a machine has at most four serial ports");
    }
    if flags.serial.iter().filter(|target| **target == SerialTarget::Stdio).count() > 1 {
        return usage("only one serial port can be on stdio");
    }
    Ok(())
}

/// The machine of `config`, if the host has the memory for it.
pub fn machine(config: &Config) -> Result<Machine, Failure> {
    has_memory(config)?;
    Machine::new(config).map_err(|e| Failure::Input(e.0))
}

/// Refuses a machine that is too large for the host.
pub fn has_memory(config: &Config) -> Result<(), Failure> {
    let bytes = usize::try_from(config.ram_bytes).unwrap_or(usize::MAX);
    if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        let size = config.ram_bytes >> 20;
        return Err(Failure::Input(format!("the host has no {size} MiB of memory for the guest")));
    }
    Ok(())
}

fn direct_boot(flags: &BootFlags) -> Result<Option<(DirectBoot, NamedBoot)>, Failure> {
    let Some(path) = &flags.kernel else { return Ok(None) };
    let kernel = files::kernel(path, flags.memory)?;
    let initrd = flags.initrd.as_ref().map(|path| Ok((path, files::read(path, flags.memory)?)));
    let initrd = initrd.transpose()?;
    let name = |path: &Path, bytes: &[u8]| NamedFile::new(&files::absolute(path), bytes);
    let append = flags.append.clone().into_bytes();
    let named = NamedBoot {
        kernel: name(path, &kernel),
        initrd: initrd.as_ref().map(|(path, bytes)| name(path, bytes)),
        append: append.clone(),
    };
    let initrd = initrd.map(|(_, bytes)| bytes).unwrap_or_default();
    Ok(Some((DirectBoot { kernel, initrd, append }, named)))
}

/// Whether the guest is the one that is embedded in the program.
fn is_embedded(flags: &BootFlags) -> bool {
    flags.disks.is_empty() && flags.kernel.is_none()
}

fn disks(flags: &BootFlags) -> Result<Disks, Failure> {
    if is_embedded(flags) {
        let mut disk = MemoryDisk::new(counter::IMAGE.to_vec());
        let hash = fingerprint::fingerprint(&mut disk, None).expect("memory can be read");
        return Ok(vec![(Box::new(disk), DiskSource::Embedded(hash))]);
    }
    flags.disks.iter().map(|path| disk(flags, path)).collect()
}

fn disk(flags: &BootFlags, path: &Path) -> Result<(Box<dyn Disk>, DiskSource), Failure> {
    // A backup reads a shared disk until it is live.
    let reads = flags.pair.shared_disk && flags.pair.role == Role::Backup;
    let access = if reads { Access::ReadOnly } else { Access::ReadWrite };
    if let Some(address) = files::nbd(path)? {
        let state = flags.pair.state_dir.as_deref();
        let disk: Box<dyn Disk> = match flags.snapshot {
            false => Box::new(files::export(&address, access, state)?),
            true => Box::new(thrown_away(files::export(&address, Access::ReadOnly, state)?)?),
        };
        return Ok((disk, DiskSource::Log));
    }
    if !flags.snapshot {
        let mut image = files::image(path, access)?;
        if flags.pair.shared_disk {
            image.share();
        }
        return Ok((Box::new(image), DiskSource::Log));
    }
    let mut image = files::image(path, Access::ReadOnly)?;
    let by_name = flags.record.is_some() && flags.log_disk_data == LogDiskData::Auto;
    let source = match by_name {
        true => DiskSource::Image(files::name(path, &mut image)?),
        false => DiskSource::Log,
    };
    Ok((Box::new(thrown_away(image)?), source))
}

/// A disk whose writes are thrown away at the end.
fn thrown_away<D: Disk>(below: D) -> Result<Overlay<D>, Failure> {
    let failed = |e| Failure::Host(format!("--snapshot needs a temporary file: {e}"));
    Overlay::new(below).map_err(failed)
}

fn recorder(
    flags: &BootFlags,
    machine: &mut Machine,
    config: &Config,
    direct_boot: Option<NamedBoot>,
    disks: Vec<DiskSource>,
) -> Result<Recorder, Failure> {
    let Some(path) = &flags.record else { return Ok(Recorder::default()) };
    let session = Session {
        ram_bytes: config.ram_bytes,
        board: config.board.clone(),
        direct_boot,
        disks,
        initial: drivers::check::whole(&machine.digest()),
    };
    let out = files::create_log(path)?;
    Recorder::new(Box::new(out), BUILD, &session)
        .map_err(|e| Failure::Host(format!("{}: {e}", path.display())))
}

/// What a backup records into, if it is to.
fn black_box(flags: &BootFlags, session: &Session) -> Result<Option<BlackBox>, Failure> {
    let Some(path) = &flags.record else { return Ok(None) };
    let session = session.clone();
    let file = files::create_log(path)?;
    Ok(Some(BlackBox { file, build: BUILD.into(), session }))
}

/// What a log says of a machine in the middle of its life.
fn session(config: &Config, direct_boot: Option<NamedBoot>) -> Session {
    Session {
        ram_bytes: config.ram_bytes,
        board: config.board.clone(),
        direct_boot,
        disks: config.board.disks.iter().flatten().map(|_| DiskSource::Log).collect(),
        initial: 0,
    }
}

/// Opens the host's ends.
fn outgoing(
    flags: &BootFlags,
    posts: &Posts,
    disks: Vec<Box<dyn Disk>>,
    fence: Option<&Fence>,
) -> Result<Ends, Failure> {
    let host = |e: std::io::Error| Failure::Host(e.to_string());
    let mut ends = Ends::default();
    if let Some(path) = &flags.debugcon {
        ends.debug = Some(files::debug(path)?);
    }
    if let Some(path) = &flags.pcap {
        let out: Box<dyn std::io::Write> = Box::new(files::create(path)?);
        ends.capture = Some(Capture::new(out, 1).map_err(|e| Failure::file(path, e))?);
    }
    for (index, disk) in disks.into_iter().enumerate() {
        let (fence, post) = (fence.cloned(), posts.answers.clone());
        let worker = DiskWorker::spawn_behind(fence, index as u8, disk, post);
        ends.disks.push(worker.map_err(host)?);
    }
    let network: Option<Box<dyn Network>> = match &flags.net {
        NetTarget::None => None,
        NetTarget::Tap(name) => {
            let opened = tap::open(0, name, posts.frames.clone());
            Some(Box::new(opened.map_err(|e| Failure::Input(format!("tap:{name}: {e}")))?))
        }
        NetTarget::Stream(endpoint) => {
            let opened = stream::open(0, endpoint, posts.frames.clone());
            let what = |e| Failure::Input(format!("--net {}: {e}", endpoint.address));
            Some(Box::new(opened.map_err(what)?))
        }
    };
    ends.networks.extend(network);
    Ok(ends)
}

/// Opens the consoles; the terminal is ours until the guard is dropped.
fn consoles(
    flags: &BootFlags,
    posts: &Posts,
    ends: &mut Ends,
) -> Result<Option<terminal::RawMode>, Failure> {
    let mut raw = None;
    // A machine of a pair that stands still has its backup take over.
    let full = if flags.pair.role == Role::Solo { Full::Wait } else { Full::Drop };
    let default = [SerialTarget::Stdio];
    let targets = if flags.serial.is_empty() { &default[..] } else { &flags.serial[..] };
    for (port, target) in targets.iter().enumerate() {
        let post = posts.typed.clone();
        let console = match target {
            SerialTarget::None => Console::None,
            SerialTarget::Stdio => {
                let (console, guard) = stdio::open(port as u8, full, post)
                    .map_err(|e| Failure::Host(format!("standard input: {e}")))?;
                ends.terminal = guard.is_some().then_some(port);
                raw = guard;
                console
            }
            SerialTarget::File(path) => {
                file::open(path).map_err(|e| Failure::file(path, files::describe(&e)))?
            }
            SerialTarget::Socket { endpoint, wait } => {
                if *wait {
                    log::warn!("waiting for a connection to {}", endpoint.address);
                }
                socket::open(port as u8, endpoint, *wait, post)
                    .map_err(|e| Failure::Input(format!("--serial {}: {e}", endpoint.address)))?
            }
        };
        ends.consoles.push(console);
    }
    Ok(raw)
}

/// Everything on the host's side of a machine.
struct Host<'a> {
    flags: &'a BootFlags,
    engine: Engine,
    posts: Posts,
    mail: Mail,
    ends: Ends,
    /// Before shared disks.
    fence: Option<Fence>,
    /// Where bundles go of machines that went different ways.
    bundles: Bundles,
}

impl Host<'_> {
    /// Runs a machine that was just switched on.
    fn live(
        mut self,
        guest: &mut Box<dyn Guest>,
        config: Config,
        mut recorder: Recorder,
        profile: Option<&Profile>,
    ) -> Result<u8, Failure> {
        let written = |guest: &mut Box<dyn Guest>, outcome: &std::io::Result<Outcome>| match (
            profile, outcome,
        ) {
            (Some(profile), Ok(outcome)) => profile.write(&mut **guest, outcome),
            _ => Ok(()),
        };
        let protection = match self.flags.pair.role {
            Role::Solo => None,
            _ => {
                let (fence, waker) = (self.fence.clone(), self.mail.bell.waker());
                Some(protect::pair(self.flags, &config, fence, waker)?)
            }
        };
        let mut live = live_config(self.flags, self.bundles.clone());
        live.disk_sizes = self.copies(&config);
        drop(config);
        let raw = self.open_consoles()?;
        let control = self.open_control()?;
        let Some(mut protection) = protection else {
            let outcome = live::run(guest, &live, self.mail, self.ends, &mut recorder);
            drop((raw, control));
            written(guest, &outcome)?;
            return report(self.flags, outcome);
        };
        if let Err(exit) = protection.pair.wait_for_leave(&self.mail) {
            drop(raw);
            log::warn!("not started: {}", exit.name());
            return Ok(exit.status());
        }
        // What else has come meanwhile waits in its mailbox.
        self.mail.bell.waker().wake();
        let line = self.open_status_line();
        let pair = Some(&mut protection.pair);
        let (mail, ends) = (self.mail, self.ends);
        let outcome = live::run_protected(guest, &live, mail, ends, &mut recorder, pair, None);
        drop((raw, control, line));
        protection.end(&outcome);
        written(guest, &outcome)?;
        report(self.flags, outcome)
    }

    /// Waits for a machine, follows it, and runs it when it is ours.
    fn backup(mut self, config: &Config, black_box: Option<&BlackBox>) -> Result<u8, Failure> {
        let (fence, waker) = (self.fence.clone(), self.mail.bell.waker());
        let mut protection = protect::pair(self.flags, config, fence, waker)?;
        let raw = self.open_consoles()?;
        let control = self.open_control()?;
        let line = self.open_status_line();
        let sizes = self.copies(config);
        let backup = BackupConfig {
            machine: config,
            sizes: &sizes,
            shared: protect::shared(self.flags),
            bundles: &self.bundles,
            black_box,
            prepare: &|machine| self.engine.prepare(machine),
        };
        let pair = &mut protection.pair;
        let mut taken = match backup::run(pair, &backup, &self.mail, &mut self.ends) {
            Ending::Live(taken) => taken,
            Ending::Over(exit) => {
                drop((raw, line));
                self.ends.finish().map_err(|e| Failure::Host(e.to_string()))?;
                protection.leave(exit);
                log::warn!("{}", exit.name());
                return Ok(exit.status());
            }
        };
        let mut live = live_config(self.flags, self.bundles);
        live.disk_sizes = sizes;
        live.wall_clock = taken.wall_clock;
        let outcome = live::run_protected(
            &mut taken.machine,
            &live,
            self.mail,
            self.ends,
            &mut taken.recorder,
            Some(&mut protection.pair),
            Some(taken.inherited),
        );
        drop((raw, control, line));
        protection.end(&outcome);
        report(self.flags, outcome)
    }

    /// Index and size of each disk of which both sides have a copy.
    fn copies(&self, config: &Config) -> Vec<(u8, u64)> {
        if self.flags.pair.shared_disk {
            return Vec::new();
        }
        let disks = config.board.disks.iter().enumerate();
        disks.filter_map(|(n, sectors)| sectors.map(|sectors| (n as u8, sectors))).collect()
    }

    /// Opens the control socket, if there is to be one.
    fn open_control(&self) -> Result<Option<Server>, Failure> {
        let Some(path) = &self.flags.pair.control else { return Ok(None) };
        let opened = Server::open(path, self.posts.requests.clone());
        opened.map(Some).map_err(|e| Failure::file(path, files::describe(&e)))
    }

    /// Shows how the pair is, where there is a terminal without the guest's text.
    fn open_status_line(&self) -> Option<StatusLine> {
        let serial = &self.flags.serial;
        let on_stdio = serial.is_empty() || serial.contains(&SerialTarget::Stdio);
        StatusLine::open(on_stdio, self.posts.requests.clone())
    }

    /// Opens the consoles and watches for signals; the terminal is ours until the guard is dropped.
    fn open_consoles(&mut self) -> Result<Option<terminal::RawMode>, Failure> {
        let signals = self.posts.signals.clone();
        backends::signal::watch(signals).map_err(|e| Failure::Host(e.to_string()))?;
        consoles(self.flags, &self.posts, &mut self.ends)
    }
}

/// Says how a run ended.
fn report(flags: &BootFlags, outcome: std::io::Result<Outcome>) -> Result<u8, Failure> {
    let outcome = outcome.map_err(|e| Failure::Host(format!("the run was ended: {e}")))?;
    if let Some(path) = &flags.stats {
        stats::write(path, &outcome)?;
    }
    if let Exit::Superseded(_) | Exit::Detached | Exit::Diverged | Exit::Unusable = outcome.exit {
        log::warn!("{}", outcome.exit.name());
    }
    log::info!("{} at icount {}", outcome.exit.name(), outcome.icount.0);
    Ok(outcome.exit.status())
}

fn live_config(flags: &BootFlags, bundles: Bundles) -> LiveConfig {
    let timing = match flags.rate {
        RateFlag::Auto => Timing::Paced,
        RateFlag::Fixed(rate) => Timing::Fixed(rate),
    };
    let paced = timing == Timing::Paced;
    let wall_clock = match flags.rtc {
        Some(RtcFlag::Seconds(seconds)) => seconds * 1_000_000_000,
        None if !paced => FIXED_CLOCK * 1_000_000_000,
        Some(RtcFlag::Host) | None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64),
    };
    let from_host = paced && flags.seed.is_none();
    LiveConfig {
        timing,
        no_reboot: flags.no_reboot,
        max_icount: flags.max_icount.map(Icount),
        slice_seed: flags.slice_seed,
        wall_clock,
        entropy: if from_host { host_entropy() } else { seeded(flags.seed.unwrap_or(0)) },
        reseed: from_host.then_some(host_entropy),
        disk_sizes: Vec::new(),
        shared: flags.pair.shared_disk,
        bundles,
    }
}

/// Random bytes of the host.
fn host_entropy() -> [u8; 32] {
    let mut seed = [0; 32];
    let got = rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty());
    if got != Ok(seed.len()) {
        log::warn!("the host gave no random numbers");
    }
    seed
}

/// A random number of the host.
pub fn random_number() -> u128 {
    let seed = host_entropy();
    u128::from_le_bytes(*seed.first_chunk().expect("32 bytes"))
}

/// Bytes that follow from `number`.
fn seeded(number: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed
}
