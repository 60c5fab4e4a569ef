//! The processes of the demo: each one is this program again.
//!
//! Contract: whatever happens, none of them is left running, and the directory with their sockets
//! and logs goes; it stays if it was asked for, or if something went wrong.

use serde_json::Value;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(5);
/// Where the guest counts.
const GUEST_PORT: u16 = 7777;

/// What went wrong, in a line.
#[derive(Debug)]
pub struct Trouble(pub String);

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        Self(e.to_string())
    }
}

/// What a side says of itself.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its machine is live.
    pub live: bool,
    /// It has a backup.
    pub protected: bool,
    /// The epoch.
    pub epoch: u64,
    /// Instructions retired.
    pub icount: u64,
    /// Entries of the log sent to the backup.
    pub log_entries: u64,
    /// Bytes of them.
    pub log_bytes: u64,
}

struct Side {
    number: u32,
    process: Child,
    killed: bool,
}

/// All processes of the demo.
pub struct Cluster {
    directory: PathBuf,
    program: PathBuf,
    keep: bool,
    lan: Option<Child>,
    sides: Vec<Side>,
}

impl Cluster {
    /// No process yet; `keep`: the directory stays.
    pub fn new(keep: bool) -> Result<Self, Trouble> {
        let program = std::env::current_exe()?;
        let directory = std::env::temp_dir().join(format!("ftemu-demo-{}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self { directory, program, keep, lan: None, sides: Vec::new() })
    }

    fn path(&self, name: &str, number: u32) -> PathBuf {
        self.directory.join(format!("{name}-{number}"))
    }

    fn command(&self, name: &str) -> Result<Command, Trouble> {
        let errors = File::create(self.directory.join(format!("{name}.log")))?;
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        Ok(command)
    }

    /// Starts the LAN; where the host reaches the guest's counter.
    pub fn start_lan(&mut self) -> Result<SocketAddr, Trouble> {
        let mut command = self.command("lan")?;
        let listen = format!("unix:{}", self.directory.join("lan").display());
        let forward = format!("tcp:127.0.0.1:0-:{GUEST_PORT}");
        command.args(["lan", "--json", "--no-dns", "--listen", &listen, "--forward", &forward]);
        let mut lan = command.stdout(Stdio::piped()).spawn()?;
        let output = lan.stdout.take();
        self.lan = Some(lan);
        let mut line = String::new();
        if let Some(output) = output {
            BufReader::new(output).read_line(&mut line)?;
        }
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        let address = ready["forwards"][0]["host"].as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| self.died("the LAN", "lan"))
    }

    /// What a process that did not do its duty wrote.
    fn died(&self, who: &str, name: &str) -> Trouble {
        let log = fs::read_to_string(self.directory.join(format!("{name}.log")));
        let last = log.unwrap_or_default().lines().last().unwrap_or("without a word").to_owned();
        Trouble(format!("{who} did not come up: {last}"))
    }

    /// Starts the first side, with the machine.
    pub fn start_primary(&mut self) -> Result<(), Trouble> {
        self.start_side("primary", &[])
    }

    /// Starts a side that backs up the live one.
    pub fn start_backup(&mut self) -> Result<(), Trouble> {
        let live = self.sides.iter().rfind(|side| !side.killed);
        let live = live.ok_or_else(|| Trouble("no side is left".into()))?.number;
        let peer = format!("unix:{}", self.path("channel", live).display());
        self.start_side("backup", &["--peer".into(), peer])
    }

    fn start_side(&mut self, role: &str, more: &[String]) -> Result<(), Trouble> {
        let number = self.sides.len() as u32 + 1;
        let mut command = self.command(&format!("side-{number}"))?;
        let net = format!("unix:{}", self.directory.join("lan").display());
        let listen = format!("unix:{}", self.path("channel", number).display());
        let arbiter = format!("dir:{}", self.directory.join("arbiter").display());
        let serial = format!("file:{}", self.path("serial", number).display());
        fs::create_dir_all(self.directory.join("arbiter"))?;
        command.args(["boot", "-m", "32M", "--role", role, "--net", &net, "--listen", &listen]);
        command.args(["--arbiter", &arbiter, "--serial", &serial, "--control"]);
        command.arg(self.path("control", number)).args(more);
        let process = command.spawn()?;
        self.sides.push(Side { number, process, killed: false });
        Ok(())
    }

    /// What side `number` says of itself; `None`: nothing (yet).
    fn status(&self, number: u32) -> Option<Status> {
        let mut command = Command::new(&self.program);
        command.arg("ctl").arg(self.path("control", number)).args(["status", "--json"]);
        let output = command.stderr(Stdio::null()).output().ok()?;
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let number = |name: &str| status[name].as_u64().unwrap_or(0);
        Some(Status {
            live: matches!(status["role"].as_str()?, "primary" | "solo"),
            protected: status["protected"].as_bool()?,
            epoch: number("epoch"),
            icount: number("icount"),
            log_entries: number("log_entries"),
            log_bytes: number("log_bytes"),
        })
    }

    fn living(&self) -> impl Iterator<Item = u32> + '_ {
        self.sides.iter().filter(|side| !side.killed).map(|side| side.number)
    }

    fn live(&self) -> Option<(u32, Status)> {
        self.living().find_map(|n| self.status(n).filter(|s| s.live).map(|status| (n, status)))
    }

    /// What the live side says of itself.
    pub fn live_status(&self) -> Result<Status, Trouble> {
        let live = self.live().ok_or_else(|| Trouble("no side is live".into()))?;
        Ok(live.1)
    }

    /// Waits until the live side has a backup.
    pub fn wait_until_protected(&mut self, patience: Duration) -> Result<Status, Trouble> {
        let end = Instant::now() + patience;
        loop {
            if let Some((_, status)) = self.live().filter(|(_, status)| status.protected) {
                return Ok(status);
            }
            let ended = self.sides.iter_mut().find_map(|side| match side.process.try_wait() {
                Ok(Some(_)) if !side.killed => Some(side.number),
                _ => None,
            });
            if let Some(number) = ended {
                return Err(self.died("a side of the pair", &format!("side-{number}")));
            }
            if Instant::now() >= end {
                return Err(Trouble("the pair is not whole in time".into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Kills the live side; when.
    pub fn kill_live(&mut self) -> Result<Instant, Trouble> {
        let (number, _) = self.live().ok_or_else(|| Trouble("no side is live".into()))?;
        let side = self.sides.iter_mut().find(|side| side.number == number);
        let side = side.ok_or_else(|| Trouble("no side is live".into()))?;
        let now = Instant::now();
        side.process.kill()?;
        side.killed = true;
        side.process.wait()?;
        Ok(now)
    }

    /// Presses the power button, and waits for both sides to end in order.
    pub fn power_down(&mut self, patience: Duration) -> Result<(), Trouble> {
        let (number, _) = self.live().ok_or_else(|| Trouble("no side is live".into()))?;
        let mut command = Command::new(&self.program);
        command.arg("ctl").arg(self.path("control", number)).arg("powerdown");
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        let end = Instant::now() + patience;
        for side in self.sides.iter_mut().filter(|side| !side.killed) {
            let status = loop {
                if let Some(status) = side.process.try_wait()? {
                    break status;
                }
                if Instant::now() >= end {
                    return Err(Trouble("the guest does not power off".into()));
                }
                std::thread::sleep(LOOK);
            };
            side.killed = true;
            if !status.success() {
                return Err(Trouble(format!("side {} ended with {status}", side.number)));
            }
        }
        Ok(())
    }

    /// Ends what still runs; `well`: nothing went wrong, so nobody needs the logs.
    pub fn end(mut self, well: bool) {
        self.stop();
        if well && !self.keep {
            let _ = fs::remove_dir_all(&self.directory);
        } else {
            eprintln!("ftemu: the logs of all sides are in {}", shown(&self.directory));
        }
    }

    fn stop(&mut self) {
        let sides = self.sides.iter_mut().map(|side| &mut side.process);
        for process in sides.chain(&mut self.lan) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
