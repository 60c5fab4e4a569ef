//! Two processes, one machine: killed, stopped, switched off, refused; on one computer.

mod ftemu;

use ftemu::sides::{IMAGE, Side, log_bytes, ready};
use ftemu::{Place, text};
use std::io::{Read, Seek, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Starts the first of `names` as primary and each next one as its backup, kills the live side once
/// the backup has joined and the guest has counted `increments` times, and switches the guest off
/// in the end; the last side, and the guest's last number.
#[track_caller]
fn outlives_kills<'n>(
    side: impl Fn(&'n str, &str, Option<&'n str>) -> Side,
    names: &[&'n str],
    increments: u64,
) -> (Side, u64) {
    let mut live = side(names[0], "primary", None);
    let mut console = ready(&live);
    let mut last = 1;
    for pair in names.windows(2) {
        let mut backup = side(pair[1], "backup", Some(pair[0]));
        backup.hears("protected");
        live.hears("protected");
        for _ in 0..increments {
            last += 1;
            assert_eq!(console.increment(), last);
        }
        live.kill();
        backup.hears("live, in epoch");
        console = backup.console();
        last += 1;
        assert_eq!(console.increment_after(last - 1), last);
        live = backup;
    }
    console.say("poweroff\r");
    assert_eq!(live.ends(), Some(0), "{}", live.said());
    (live, last)
}

#[test]
fn a_machine_survives_one_kill_after_the_other() {
    let place = Place::new();
    let side = |name: &str, role: &str, peer| Side::start(&place, name, role, peer, &[]);
    let (live, _) = outlives_kills(side, &["a", "b", "c", "d"], 20);
    assert!(live.said().contains("power-off"), "{}", live.said());
}

#[test]
fn powering_off_ends_both_and_signals_hand_over() {
    let place = Place::new();
    let a = Side::start(&place, "a", "primary", None, &[]);
    let mut console = ready(&a);
    let mut b = Side::start(&place, "b", "backup", Some("a"), &[]);
    b.hears("protected");
    assert_eq!(console.increment(), 2);
    // A backup that is told to end leaves; the primary goes on alone.
    let (mut a, mut leaving) = (a, b);
    leaving.signal(rustix::process::Signal::TERM);
    assert_eq!(leaving.ends(), Some(143));
    a.hears("on its own, without a backup, in epoch 2");
    assert_eq!(console.increment(), 3);
    // A primary that is told to end hands the machine over.
    let mut c = Side::start(&place, "c", "backup", Some("a"), &[]);
    c.hears("protected");
    assert_eq!(console.increment(), 4);
    a.signal(rustix::process::Signal::TERM);
    assert_eq!(a.ends(), Some(143));
    c.hears("live, in epoch 3");
    let mut console = c.console();
    assert_eq!(console.increment_after(4), 5);
    let mut d = Side::start(&place, "d", "backup", Some("c"), &[]);
    d.hears("protected");
    console.say("poweroff\r");
    assert_eq!((c.ends(), d.ends()), (Some(0), Some(0)), "{}{}", c.said(), d.said());
    assert!(!d.said().contains("live, in epoch"), "{}", d.said());
}

/// A side whose guest boots from `image`, and has the card that it wants then.
fn with_card(place: &Place, name: &str, role: &str, peer: Option<&str>, image: &Path) -> Side {
    let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
    Side::start(place, name, role, peer, &[text(image), "--net", &net])
}

#[test]
fn own_copies_of_a_disk_follow_and_an_old_copy_does_not_start() {
    let place = Place::new();
    let one = place.file("one.img", IMAGE);
    let two = place.file("two.img", &vec![0xA5; IMAGE.len()]);
    let with_card =
        |name: &str, role: &str, peer, image: &Path| with_card(&place, name, role, peer, image);
    let mut a = with_card("a", "primary", None, &one);
    let mut console = ready(&a);
    let mut b = with_card("b", "backup", Some("a"), &two);
    b.hears("protected");
    for n in 2..10 {
        assert_eq!(console.increment(), n);
    }
    a.kill();
    b.hears("live, in epoch 2");
    let mut console = b.console();
    assert_eq!(console.increment_after(9), 10);
    let record = |image: &Path| drivers::sidecar::load(image).expect("sound").expect("there");
    let (older, newer) = (record(&one), record(&two));
    assert_eq!((older.epoch, newer.epoch, older.vm), (1, 2, newer.vm));
    assert!(newer.icount > 0 && !newer.clean && !older.clean, "{older:?} {newer:?}");
    assert!(!older.peer.is_empty(), "it knew where its backup was");
    // What was the primary has the older copy.
    let mut old = with_card("x", "primary", None, &one);
    assert_eq!(old.ends(), Some(3), "{}", old.said());
    old.hears("the other copy is newer");
    // It joins, and then has the same.
    let mut c = with_card("c", "backup", Some("b"), &one);
    c.hears("protected");
    assert_eq!(console.increment(), 11);
    console.say("poweroff\r");
    assert_eq!((b.ends(), c.ends()), (Some(0), Some(0)), "{}{}", b.said(), c.said());
    assert!(place.read("one.img") == place.read("two.img"), "the copies are equal");
    let (joined, live) = (record(&one), record(&two));
    assert!(joined.clean && live.clean && joined.epoch == 2 && live.epoch == 2);
    assert!(live.icount > newer.icount && live.guest_ns > 0, "{live:?}");
    // Either may start again: the counter is on the disk.
    let d = with_card("d", "primary", None, &one);
    let mut console = d.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), 12);
}

/// Listens at `from` for who wants to talk with `to`, and cuts as many connections as there are
/// `limits`, each after so many bytes from `to`; the next one lasts.
fn cut_connections(from: &Path, to: &Path, limits: &[u64]) {
    let (listener, to) = (UnixListener::bind(from).expect("a socket"), to.to_path_buf());
    let limits: Vec<u64> = limits.iter().copied().chain([u64::MAX]).collect();
    std::thread::spawn(move || {
        for limit in limits {
            let (near, _) = listener.accept().expect("a connection");
            let far = UnixStream::connect(&to).expect("the other side listens");
            let mut there = [&near, &far].map(|end| end.try_clone().expect("a descriptor"));
            std::thread::spawn(move || {
                let [from, to] = &mut there;
                let _ = std::io::copy(from, to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let _ = std::io::copy(&mut (&far).take(limit), &mut &near);
            for end in [near, far] {
                let _ = end.shutdown(Shutdown::Both);
            }
        }
    });
}

#[test]
fn joinings_that_fail_on_the_way_spoil_no_later_one() {
    let place = Place::new();
    // What differs is written over on the backup's side, and some of it is under way at each cut.
    let mut content = IMAGE.to_vec();
    let mut n = 0x9E37_79B9_7F4A_7C15_u64;
    content.extend((0..6 << 20).flat_map(|_| {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        n.to_le_bytes()
    }));
    let one = place.file("one.img", &content);
    let two = place.file("two.img", &vec![0xA5; content.len()]);
    let side =
        |name: &str, role: &str, peer, image: &Path| with_card(&place, name, role, peer, image);
    let mut a = side("a", "primary", None, &one);
    let mut console = ready(&a);
    let cuts = [100_000, 1 << 20, 12 << 20, 20 << 20];
    cut_connections(&place.path("cut"), &place.path("a"), &cuts);
    let mut b = side("b", "backup", Some("cut"), &two);
    for n in 2..6 {
        assert_eq!(console.increment(), n);
    }
    b.hears("protected");
    let failed = a.said().matches("the joining came to nothing").count();
    assert_eq!(failed, cuts.len(), "{}", a.said());
    assert!(!a.said().contains("in epoch 2"), "nobody was lost: {}", a.said());
    assert_eq!(console.increment(), 6);
    // The guest's disk is what it was, and is followed.
    a.kill();
    b.hears("live, in epoch 2");
    let mut console = b.console();
    assert_eq!(console.increment_after(6), 7);
    let mut c = side("c", "backup", Some("b"), &one);
    c.hears("protected");
    assert_eq!(console.increment(), 8);
    console.say("poweroff\r");
    assert_eq!((b.ends(), c.ends()), (Some(0), Some(0)), "{}{}", b.said(), c.said());
    let (one, two) = (place.read("one.img"), place.read("two.img"));
    assert!(one == two, "the copies are equal");
    let same = one.iter().zip(&content).skip(IMAGE.len()).all(|(now, then)| now == then);
    assert!(same, "and have what was there");
}

#[test]
fn a_backup_whose_copy_was_changed_is_noticed() {
    let place = Place::new();
    let one = place.file("one.img", IMAGE);
    let two = place.file("two.img", IMAGE);
    let (control, bundles) = (place.path("control"), place.path("bundles"));
    let side = |name: &str, role: &str, peer: Option<&str>, image: &Path| {
        let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
        let socket = if role == "primary" { control.clone() } else { place.path("other") };
        let flags = [text(image), "--net", &net, "--control", text(&socket)];
        let bundles = ["--bundle-dir", text(&bundles)];
        Side::start(&place, name, role, peer, &[&flags[..], &bundles].concat())
    };
    let mut a = side("a", "primary", None, &one);
    let mut console = ready(&a);
    let mut b = side("b", "backup", Some("a"), &two);
    b.hears("protected");
    // Somebody writes to the backup's image behind its back, where the guest's program is.
    let mut changed = std::fs::OpenOptions::new().write(true).open(&two).expect("the image");
    changed.seek(std::io::SeekFrom::Start(1024)).expect("seek");
    changed.write_all(&vec![0x90; IMAGE.len() / 2]).expect("write");
    drop(changed);
    let reset = ftemu::run(&["ctl", text(&control), "reset"]);
    ftemu::expect_status(&reset, 0);
    assert_eq!(b.ends(), Some(7), "{}", b.said());
    a.hears("on its own, without a backup, in epoch 2");
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), 2);
    a.hears("what there is to see is in");
    let (mut reports, mut paths): (Vec<String>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for bundle in std::fs::read_dir(&bundles).expect("bundles") {
        let path = bundle.expect("a directory").path();
        reports.push(std::fs::read_to_string(path.join("report.txt")).expect("a report"));
        assert!(std::fs::metadata(path.join("machine.snapshot")).expect("a file").len() > 10_000);
        paths.push(path);
    }
    let both = reports.concat();
    assert!(both.contains("side    primary") && both.contains("side    backup"), "{both}");
    assert_eq!(both.matches("machine.log begins at icount").count(), 2, "{both}");
    // Whoever executes again what led there comes to the same difference.
    let icount = both.lines().find_map(|line| line.strip_prefix("icount  ")).expect("where");
    for (path, report) in paths.iter().zip(&reports) {
        let replay = ftemu::run(&["replay", text(path)]);
        ftemu::expect_status(&replay, 4);
        let said = String::from_utf8_lossy(&replay.stderr).into_owned();
        assert!(said.contains(&format!("at icount {icount}")), "{said}{report}");
        if report.contains("side    primary") {
            let other = said.split_once("the backup had another state").expect("compared").1;
            assert!(other.contains("page 0x") || other.contains("register"), "{said}");
        } else {
            assert!(said.contains("the backup had the same state as the replay"), "{said}");
        }
    }
}

#[test]
fn every_side_keeps_a_record_that_replays() {
    let place = Place::new();
    let log = |name: &str| place.path(&format!("{name}.log"));
    let side = |name: &str, role: &str, peer| {
        Side::start(&place, name, role, peer, &["--record", text(&log(name))])
    };
    // Each was killed but the last.
    let (_, _) = outlives_kills(side, &["a", "b", "c"], 20);
    for (name, end) in [("a", "log-end"), ("b", "log-end"), ("c", "power-off")] {
        let replay = ftemu::run(&["replay", text(&log(name))]);
        ftemu::expect_status(&replay, 0);
        let said = String::from_utf8_lossy(&replay.stderr).into_owned();
        assert!(said.contains(&format!("end: {end}")), "{said}");
        assert!(name == "a" || !said.contains(" 0 digests"), "{said}");
    }
    // Wherever a record was cut it is good up to there, if the machine is whole.
    let whole = place.read("b.log");
    let (mut cut, mut replayed) = (64, 0);
    while cut < whole.len() {
        let replay = ftemu::run(&["replay", text(&place.file("cut.log", &whole[..cut]))]);
        let said = String::from_utf8_lossy(&replay.stderr).into_owned();
        let part = replay.status.code() == Some(3) && said.contains("does not begin with");
        assert!(part || replay.status.code() == Some(0), "cut at {cut}: {said}");
        replayed += u32::from(!part);
        cut = cut * 5 / 4 + 1;
    }
    let last = &whole[..whole.len() - 1];
    let replay = ftemu::run(&["replay", text(&place.file("cut.log", last))]);
    ftemu::expect_status(&replay, 0);
    println!("{replayed} of the records that were cut");
}

#[test]
fn a_disk_that_both_sides_share() {
    let place = Place::new();
    let image = place.file("shared.img", IMAGE);
    let side =
        |name: &str, role: &str, peer: Option<&str>| shares(&place, &image, name, role, peer);
    let (_, last) = outlives_kills(side, &["a", "b", "c"], 10);
    // All of it is on the disk.
    let again = side("d", "primary", None);
    let mut console = again.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), last + 1);
}

/// A side whose disk is the other's, too.
fn shares(place: &Place, image: &Path, name: &str, role: &str, peer: Option<&str>) -> Side {
    let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
    let flags = [text(image), "--net", &net, "--shared-disk"];
    Side::start(place, name, role, peer, &flags)
}

/// The next frame on a socket that plays a switch.
fn frame(cable: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    cable.read_exact(&mut length).ok()?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    cable.read_exact(&mut frame).ok()?;
    Some(frame)
}

#[test]
fn who_takes_over_says_so_more_than_once() {
    let place = Place::new();
    let side = |name: &str, role: &str, peer: Option<&str>| {
        let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
        Side::start(&place, name, role, peer, &["--net", &net])
    };
    let mut a = side("a", "primary", None);
    let _console = ready(&a);
    let mut b = side("b", "backup", Some("a"));
    b.hears("protected");
    let mut cable = UnixStream::connect(place.path("b.net")).expect("its network");
    a.kill();
    b.hears("live, in epoch 2");
    cable.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
    let begun = Instant::now();
    let mut times = Vec::new();
    // Reverse ARP, to everybody.
    while let Some(frame) = frame(&mut cable) {
        if frame[..6] == [0xFF; 6] && frame[12..14] == [0x80, 0x35] {
            times.push(begun.elapsed().as_millis());
        }
        if begun.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    assert_eq!(times.len(), 5, "{times:?}");
    assert!((700..1500).contains(&(times[4] - times[0])), "{times:?}");
}

#[test]
fn a_backup_reads_a_shared_disk_itself() {
    let place = Place::new();
    let mut cost = Vec::new();
    for reads in ["log", "backup"] {
        let image = place.file(&format!("{reads}.img"), IMAGE);
        let control = place.path(&format!("{reads}.control"));
        let side = |name: &str, role: &str, peer: Option<&str>| {
            let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
            let flags = [text(&image), "--net", &net, "--shared-disk", "--disk-reads", reads];
            let more = if role == "primary" { &["--control", text(&control)][..] } else { &[] };
            Side::start(&place, name, role, peer, &[&flags[..], more].concat())
        };
        let mut a = side(&format!("{reads}-a"), "primary", None);
        let mut console = ready(&a);
        let mut b = side(&format!("{reads}-b"), "backup", Some(&format!("{reads}-a")));
        b.hears("protected");
        a.hears("protected");
        assert_eq!(console.increment(), 2);
        // The guest's program is read again, by both.
        let before = log_bytes(&control);
        ftemu::expect_status(&ftemu::run(&["ctl", text(&control), "reset"]), 0);
        console.hears(|line| line.starts_with("counter: ready").then_some(()));
        assert_eq!(console.increment(), 3);
        cost.push(log_bytes(&control) - before);
        a.kill();
        b.hears("live, in epoch 2");
        let mut console = b.console();
        assert_eq!(console.increment_after(3), 4);
        console.say("poweroff\r");
        assert_eq!(b.ends(), Some(0), "{}", b.said());
    }
    println!("bytes of the log, with data and without: {cost:?}");
    assert!(cost[1] * 2 < cost[0], "{cost:?}");
}

#[test]
fn who_hangs_writes_nothing_to_a_shared_disk_when_it_wakes() {
    let place = Place::new();
    let image = place.file("shared.img", IMAGE);
    let side =
        |name: &str, role: &str, peer: Option<&str>| shares(&place, &image, name, role, peer);
    let names = ["a", "b", "c", "d"];
    let mut live = side(names[0], "primary", None);
    let mut console = ready(&live);
    let mut last = 1;
    for pair in names.windows(2) {
        let mut backup = side(pair[1], "backup", Some(pair[0]));
        backup.hears("protected");
        live.hears("protected");
        for _ in 0..5 {
            last += 1;
            assert_eq!(console.increment(), last);
        }
        // Stopped with a write on its way.
        console.say("incr\r");
        live.signal(rustix::process::Signal::STOP);
        backup.hears("live, in epoch");
        let mut taken = backup.console();
        last = taken.increment_after(last);
        live.signal(rustix::process::Signal::CONT);
        for _ in 0..20 {
            last = taken.increment_after(last);
        }
        assert_eq!(live.ends(), Some(6), "{}", live.said());
        last = taken.settles(last);
        (live, console) = (backup, taken);
    }
    live.kill();
    let again = side("e", "primary", None);
    let mut console = again.console();
    console.hears(|line| line.starts_with("counter: ready").then_some(()));
    assert_eq!(console.increment(), last + 1, "nothing old came over what was written later");
}

#[test]
fn who_does_not_fit_is_refused_and_disturbs_nothing() {
    let place = Place::new();
    let a = Side::start(&place, "a", "primary", None, &[]);
    let mut console = ready(&a);
    let mut other = Side::start(&place, "o", "backup", Some("a"), &["-m", "80M"]);
    other.hears("memory");
    let key = place.file("key", &[7; 32]);
    let mut stranger = Side::start(&place, "s", "backup", Some("a"), &["--key", text(&key)]);
    stranger.hears("key");
    // Another arbiter would let both sides go live.
    let elsewhere = place.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a directory");
    let elsewhere = format!("dir:{}", text(&elsewhere));
    let mut wrong = Side::start(&place, "w", "backup", Some("a"), &["--arbiter", &elsewhere]);
    wrong.hears("both sides need the same --arbiter");
    drop((other, stranger, wrong));
    assert_eq!(console.increment(), 2);
    let mut b = Side::start(&place, "b", "backup", Some("a"), &[]);
    b.hears("protected");
    assert_eq!(console.increment(), 3);
}

#[test]
fn flags_that_do_not_go_together() {
    for (args, says) in [
        (&["--role", "backup"][..], "--peer"),
        (&["--role", "primary"], "--arbiter"),
        (&["x.img", "--role", "primary", "--disk-reads", "backup"], "--shared-disk"),
        (&["--role", "backup", "--peer", "h"], "--arbiter"),
        (&["--role", "primary", "--arbiter", "none"], "--i-accept-split-brain"),
    ] {
        let output = ftemu::run(&[&["boot"], args].concat());
        ftemu::expect_status(&output, 2);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn an_epoch_that_a_dead_backup_won_is_given_back() {
    use drivers::arbiter::{Arbiter, target::Target};
    use drivers::sidecar::{self, Record, Role};
    let place = Place::new();
    let one = place.file("one.img", IMAGE);
    let two = place.file("two.img", IMAGE);
    // What is left when a backup wins, and dies before it is live.
    let record = |role, incarnation| Record {
        version: sidecar::VERSION,
        vm: 77,
        epoch: 1,
        role,
        incarnation,
        icount: 0,
        guest_ns: 0,
        clean: false,
        peer: String::new(),
    };
    sidecar::store(&one, &record(Role::Primary, 10)).expect("stored");
    sidecar::store(&two, &record(Role::Backup, 11)).expect("stored");
    std::fs::create_dir(place.path("arbiter")).expect("a directory");
    let target: Target = format!("dir:{}", text(&place.path("arbiter"))).parse().expect("a target");
    let mut arbiter = target.open(&Default::default(), None).expect("an arbiter");
    arbiter.claim(77, 0, 10).expect("it answers");
    arbiter.claim(77, 1, 11).expect("it answers");
    let side = |name: &str, role: &str, peer: Option<&str>, image: &Path| {
        let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
        Side::start(&place, name, role, peer, &[text(image), "--net", &net])
    };
    let mut a = side("a", "primary", None, &one);
    assert_eq!(a.ends(), Some(3), "{}", a.said());
    let mut b = side("b", "backup", Some("c"), &two);
    b.hears("was never live in it; that is given back");
    let mut c = side("c", "primary", None, &one);
    let mut console = ready(&c);
    b.hears("protected");
    assert_eq!(console.increment(), 2);
    c.kill();
    b.hears("live, in epoch 5");
    assert_eq!(b.console().increment_after(2), 3);
}

/// Puts a directory that is not empty where a record is to be.
fn in_the_way(record: &Path) {
    while std::fs::create_dir(record).is_err() {
        // It may be written again at any time.
        let _ = std::fs::remove_file(record);
    }
    std::fs::write(record.join("x"), b"x").expect("a file");
}

#[test]
fn a_backup_does_not_go_live_before_its_record_says_so() {
    let place = Place::new();
    let one = place.file("one.img", IMAGE);
    let two = place.file("two.img", IMAGE);
    let side = |name: &str, role: &str, peer: Option<&str>, image: &Path| {
        let net = format!("unix-listen:{}", text(&place.path(&format!("{name}.net"))));
        Side::start(&place, name, role, peer, &[text(image), "--net", &net])
    };
    let mut a = side("a", "primary", None, &one);
    let mut console = ready(&a);
    let mut b = side("b", "backup", Some("a"), &two);
    b.hears("protected");
    assert_eq!(console.increment(), 2);
    let record = drivers::sidecar::path_of(&two);
    in_the_way(&record);
    a.kill();
    b.hears("cannot go live before its record can be written");
    std::thread::sleep(Duration::from_millis(600));
    assert!(!b.said().contains("live, in epoch"), "{}", b.said());
    std::fs::remove_dir_all(&record).expect("it goes");
    b.hears("live, in epoch 2");
    let mut console = b.console();
    assert_eq!(console.increment_after(2), 3);
    let record = drivers::sidecar::load(&two).expect("sound").expect("there");
    assert_eq!((record.role, record.epoch), (drivers::sidecar::Role::Primary, 2));
    // A side that was live already goes on without, and writes it when it can.
    let path = drivers::sidecar::path_of(&two);
    let mut c = side("c", "backup", Some("b"), &one);
    c.hears("protected");
    b.hears("protected");
    in_the_way(&path);
    c.kill();
    b.hears("on its own, without a backup, in epoch 3");
    assert_eq!(console.increment(), 4);
    std::fs::remove_dir_all(&path).expect("it goes");
    let begun = Instant::now();
    let written = || drivers::sidecar::load(&two).ok().flatten().map(|record| record.epoch);
    while written() != Some(3) {
        assert!(begun.elapsed() < ftemu::sides::PATIENCE, "{}", b.said());
        std::thread::sleep(Duration::from_millis(20));
    }
}
