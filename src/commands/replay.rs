//! `ftemu replay`: a machine in the time of a log, without the host's devices.

use super::boot::{self, BUILD, machine};
use super::{counter, files, stats};
use crate::cli::ReplayFlags;
use crate::engine;
use crate::failure::Failure;
use crate::targets::SerialTarget;
use backends::console::{Console, Full, file, stdio};
use backends::disk::Disk;
use backends::disk::fingerprint::fingerprint;
use backends::disk::memory::MemoryDisk;
use backends::disk::overlay::Overlay;
use backends::disk::raw::Access;
use backends::net::capture::Capture;
use devices::time::Icount;
use drivers::bundle;
use drivers::check;
use drivers::copy::DiskCopy;
use drivers::host::Ends;
use drivers::replay::{self, LogSource, ReplayConfig, ReplayError, Replayed};
use drivers::session::{DiskSource, NamedBoot, NamedFile, Session};
use emulator::machine::{Config, Machine};
use firmware::DirectBoot;
use ft::log::file::Tail;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Replays a log.
pub fn run(flags: &ReplayFlags) -> Result<u8, Failure> {
    let engine = engine::choose(flags.engine)?;
    let path = &log_of(&flags.log)?;
    let file = File::open(path).map_err(|e| Failure::file(path, files::describe(&e)))?;
    let mut log = LogSource::new(BufReader::with_capacity(1 << 16, file));
    let (build, config) = log.start().map_err(|e| Failure::file(path, e))?;
    let foreign = || format!("is a log of another machine, written by '{build}'");
    let session = Session::decode(&config).ok_or_else(|| Failure::file(path, foreign()))?;
    let machine_config = configuration(path, &session)?;
    boot::has_memory(&machine_config)?;
    let taken = log.machine(&machine_config).map_err(|e| Failure::file(path, e))?;
    let (machine, handover) = match taken {
        Some((machine, handover)) => (machine, Some(handover)),
        // Whoever recorded it had no machine yet.
        None if session.initial == 0 => {
            let nothing = ReplayError::Snapshot("nothing of it had come".into());
            return Err(Failure::file(path, nothing));
        }
        None => (power_on(path, &session, &machine_config, &foreign())?, None),
    };
    drop(machine_config);
    let disks = disks(path, &session)?;
    let ends = ends(flags)?;
    let config = ReplayConfig { to: flags.to.map(Icount), slice_seed: flags.slice_seed, handover };
    let mut guest = engine.guest(machine)?;
    let replayed = replay::run(&mut guest, &mut log, disks, ends, &config);
    engine::verdict(&*guest)?;
    let replayed = replayed.map_err(|e| match e {
        ReplayError::Diverged { .. } => Failure::Diverged(format!("{}: {e}", path.display())),
        _ => Failure::file(path, e),
    })?;
    report(path, flags, &replayed);
    if let Some(path) = &flags.stats {
        stats::write(path, &replayed.outcome)?;
    }
    Ok(0)
}

/// The log at `path`, or that of the bundle there.
fn log_of(path: &Path) -> Result<PathBuf, Failure> {
    let metadata = std::fs::metadata(path).map_err(|e| Failure::file(path, files::describe(&e)))?;
    if !metadata.is_dir() {
        return Ok(path.to_owned());
    }
    let inside = path.join(bundle::LOG);
    if inside.is_file() {
        return Ok(inside);
    }
    Err(Failure::file(
        path,
        match path.join("report.txt").is_file() {
            true => "has no log: no state before the difference was kept; see report.txt",
            false => "is a directory, not a log",
        },
    ))
}

/// The machine of a log, just switched on.
fn power_on(
    log: &Path,
    session: &Session,
    config: &Config,
    foreign: &str,
) -> Result<Machine, Failure> {
    let mut machine = machine(config)?;
    if check::whole(&machine.digest()) != session.initial {
        let what = format!("{foreign}: this is '{BUILD}', which makes a different one");
        return Err(Failure::file(log, what));
    }
    Ok(machine)
}

/// What the machine of a log is made of.
fn configuration(log: &Path, session: &Session) -> Result<Config, Failure> {
    let limit = session.ram_bytes;
    let bounds = 1 << 20..=devices::ram::MAX;
    if !bounds.contains(&limit) || !limit.is_multiple_of(1 << 20) {
        return Err(Failure::file(log, "describes a machine that cannot be"));
    }
    let direct_boot = session.direct_boot.as_ref().map(|boot| direct_boot(log, boot, limit));
    Ok(Config {
        ram_bytes: session.ram_bytes,
        board: session.board.clone(),
        direct_boot: direct_boot.transpose()?,
    })
}

fn direct_boot(log: &Path, boot: &NamedBoot, limit: u64) -> Result<DirectBoot, Failure> {
    let initrd = boot.initrd.as_ref().map(|named| named_file(log, named, limit)).transpose()?;
    Ok(DirectBoot {
        kernel: named_file(log, &boot.kernel, limit)?,
        initrd: initrd.unwrap_or_default(),
        append: boot.append.clone(),
    })
}

/// Where a file that the log names may be: where it was, or beside the log.
fn places(log: &Path, named: &NamedFile) -> Vec<PathBuf> {
    let recorded = PathBuf::from(&named.path);
    let beside = recorded.file_name().map(|name| log.with_file_name(name));
    std::iter::once(recorded).chain(beside).filter(|path| path.is_file()).collect()
}

fn missing(log: &Path, named: &NamedFile) -> Failure {
    let what = format!(
        "needs {} as it was at the time of the record; it is neither there nor beside the log",
        named.path
    );
    Failure::file(log, what)
}

fn named_file(log: &Path, named: &NamedFile, limit: u64) -> Result<Vec<u8>, Failure> {
    for path in places(log, named) {
        let bytes = files::read(&path, limit)?;
        if named.is(&bytes) {
            return Ok(bytes);
        }
    }
    Err(missing(log, named))
}

fn disks(log: &Path, session: &Session) -> Result<Vec<DiskCopy>, Failure> {
    let host = |e| Failure::Host(format!("a replay needs a temporary file: {e}"));
    let mut disks = Vec::new();
    for (source, sectors) in session.disks.iter().zip(session.board.disks) {
        let sectors = sectors.unwrap_or(0);
        disks.push(match source {
            DiskSource::Log => DiskCopy::unknown(sectors).map_err(host)?,
            DiskSource::Image(named) => named_image(log, named)?,
            DiskSource::Embedded(hash) => {
                let mut disk = MemoryDisk::new(counter::IMAGE.to_vec());
                if fingerprint(&mut disk, None).ok() != Some(*hash) {
                    return Err(Failure::file(log, "was recorded with another embedded guest"));
                }
                DiskCopy::named(Box::new(disk))
            }
        });
    }
    Ok(disks)
}

fn named_image(log: &Path, named: &NamedFile) -> Result<DiskCopy, Failure> {
    for path in places(log, named) {
        let mut image = files::image(&path, Access::ReadOnly)?;
        if image.sectors() * 512 == named.len && files::name(&path, &mut image)?.hash == named.hash
        {
            let overlay = Overlay::new(image)
                .map_err(|e| Failure::Host(format!("a replay needs a temporary file: {e}")))?;
            return Ok(DiskCopy::named(Box::new(overlay)));
        }
    }
    Err(missing(log, named))
}

fn ends(flags: &ReplayFlags) -> Result<Ends, Failure> {
    let mut ends = Ends::default();
    for target in &flags.serial {
        ends.consoles.push(match target {
            SerialTarget::None => Console::None,
            SerialTarget::Stdio => {
                stdio::output(Full::Wait).map_err(|e| Failure::Host(e.to_string()))?
            }
            SerialTarget::File(path) => {
                file::open(path).map_err(|e| Failure::file(path, files::describe(&e)))?
            }
            SerialTarget::Socket { .. } => {
                return Err(Failure::Usage(
                    "a replay's serial output goes to stdio or a file".into(),
                ));
            }
        });
    }
    if let Some(path) = &flags.debugcon {
        ends.debug = Some(files::debug(path)?);
    }
    if let Some(path) = &flags.pcap {
        let out: Box<dyn std::io::Write> = Box::new(files::create(path)?);
        ends.capture = Some(Capture::new(out, 1).map_err(|e| Failure::file(path, e))?);
    }
    Ok(ends)
}

/// Says on standard error how it went.
fn report(path: &Path, flags: &ReplayFlags, replayed: &Replayed) {
    let outcome = &replayed.outcome;
    match replayed.tail {
        Some(Tail::Cut(bytes)) => log::warn!(
            "{}: the log ends inside a frame ({bytes} bytes are left over); all before it was used",
            path.display()
        ),
        Some(Tail::Damaged(what)) => log::warn!(
            "{}: the log is damaged ({what:?}); all before the damage was used",
            path.display()
        ),
        Some(Tail::Clean) | None => {}
    }
    eprintln!(
        "replayed {} instructions in {:.1} s, {} digests equal; end: {}",
        outcome.icount.0,
        outcome.host_ns as f64 / 1e9,
        replayed.digests,
        outcome.exit.name()
    );
    if flags.to.is_some() {
        let digest = &outcome.digest;
        println!("icount  {}", outcome.icount.0);
        println!("time    {} ns", outcome.guest.0);
        println!("digest  {:032x}", check::whole(digest));
        println!("cpu     {:032x}", digest.cpu);
        println!("ram     {:032x}", digest.ram);
        for (name, value) in &digest.devices {
            println!("{name:<7} {value:032x}");
        }
    }
}
