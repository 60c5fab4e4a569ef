//! Every arbiter passes one contract: races of threads and of processes, retries, stale epochs,
//! restarts, kills.

mod contract;
mod servers;

use contract::{Subject, contract, register};
use drivers::arbiter::Arbiter;
use drivers::arbiter::dir::DirArbiter;
use drivers::arbiter::manual::{Manual, Promotion};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

struct Dir(tempfile::TempDir);

impl Subject for Dir {
    fn connect(&self) -> Box<dyn Arbiter> {
        Box::new(DirArbiter::open(self.0.path()).expect("a directory"))
    }

    fn target(&self) -> Option<String> {
        Some(format!("dir:{}", self.0.path().display()))
    }

    fn restart(&mut self) {}
}

#[test]
fn directory() {
    let mut dir = Dir(tempfile::tempdir().expect("a temporary directory"));
    contract(&mut dir);
    let left: Vec<_> = std::fs::read_dir(dir.0.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.starts_with('.'))
        .collect();
    // Killed claimants leave what they had begun; later claims of the same machine clear it away.
    assert!(left.len() <= 2, "{left:?}");
}

#[test]
fn a_directory_that_is_not_mounted_any_more_gives_no_verdict() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mounted, away) = (dir.path().join("mounted"), dir.path().join("away"));
    assert!(DirArbiter::open(&mounted).is_err(), "it is not made");
    let mut arbiter = DirArbiter::open_or_create(&mounted).expect("made");
    arbiter.claim(1, 1, 10).expect("a verdict");
    std::fs::rename(&mounted, &away).expect("rename");
    assert!(arbiter.claim(1, 2, 10).is_err(), "gone");
    std::fs::create_dir(&mounted).expect("the mount point");
    assert!(arbiter.claim(1, 2, 10).is_err(), "empty");
    assert!(arbiter.latest(1).is_err(), "empty");
    let mut other = DirArbiter::open(&mounted).expect("another one");
    other.claim(1, 1, 11).expect("a verdict");
    assert!(arbiter.claim(1, 2, 10).is_err(), "another directory");
    std::fs::remove_dir_all(&mounted).expect("remove");
    std::fs::rename(&away, &mounted).expect("rename");
    arbiter.claim(1, 2, 10).expect("it is back");
}

#[test]
fn a_damaged_directory_gives_no_verdict() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut arbiter = DirArbiter::open(dir.path()).expect("a directory");
    arbiter.claim(1, 1, 10).expect("a verdict");
    let file = dir.path().join(format!("{:032x}.{:020}", 1, 2));
    for bytes in [&b""[..], b"\xFF\xFE", b"ftemu-claim 1 ", &[b'0'; 100_000]] {
        std::fs::write(&file, bytes).expect("write");
        assert!(arbiter.claim(1, 2, 10).is_err());
        assert!(arbiter.claim(1, 1, 10).is_err());
        assert!(arbiter.latest(1).is_err());
    }
    arbiter.claim(2, 1, 10).expect("another machine does not mind");
    // Names that are almost those of claims are no claims.
    for name in ["2", "00000000000000000000000000000002.1", ".claim.", "\u{e9}.\u{e9}"] {
        std::fs::write(dir.path().join(name), "").expect("write");
    }
    arbiter.claim(2, 2, 10).expect("a verdict");
}

/// `manual` with a user who promotes whatever waits.
struct Eager(Promotion);

impl Subject for Eager {
    fn connect(&self) -> Box<dyn Arbiter> {
        Box::new(Manual::new(self.0.clone()))
    }

    fn target(&self) -> Option<String> {
        None
    }

    fn restart(&mut self) {}
}

#[test]
fn manual_with_an_eager_user() {
    let promotion = Promotion::default();
    let done = Arc::new(AtomicBool::new(false));
    let user = std::thread::spawn({
        let (promotion, done) = (promotion.clone(), done.clone());
        move || {
            while !done.load(Ordering::Relaxed) {
                if !promotion.promote() {
                    std::thread::yield_now();
                }
            }
        }
    });
    register(&Eager(promotion), 300);
    done.store(true, Ordering::Relaxed);
    user.join().expect("the user");
}

/// Not a test of its own: the process that the contract starts many of.
#[test]
fn claimant_process() {
    contract::claimant_process();
}
