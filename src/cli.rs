//! The flags: one table, from which parsing, help, man pages and completions come.
// The brackets in help texts are not links.
#![allow(rustdoc::broken_intra_doc_links)]

use crate::targets::{self, NetTarget, Pairing, RateFlag, RtcFlag, SerialTarget};
use backends::socket::Address;
use clap::{Args, Parser, Subcommand, ValueEnum};
use drivers::arbiter::target::Target;
use lan::config::{Forward, Subnet};
use std::net::SocketAddr;
use std::path::PathBuf;

const EXIT_STATUS: &str = "\
Exit status:
  0            the guest powered off, was reset under --no-reboot, or the user
               quit (Ctrl-A X); a replay found no difference
  (v << 1) | 1 the guest wrote v to the isa-debug-exit port F4h (as QEMU)
  2            wrong usage
  3            a file or an address that cannot be used
  4            a replay differs from its record
  5            the host failed on the way (a full disk, for example)
  6            another replica of the machine is live: this one must not be
  7            this backup's machine went another way than the primary's
  8            this backup was taken out of its pair
  9            this backup could not follow the primary
  10           the engines of --engine both differ
  11           the machine ended before this side had it
  128 + n      ended by signal n";

const KEYS: &str = "\
With --serial stdio on a terminal every key goes to the guest, Ctrl-C too, except:
  Ctrl-A H  help         Ctrl-A P  press the power button
  Ctrl-A X  quit         Ctrl-A R  press the reset button
  Ctrl-A Ctrl-A          send Ctrl-A
When standard input is not a terminal, Ctrl-C ends the emulator.";

const LAN: &str = "\
Guests plug in with ftemu boot --net stream:HOST:PORT or unix:PATH (or QEMU's
-netdev stream). The gateway gives addresses by DHCP, answers ARP and ping,
relays DNS, and carries guests' TCP, UDP and ping to the host's networks with
the host's own sockets. A guest that comes back on another cable with the same
hardware address keeps its connections.

It says on standard output where guests plug in and where forwards are:
  listening 127.0.0.1:40001
  forward tcp 127.0.0.1:8080 -> 10.0.2.15:80
  ready

Exit status:
  0            ended by SIGINT, SIGTERM or SIGHUP
  2            wrong usage
  3            a file or an address that cannot be used
  5            the host failed on the way";

/// A PC in software: counts every instruction, records what reaches it from outside, and replays
/// itself bit for bit.
#[derive(Debug, Parser)]
#[command(name = "ftemu", version, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Say more on standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it: a pair on this machine, its live side killed twice, and a client that loses nothing
    Demo(DemoFlags),
    /// Switch a machine on
    #[command(after_help = format!("{KEYS}\n\n{EXIT_STATUS}"))]
    Boot(Box<BootFlags>),
    /// Execute a recorded log again and check that it ends in the same states
    #[command(after_help = EXIT_STATUS)]
    Replay(ReplayFlags),
    /// Play the network between guests and the host: a switch and a gateway, without root
    #[command(after_help = LAN)]
    Lan(LanFlags),
    /// Serve as the third computer of pairs: says which replica won which epoch, so that two never
    /// run at once
    #[command(after_help = EXIT_STATUS)]
    Witness(WitnessFlags),
    /// Ask or tell a running machine something, over its control socket
    #[command(after_help = EXIT_STATUS)]
    Ctl(CtlFlags),
    /// Make the key that both sides of a pair need
    #[command(after_help = EXIT_STATUS)]
    Keygen(KeygenFlags),
    /// Print a completion script for a shell
    Completions(CompletionsFlags),
    /// Print a manual page
    Man(ManFlags),
}

/// Engines that execute the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Decoded blocks, one instruction after the other; on every computer
    Interpreter,
    /// Blocks translated to this computer's own instructions, where it is an x86-64
    Jit,
    /// Both on two machines with the same inputs, compared all the way; ends where they differ
    Both,
}

/// What a log holds of the disks' content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogDiskData {
    /// With --snapshot name the image, otherwise as 'always'
    Auto,
    /// Each sector that the guest reads before it writes it
    Always,
}

/// Flags of `ftemu boot`.
#[derive(Debug, Args)]
pub struct BootFlags {
    /// Raw disk images or nbd://HOST:PORT/EXPORT, up to four; without one and without --kernel the
    /// embedded guest 'counter' on a throw-away disk
    #[arg(value_name = "DISK")]
    pub disks: Vec<PathBuf>,
    /// Memory: a number with K, M or G; without a unit, MiB
    #[arg(short, long, value_name = "SIZE", default_value = "512M", value_parser = targets::memory)]
    pub memory: u64,
    /// Boot this bzImage instead of a disk
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for --kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line for --kernel
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "")]
    pub append: String,
    /// Throw writes to the disks away at the end
    #[arg(long)]
    pub snapshot: bool,
    /// Serial port: stdio, none, file:PATH, tcp:HOST:PORT[,server[,nowait]] or
    /// unix:PATH[,server[,nowait]]; again for COM2 and so on [default: stdio]
    #[arg(long, value_name = "WHERE", value_parser = targets::serial)]
    pub serial: Vec<SerialTarget>,
    /// Network card: none, tap:IF, stream:HOST:PORT, stream-listen:HOST:PORT, unix:PATH or
    /// unix-listen:PATH
    #[arg(long, value_name = "WHERE", default_value = "none", value_parser = targets::net)]
    pub net: NetTarget,
    /// Address of the network card
    #[arg(long, value_name = "MAC", default_value = "52:54:00:12:34:56", value_parser = targets::mac)]
    pub mac: [u8; 6],
    /// Write every frame of the network card to a pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// End when the guest resets itself
    #[arg(long)]
    pub no_reboot: bool,
    /// What executes the guest's instructions; a log of one engine replays with the other [default:
    /// jit, where the host is an x86-64 computer with Linux]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// Write a log that 'ftemu replay' can execute again; a backup's begins with the machine's
    /// state when it joins, and goes on when it is live
    #[arg(long, value_name = "LOG")]
    pub record: Option<PathBuf>,
    /// What the log holds of the disks' content
    #[arg(long, value_name = "WHAT", default_value = "auto", requires = "record")]
    pub log_disk_data: LogDiskData,
    /// Write what the run cost to a JSON file
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Write where the guest's instructions and the JIT's time went to a JSON file: the hottest
    /// blocks and functions, exits by cause, translation
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Names for --profile: the guest kernel's System.map or an ELF file with symbols (boot a Linux
    /// with nokaslr)
    #[arg(long, value_name = "FILE", requires = "profile")]
    pub symbols: Option<PathBuf>,
    /// Write what the guest sends to the debug console, port E9h, to a file or 'stderr'
    #[arg(long, value_name = "FILE")]
    pub debugcon: Option<PathBuf>,
    /// Nanoseconds of guest time per instruction; 'auto' keeps the guest's clock with the host's. A
    /// fixed rate does not wait for the host's clock, and a run without input is the same every
    /// time
    #[arg(long, value_name = "RATE", default_value = "auto", value_parser = targets::rate)]
    pub rate: RateFlag,
    /// The guest's clock at power-on: host, or seconds since 1970 [default: host, or 1767225600
    /// with a fixed --rate]
    #[arg(long, value_name = "TIME", value_parser = targets::rtc)]
    pub rtc: Option<RtcFlag>,
    /// Seed of the guest's random numbers, instead of the host's (with a fixed --rate: instead of
    /// 0)
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// End at this instruction count
    #[arg(long, value_name = "COUNT")]
    pub max_icount: Option<u64>,
    /// Run in random slices, for tests
    #[arg(long, value_name = "NUMBER", hide_short_help = true)]
    pub slice_seed: Option<u64>,
    /// To survive the death of this computer
    #[command(flatten)]
    pub pair: PairFlags,
}

/// What a process is to its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The only one
    Solo,
    /// It switches the machine on, and takes a backup whenever one comes
    Primary,
    /// It takes the machine's state from the other side, follows it, and goes on when that side
    /// dies
    Backup,
}

/// Where a backup has the data from that its guest reads off a shared disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DiskReads {
    /// Out of the log: the primary sends it
    Log,
    /// From the disk, which it reads itself: less to send, but the primary's writes wait until what
    /// they overwrite has been read
    Backup,
}

/// Flags of `ftemu boot` for a pair.
#[derive(Debug, Args)]
#[command(next_help_heading = "A pair of computers")]
pub struct PairFlags {
    /// What this side is when it starts; the roles change when one side dies
    #[arg(long, value_name = "ROLE", default_value = "solo")]
    pub role: Role,
    /// Wait for the other side here: HOST:PORT or unix:PATH [default of a primary without --peer:
    /// 127.0.0.1:7478]
    #[arg(long, value_name = "ADDR", value_parser = targets::channel_listen)]
    pub listen: Option<Address>,
    /// Call the other side here, again and again until it is there: HOST[:PORT] or unix:PATH
    #[arg(long, value_name = "ADDR", value_parser = targets::peer)]
    pub peer: Option<Address>,
    /// The key that both sides have: 32 bytes or 64 hexadecimal digits; without a key only this
    /// computer is reached
    #[arg(long, value_name = "FILE", conflicts_with = "pair")]
    pub key: Option<PathBuf>,
    /// Instead of a key: without a code, show one; with a code, the one that the other side shows
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "", value_parser = targets::pairing)]
    pub pair: Option<Pairing>,
    /// Where the key goes that --pair agrees on
    #[arg(long, value_name = "FILE", requires = "pair")]
    pub key_store: Option<PathBuf>,
    /// Who decides which side is live when they lose each other; the same for both: dir:PATH on
    /// shared storage, witness:HOST:PORT, etcd://HOST:PORT, manual or none [default of a primary: a
    /// directory beside its image]
    #[arg(long, value_name = "TARGET")]
    pub arbiter: Option<Target>,
    /// With --arbiter none: the machine may run on both sides at once
    #[arg(long)]
    pub i_accept_split_brain: bool,
    /// Start although the other copy is newer, or may be
    #[arg(long)]
    pub force: bool,
    /// The disks are the same on both sides, on storage that both reach, instead of a copy on each:
    /// a path, or nbd://HOST:PORT/EXPORT
    #[arg(long)]
    pub shared_disk: bool,
    /// With --shared-disk: how the backup gets what the guest reads
    #[arg(long, value_name = "HOW", default_value = "log")]
    pub disk_reads: DiskReads,
    /// Where the record and the lock of a disk are that is an NBD export [default:
    /// $XDG_STATE_HOME/ftemu, or ~/.local/state/ftemu]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Listen on this Unix socket for 'ftemu ctl'
    #[arg(long, value_name = "SOCK")]
    pub control: Option<PathBuf>,
    /// Where a directory goes with what can be seen of two sides that went different ways [default:
    /// beside the image]
    #[arg(long, value_name = "DIR")]
    pub bundle_dir: Option<PathBuf>,
    /// Milliseconds between two signs of life, at most
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub heartbeat: u64,
    /// Milliseconds of silence after which the other side counts as lost
    #[arg(long, value_name = "MS", default_value_t = 350, value_parser = clap::value_parser!(u64).range(5..=60_000))]
    pub timeout: u64,
}

/// Flags of `ftemu replay`.
#[derive(Debug, Args)]
pub struct ReplayFlags {
    /// The log that 'ftemu boot --record' wrote, or a bundle of two sides that went different ways
    pub log: PathBuf,
    /// Stop at this instruction count and print the digest of the state
    #[arg(long, value_name = "ICOUNT")]
    pub to: Option<u64>,
    /// Where the guest's serial output goes: none, stdio or file:PATH; again for COM2 and so on
    /// [default: none]
    #[arg(long, value_name = "WHERE", value_parser = targets::serial)]
    pub serial: Vec<SerialTarget>,
    /// Write every frame of the network card to a pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// What executes the guest's instructions; a log of one engine replays with the other [default:
    /// jit, where the host is an x86-64 computer with Linux]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<Engine>,
    /// Write what the replay cost to a JSON file
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// Write what the guest sends to the debug console, port E9h, to a file or 'stderr'
    #[arg(long, value_name = "FILE")]
    pub debugcon: Option<PathBuf>,
    /// Run in random slices, for tests
    #[arg(long, value_name = "NUMBER", hide_short_help = true)]
    pub slice_seed: Option<u64>,
}

/// Flags of `ftemu lan`.
#[derive(Debug, Args)]
pub struct LanFlags {
    /// Where guests plug in: HOST:PORT or unix:PATH; port 0 takes a free one
    #[arg(long, value_name = "WHERE", default_value = "127.0.0.1:0", value_parser = targets::listen)]
    pub listen: Address,
    /// The network's addresses; the gateway has the second one, the first guest the 15th
    #[arg(long, value_name = "NETWORK", default_value = "10.0.2.0/24")]
    pub subnet: Subnet,
    /// Lead a port of the host to a port of a guest: tcp:HOSTADDR:PORT-[GUESTADDR]:PORT, or udp:…
    #[arg(long, value_name = "PORTS")]
    pub forward: Vec<Forward>,
    /// Name server for guests instead of those of /etc/resolv.conf: ADDRESS[:PORT]
    #[arg(long, value_name = "ADDRESS", value_parser = targets::resolver)]
    pub resolver: Vec<SocketAddr>,
    /// Relay no names
    #[arg(long, conflicts_with = "resolver")]
    pub no_dns: bool,
    /// Keep guests from the services on this host's loopback, which otherwise are at the gateway's
    /// address
    #[arg(long)]
    pub no_host: bool,
    /// Write every frame to a pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Say where everything is in one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `ftemu witness`.
#[derive(Debug, Args)]
pub struct WitnessFlags {
    /// Address to serve, as in 0.0.0.0:4810; replicas name it with --arbiter witness:HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: String,
    /// File that remembers; created when missing. It must outlive this computer's crashes
    #[arg(long, value_name = "FILE")]
    pub state: PathBuf,
    /// The pair's key: whoever has not got it is refused. Without one, everybody who reaches the
    /// address may claim, and so stop a machine: then use it in networks that you trust only
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Flags of `ftemu ctl`.
#[derive(Debug, Args)]
pub struct CtlFlags {
    /// The machine's control socket
    #[arg(value_name = "SOCK")]
    pub socket: PathBuf,
    /// What to ask
    #[command(subcommand)]
    pub action: CtlAction,
}

/// What a running machine can be asked.
#[derive(Debug, Subcommand)]
pub enum CtlAction {
    /// Say how the machine is
    Status {
        /// In one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Backup: go live. You say that the primary is dead
    Promote,
    /// Primary: go on without the backup
    Detach,
    /// Press the power button: the guest shuts itself down, and both sides end
    Powerdown,
    /// Press the reset button
    Reset,
    /// Stop the machine
    Pause,
    /// Let it go on
    Resume,
    /// Write the machine's state to a file on the machine's computer
    Snapshot {
        /// The file
        file: PathBuf,
    },
    /// Press keys, by QEMU's names
    Sendkey {
        /// As in: ctrl-alt-delete, or: l s ret
        #[arg(required = true)]
        keys: Vec<String>,
    },
}

/// Flags of `ftemu keygen`.
#[derive(Debug, Args)]
pub struct KeygenFlags {
    /// A new file, for you alone: copy it to the other computer, and give both --key FILE
    pub file: PathBuf,
}

/// Flags of `ftemu demo`.
#[derive(Debug, Args)]
pub struct DemoFlags {
    /// Print one JSON object instead of a story and a table
    #[arg(long)]
    pub json: bool,
    /// How often the live side is killed
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub failovers: u32,
    /// Leave the directory with the sides' logs
    #[arg(long)]
    pub keep: bool,
}

/// Flags of `ftemu completions`.
#[derive(Debug, Args)]
pub struct CompletionsFlags {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Flags of `ftemu man`.
#[derive(Debug, Args)]
pub struct ManFlags {
    /// The page of this command instead of the whole program
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_table_is_sound() {
        Cli::command().debug_assert();
    }
}
