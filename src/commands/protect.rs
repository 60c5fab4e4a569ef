//! `ftemu boot --role primary` and `--role backup`: a machine that survives the death of its
//! computer.

use super::boot::{BUILD, random_number};
use super::files;
use crate::cli::{BootFlags, DiskReads, PairFlags, Role};
use crate::failure::Failure;
use crate::targets::{Pairing, RateFlag};
use backends::disk::fence::Fence;
use backends::wake::Waker;
use drivers::arbiter::manual::Promotion;
use drivers::arbiter::target::Target;
use drivers::arbiter::{Arbiter, Claimed};
use drivers::channel::{Channel, ChannelConfig, Code, Formats, Greeting, Key, Secret};
use drivers::copy::Reads;
use drivers::outcome::{Exit, Outcome};
use drivers::pair::{Keep, Pair, Parts};
use drivers::sidecar::{self, Record};
use drivers::start_check::{self, Known, forced_epoch, start_check};
use emulator::machine::Config;
use ft::event::RecordRole;
use ft::types::{Epoch, HostNs, ReplicaId, VmId};
use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where a primary listens if it is not told.
const LOCAL: &str = "127.0.0.1:7478";

/// The pair of a process, and what it leaves on the disk at the end.
pub struct Protection {
    /// The pair.
    pub pair: Pair,
    records: Rc<RefCell<Records>>,
}

/// The record beside the first disk image, if there is one, or in place of an export.
struct Records {
    image: Option<PathBuf>,
    /// The disk is that of both sides.
    shared: bool,
    /// And so is the record: it is the live side's.
    common: bool,
    me: u128,
    peer: String,
    last: Option<Record>,
    /// The user gives up what this copy has.
    force: bool,
}

impl Records {
    fn store(&mut self, record: Record) -> io::Result<()> {
        let ours = !self.common || record.role == sidecar::Role::Primary;
        if let Some(image) = self.image.as_ref().filter(|_| ours) {
            sidecar::store(image, &record)?;
        }
        self.last = Some(record);
        Ok(())
    }

    /// What the protocol wants remembered.
    fn keep(
        &mut self,
        record: &ft::event::Record,
        icount: u64,
        peer: Option<&str>,
    ) -> io::Result<()> {
        let (vm, epoch) = (record.vm.0, record.epoch.0);
        let role = match record.role {
            RecordRole::Primary => sidecar::Role::Primary,
            RecordRole::Backup => sidecar::Role::Backup,
            RecordRole::Syncing => sidecar::Role::Syncing,
        };
        if role == sidecar::Role::Syncing {
            let checked = match &self.last {
                Some(last) if self.shared => start_check::same_machine(last, vm),
                last => start_check::join_check(last.as_ref(), vm, epoch),
            };
            match checked {
                Err(why) if self.force => log::warn!("joining by force, although {why}"),
                checked => checked.map_err(io::Error::other)?,
            }
        }
        let mut record = self.record(vm, epoch, role);
        record.icount = icount;
        if let Some(peer) = peer.filter(|_| self.peer.is_empty()) {
            // The port of who called is not where it can be called.
            record.peer = peer.rsplit_once(':').map_or(peer, |(host, _)| host).into();
        }
        self.store(record)
    }

    fn record(&self, vm: u128, epoch: u64, role: sidecar::Role) -> Record {
        Record {
            version: sidecar::VERSION,
            vm,
            epoch,
            role,
            incarnation: self.me,
            icount: 0,
            guest_ns: 0,
            clean: false,
            peer: match &self.last {
                Some(last) if self.peer.is_empty() => last.peer.clone(),
                _ => self.peer.clone(),
            },
        }
    }
}

impl Protection {
    /// The run is over, and its disks are durable.
    pub fn end(self, outcome: &io::Result<Outcome>) {
        match outcome {
            Ok(outcome) => self.ended(outcome.exit, outcome.icount.0, outcome.guest.0),
            Err(_) => self.pair.finish(),
        }
    }

    /// The process of a backup ends like this.
    pub fn leave(self, exit: Exit) {
        let icount = self.pair.icount();
        self.ended(exit, icount, 0);
    }

    fn ended(self, exit: Exit, icount: u64, guest_ns: u64) {
        let switched_off =
            matches!(exit, Exit::PowerOff | Exit::DebugExit(_) | Exit::Reset | Exit::Icount);
        let mut records = self.records.borrow_mut();
        if switched_off && let Some(mut record) = records.last.take() {
            record.clean = true;
            (record.icount, record.guest_ns) = (icount, guest_ns);
            if let Err(e) = records.store(record) {
                log::warn!("the record beside the image cannot be written: {e}");
            }
        }
        drop(records);
        self.pair.finish();
    }
}

/// How disks are read that both sides have; `None`: each has its own.
pub fn shared(flags: &BootFlags) -> Option<Reads> {
    flags.pair.shared_disk.then_some(match flags.pair.disk_reads {
        DiskReads::Log => Reads::Log,
        DiskReads::Backup => Reads::Backup,
    })
}

/// Refuses flags that do not go together.
pub fn check(flags: &BootFlags) -> Result<(), Failure> {
    let usage = |text: &str| Err(Failure::Usage(text.into()));
    let pair = &flags.pair;
    if pair.role == Role::Backup && pair.peer.is_none() && pair.listen.is_none() {
        return usage("a backup needs --peer HOST, where the primary is (or --listen)");
    }
    if pair.arbiter == Some(Target::None) && !pair.i_accept_split_brain {
        return usage(
            "with --arbiter none a machine may run on both sides at once, and its two histories cannot be joined again; \
             say --i-accept-split-brain if that is all right",
        );
    }
    if pair.shared_disk && (flags.snapshot || flags.disks.is_empty()) {
        return usage("--shared-disk needs disks that both sides reach, and no --snapshot");
    }
    if pair.disk_reads == DiskReads::Backup && !pair.shared_disk {
        return usage("--disk-reads backup is for a --shared-disk; of own copies nothing travels");
    }
    if pair.shared_disk && flags.rate != RateFlag::Auto {
        return usage("--shared-disk needs --rate auto");
    }
    if pair.arbiter.is_none() && beside(flags).is_none() {
        return usage(
            "--arbiter must say who decides which side is live when they lose each other: \
             dir:PATH, witness:HOST:PORT, etcd://HOST:PORT or manual; the same on both sides",
        );
    }
    Ok(())
}

/// The image beside which the record is; of an export, the record has a place of its own.
fn image(flags: &BootFlags) -> Result<Option<PathBuf>, Failure> {
    let Some(first) = flags.disks.first().filter(|_| !flags.snapshot) else { return Ok(None) };
    match files::nbd(first)? {
        None => Ok(Some(first.clone())),
        Some(address) => files::export_state(&address, flags.pair.state_dir.as_deref()).map(Some),
    }
}

/// The arbiter of who names none: a directory beside the image.
fn beside(flags: &BootFlags) -> Option<Target> {
    // Only a shared image has the same place on both sides.
    let default = flags.pair.role == Role::Primary || flags.pair.shared_disk;
    let image = flags.disks.first().filter(|path| !files::is_export(path))?;
    (default && !flags.snapshot).then(|| Target::beside(image))
}

/// Says so when an image of a pair is used alone.
pub fn warn_alone(flags: &BootFlags) {
    let record = image(flags).ok().flatten().map(|image| sidecar::load(&image));
    if let Some(Ok(Some(_)) | Err(_)) = record {
        log::warn!(
            "{}: this image is one of a pair's two copies, and the other one will not have what this run writes; \
             use --role primary",
            flags.disks[0].display()
        );
    }
}

/// Where bundles go: where the user says, beside the image, or here.
pub fn bundles(flags: &BootFlags) -> PathBuf {
    let beside = || flags.disks.first().and_then(|disk| disk.parent()).map(Path::to_path_buf);
    let found = flags.pair.bundle_dir.clone().or_else(beside);
    found.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| ".".into())
}

/// This side of the pair for the machine of `config`; `fence` stands before shared disks.
pub fn pair(
    flags: &BootFlags,
    config: &Config,
    fence: Option<Fence>,
    waker: Waker,
) -> Result<Protection, Failure> {
    let host = |e: io::Error| Failure::Host(e.to_string());
    let pair = &flags.pair;
    let key = match &pair.key {
        None => None,
        Some(path) => Some(Key::read(path).map_err(|e| Failure::file(path, e))?),
    };
    let image = image(flags)?;
    let target = pair.arbiter.clone().or_else(|| beside(flags));
    let target = target.expect("checked: without an image there is --arbiter");
    let bytes = key.as_ref().map(|key| &key.0);
    let promotion = Promotion::default();
    let mut arbiter = target
        .open(&promotion, bytes)
        .map_err(|e| Failure::Input(format!("--arbiter {target}: {e}")))?;
    let record = match &image {
        Some(image) => sidecar::load(image).map_err(|e| Failure::Input(e.to_string()))?,
        None => None,
    };
    let me = random_number();
    let peer = pair.peer.as_ref().map(ToString::to_string).unwrap_or_default();
    let (shared_disk, force) = (pair.shared_disk, pair.force);
    let common = shared_disk && !flags.disks.first().is_some_and(|disk| files::is_export(disk));
    let mut records = Records { image, shared: shared_disk, common, me, peer, last: record, force };
    let ask_user = remember_choice(&target, &promotion, &records) && pair.role != Role::Backup;
    if !pair.force && !shared_disk {
        give_back(&target, &mut *arbiter, records.last.as_ref());
    }
    let start = match pair.role {
        Role::Backup => {
            let known = records.last.as_ref().filter(|_| !pair.force);
            let vm = known.map(|record| VmId(record.vm));
            ft::Start::Spare { vm }
        }
        Role::Primary | Role::Solo => primary(pair, &target, &mut *arbiter, &mut records)?,
    };
    let (channel, inbox) = channel(flags, config, key, waker.clone())?;
    let mut times = ft::Config::new(ReplicaId(me));
    times.heartbeat = pair.heartbeat * HostNs::MS;
    times.timeout = pair.timeout * HostNs::MS;
    let records = Rc::new(RefCell::new(records));
    let kept = Rc::clone(&records);
    let keep: Keep =
        Box::new(move |record, icount, peer| kept.borrow_mut().keep(record, icount, peer));
    let disks = config.board.disks.iter().flatten().count();
    let arbiter_name = target.to_string();
    let parts = Parts {
        config: times,
        start,
        channel,
        inbox,
        arbiter,
        arbiter_name,
        promotion,
        ask_user,
        keep,
        disks,
        shared: fence.zip(shared(flags)),
    };
    let pair = Pair::new(parts, waker).map_err(host)?;
    Ok(Protection { pair, records })
}

/// Tells a manual arbiter what the user has said before. Whether the user has to say more than that
/// this side is started: it had a backup, and nobody knows what became of that.
fn remember_choice(target: &Target, promotion: &Promotion, records: &Records) -> bool {
    let Some(last) = records.last.as_ref().filter(|_| *target == Target::Manual) else {
        return false;
    };
    if last.role == sidecar::Role::Primary
        && let Some(epoch) = last.epoch.checked_sub(1)
    {
        promotion.remember(last.vm, Claimed { epoch, owner: last.incarnation });
    }
    !last.clean && last.epoch > 0 && !last.peer.is_empty() && !records.force
}

/// Gives back an epoch that this copy has won and never used, so that the other one can go on.
/// Whoever holds the image, as this process does, knows that the winner is gone.
fn give_back(target: &Target, arbiter: &mut dyn Arbiter, record: Option<&Record>) {
    let Some(record) = record.filter(|record| record.role == sidecar::Role::Backup) else { return };
    if !arbiter.remembers() {
        return;
    }
    let given = arbiter.latest(record.vm).and_then(|latest| {
        let epoch = start_check::unused_epoch(Some(record), Known::Latest(latest));
        let Some(epoch) = epoch else { return Ok(false) };
        arbiter.claim(record.vm, epoch, start_check::NOBODY).map(|_| true)
    });
    match given {
        Ok(false) => {}
        Ok(true) => log::warn!(
            "this copy had won epoch {} and was never live in it; that is given back: the other \
             side's --role primary can start now",
            record.epoch
        ),
        Err(e) => log::warn!("--arbiter {target}: {e}"),
    }
}

/// Whether this copy may start as primary, and in which epoch.
fn primary(
    flags: &PairFlags,
    target: &Target,
    arbiter: &mut dyn Arbiter,
    records: &mut Records,
) -> Result<ft::Start, Failure> {
    let vm = records.last.as_ref().map_or_else(random_number, |record| record.vm);
    let known = match arbiter.remembers() {
        false => Known::Nothing,
        true => {
            let latest = arbiter.latest(vm);
            let unreachable = |e| Failure::Input(format!("--arbiter {target}: {e}"));
            Known::Latest(latest.map_err(unreachable)?)
        }
    };
    let record = records.last.as_ref();
    let checked = match records.shared {
        true => start_check::shared_start_check(record, known),
        false => start_check(record, known),
    };
    let epoch = match checked {
        start_check::Start::Fresh => 0,
        start_check::Start::Resume { epoch } => epoch,
        start_check::Start::Refuse(why) if flags.force => {
            log::warn!("started by force, although {why}");
            forced_epoch(record, known)
        }
        start_check::Start::Refuse(why) => return Err(Failure::Input(why)),
    };
    let record = records.record(vm, epoch, sidecar::Role::Primary);
    records
        .store(record)
        .map_err(|e| Failure::Host(format!("the record beside the image: {e}")))?;
    Ok(ft::Start::Solo { vm: VmId(vm), epoch: Epoch(epoch) })
}

fn channel(
    flags: &BootFlags,
    config: &Config,
    key: Option<Key>,
    waker: Waker,
) -> Result<(Channel, drivers::channel::Inbox), Failure> {
    let pair = &flags.pair;
    let local = || backends::socket::Address::Tcp(LOCAL.into());
    let alone = pair.listen.is_none() && pair.peer.is_none();
    let store = || pair.key_store.clone();
    let secret = match (&pair.pair, key) {
        (Some(Pairing::Typed(code)), _) => Secret::Pairing { code: *code, store: store() },
        (Some(Pairing::Shown), _) => {
            let code = Code::generate().map_err(|e| Failure::Host(e.to_string()))?;
            log::warn!("start the other side with --pair {code}");
            Secret::Pairing { code, store: store() }
        }
        (None, Some(key)) => Secret::Key(key),
        (None, None) => Secret::Local,
    };
    let channel = ChannelConfig {
        listen: pair.listen.clone().or_else(|| alone.then(local)),
        peer: pair.peer.clone(),
        secret,
        greeting: greeting(flags, config),
    };
    let (channel, inbox) = Channel::open(channel, waker).map_err(Failure::Input)?;
    if let Some(port) = channel.port() {
        log::info!("listening on port {port}");
    }
    Ok((channel, inbox))
}

/// What this side says of its machine.
fn greeting(flags: &BootFlags, config: &Config) -> Greeting {
    let disks = config.board.disks.iter().flatten().map(|sectors| format!("{sectors} sectors"));
    let disks: Vec<String> = disks.collect();
    let mac = |mac: &[u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
    let cards: Vec<String> = config.board.nics.iter().map(mac).collect();
    let settings = [
        ("memory", config.ram_bytes.to_string()),
        ("disks", disks.join(", ")),
        ("network card", cards.join(", ")),
        ("serial ports", config.board.uarts.to_string()),
        ("direct boot", if flags.kernel.is_some() { "yes" } else { "no" }.into()),
        ("shared disks", if flags.pair.shared_disk { "yes" } else { "no" }.into()),
        ("data of disk reads", format!("{:?}", flags.pair.disk_reads).to_lowercase()),
        ("heartbeat", format!("{} ms", flags.pair.heartbeat)),
        ("timeout", format!("{} ms", flags.pair.timeout)),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let formats = Formats { log: ft::log::file::VERSION, snapshot: emulator::snapshot::VERSION };
    Greeting::new(BUILD, formats, drivers::session::configuration(config), settings)
}
