//! Two processes, one machine, and the user as arbiter.

mod ftemu;

use ftemu::sides::{IMAGE, PATIENCE, Side, ready};
use ftemu::{Place, expect_status, run, text};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// A cable between two sides that can be cut.
struct Cable {
    cut: Arc<AtomicBool>,
    ends: Arc<Mutex<Vec<UnixStream>>>,
}

impl Cable {
    /// Who connects to `from` is connected to `to`.
    fn new(from: &Path, to: PathBuf) -> Self {
        let listener = UnixListener::bind(from).expect("a socket");
        let (cut, ends) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let cable = Self { cut: Arc::clone(&cut), ends: Arc::clone(&ends) };
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = UnixStream::connect(&to) else { continue };
                for (one, other) in [(&near, &far), (&far, &near)] {
                    let (from, into) = (one.try_clone(), other.try_clone());
                    let (from, into) = (from.expect("a clone"), into.expect("a clone"));
                    std::thread::spawn(move || carry(from, into));
                }
                ends.lock().expect("no panic").extend([near, far]);
            }
        });
        cable
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for end in self.ends.lock().expect("no panic").drain(..) {
            let _ = end.shutdown(std::net::Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

fn carry(mut from: UnixStream, mut into: UnixStream) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes)
        && into.write_all(&bytes[..n]).is_ok()
    {}
    let _ = into.shutdown(std::net::Shutdown::Both);
}

/// A side whose user decides, with its own copy of the disk.
fn side(place: &Place, name: &str, role: &str, peer: Option<&str>, image: &Path) -> Side {
    let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
    let control = place.path(&format!("{name}.control"));
    let flags = [text(image), "--net", &net, "--control", text(&control), "--arbiter", "manual"];
    Side::start(place, name, role, peer, &flags)
}

fn promote(place: &Place, name: &str) {
    let control = place.path(&format!("{name}.control"));
    let begun = Instant::now();
    // It may not have asked yet.
    while run(&["ctl", text(&control), "promote"]).status.code() != Some(0) {
        assert!(begun.elapsed() < PATIENCE, "{name} cannot be promoted");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn who_was_promoted_on_both_sides_meets_and_one_stops() {
    let place = Place::new();
    let (one, two) = (place.file("one.img", IMAGE), place.file("two.img", IMAGE));
    let mut a = side(&place, "a", "primary", None, &one);
    let mut console = ready(&a);
    let cable = Cable::new(&place.path("cable"), place.path("a"));
    let mut b = side(&place, "b", "backup", Some("cable"), &two);
    b.hears("protected");
    a.hears("protected");
    assert_eq!(console.increment(), 2);
    cable.cut();
    b.hears("the primary is lost");
    a.hears("the backup is lost");
    promote(&place, "b");
    b.hears("live, in epoch 2");
    promote(&place, "a");
    a.hears("on its own, without a backup, in epoch 2");
    // Nobody can know better before they meet.
    drop(console);
    cable.mend();
    let begun = Instant::now();
    let (mut left, image) = loop {
        let [at_a, at_b] = [&mut a, &mut b].map(|side| side.child.try_wait().expect("a child"));
        match (at_a, at_b) {
            (None, None) => assert!(begun.elapsed() < PATIENCE, "{}{}", a.said(), b.said()),
            (Some(status), None) if status.code() == Some(6) => break (b, one),
            (None, Some(status)) if status.code() == Some(6) => break (a, two),
            other => panic!("{other:?}: {}{}", a.said(), b.said()),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(left.console().increment_after(2) > 2);
    // What the loser did since is not overwritten unasked.
    let live = if image == place.path("one.img") { "b" } else { "a" };
    let mut again = side(&place, "c", "backup", Some(live), &image);
    again.hears("this copy may be the newer one");
    drop(again);
    assert!(left.child.try_wait().expect("a child").is_none(), "{}", left.said());
}

#[test]
fn a_copy_that_may_have_been_passed_over_waits_for_the_user() {
    let place = Place::new();
    let (one, two) = (place.file("one.img", IMAGE), place.file("two.img", IMAGE));
    let mut a = side(&place, "a", "primary", None, &one);
    let mut console = ready(&a);
    let mut b = side(&place, "b", "backup", Some("a"), &two);
    b.hears("protected");
    a.hears("protected");
    assert_eq!(console.increment(), 2);
    a.kill();
    b.hears("the primary is lost");
    promote(&place, "b");
    b.hears("live, in epoch 2");
    assert_eq!(b.console().increment_after(2), 3);
    // It finds the other side.
    let mut old = side(&place, "c", "primary", Some("b"), &one);
    let _console = old.console();
    assert_eq!(old.ends(), Some(6), "{}", old.said());
    // It finds nobody: only the user can know.
    let mut alone = side(&place, "d", "primary", None, &one);
    let mut console = alone.console();
    alone.hears("may have been promoted");
    std::thread::sleep(std::time::Duration::from_millis(1200));
    assert!(!alone.said().contains("live, in epoch"), "{}", alone.said());
    let control = place.path("d.control");
    expect_status(&run(&["ctl", text(&control), "status"]), 0);
    b.kill();
    promote(&place, "d");
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), 3, "the user wanted the older copy");
    // What was switched off in order asks nobody.
    console.say("poweroff\r");
    assert_eq!(alone.ends(), Some(0), "{}", alone.said());
    let next = side(&place, "e", "primary", None, &one);
    let mut console = next.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
}
