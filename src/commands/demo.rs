//! `ftemu demo`: a pair on one machine, killed twice, and a client that notices nothing but a
//! pause.

use crate::cli::DemoFlags;
use crate::demo::cluster::{Cluster, Trouble};
use crate::demo::report::{Failover, Report};
use crate::failure::Failure;
use lan::client::{Plan, Session};
use std::time::{Duration, Instant};

/// How long anything may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the client counts undisturbed before each kill.
const QUIET: Duration = Duration::from_millis(1500);
/// Answers after a kill that show that the machine lives.
const ANSWERS: u64 = 50;
/// Pause of the client between two increments.
const PAUSE: Duration = Duration::from_millis(1);

/// Runs the demo; 0 if nothing was lost or repeated, otherwise 1.
pub fn run(flags: &DemoFlags) -> Result<u8, Failure> {
    let began = Instant::now();
    let say = |text: &str| {
        if !flags.json {
            println!("{:6.2} s  {text}", began.elapsed().as_secs_f64());
        }
    };
    let mut cluster = Cluster::new(flags.keep).map_err(|e| failed(&e))?;
    let report = show(&mut cluster, flags.failovers, &say);
    cluster.end(report.is_ok());
    let mut report = report.map_err(|e| failed(&e))?;
    report.seconds = began.elapsed().as_secs_f64();
    if flags.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(u8::from(!report.is_right()))
}

fn failed(trouble: &Trouble) -> Failure {
    Failure::Host(format!("demo: {trouble}"))
}

/// Kills the live side `failovers` times, with a new backup after each.
fn show(cluster: &mut Cluster, failovers: u32, say: &dyn Fn(&str)) -> Result<Report, Trouble> {
    say("a LAN, a primary and a backup start, each a process of its own");
    let address = cluster.start_lan()?;
    cluster.start_primary()?;
    cluster.start_backup()?;
    let plan = Plan { address, connect_within: PATIENCE, patience: PATIENCE, pause: PAUSE };
    let client = Session::start(plan).map_err(|e| Trouble(e.to_string()))?;
    say(&format!("a client counts up over one TCP connection to {address}"));
    let mut rows = Vec::new();
    for n in 1..=failovers {
        let before = cluster.wait_until_protected(PATIENCE)?;
        say(&format!("the pair is whole in epoch {}", before.epoch));
        std::thread::sleep(QUIET);
        let last = cluster.live_status()?;
        let killed_at = cluster.kill_live()?;
        say(&format!("SIGKILL to the live side at about instruction {}", last.icount));
        if !client.wait_for(ANSWERS, PATIENCE) {
            return Err(Trouble("the client gets no answers any more".into()));
        }
        let gap = client.seen().gap_around(killed_at, Duration::from_secs(2));
        let after = cluster.live_status()?;
        let gap_ms = gap.map_or(0.0, |gap| gap.length().as_secs_f64() * 1000.0);
        say(&format!(
            "the backup is live in epoch {}; the client waited {gap_ms:.0} ms",
            after.epoch
        ));
        rows.push(Failover { number: n, epoch: after.epoch, before: last, gap_ms });
        cluster.start_backup()?;
        say("a new backup starts and joins the running machine");
    }
    cluster.wait_until_protected(PATIENCE)?;
    say("the pair is whole again; the client stops, and the guest is asked to power off");
    let (seen, trouble) = client.finish();
    if let Some(trouble) = trouble {
        return Err(Trouble(trouble.to_string()));
    }
    cluster.power_down(PATIENCE)?;
    let (increments, lost, repeated) = (seen.increments, seen.lost, seen.repeated);
    Ok(Report { rows, increments, lost, repeated, seconds: 0.0 })
}
