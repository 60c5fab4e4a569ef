//! `ftemu ctl` and `ftemu keygen`, as commands.

mod ftemu;

use backends::wake::{Bell, mailbox};
use drivers::channel::Key;
use drivers::control::{ControlRequest, Reply, Request, Role, Server, Status};
use ftemu::{Place, expect_status, run, text};
use std::os::unix::fs::PermissionsExt;

/// What the machine of these tests answers.
fn answer(request: &Request) -> Reply {
    match request {
        Request::Status {} => Reply::Status(Box::new(Status {
            role: Role::Primary,
            epoch: 7,
            icount: 12_345,
            protected: true,
            ..Status::default()
        })),
        Request::Snapshot { file } if file.ends_with("saved") && file.is_absolute() => {
            Reply::Done {}
        }
        Request::Sendkey { keys } if keys.codes() == [0x4B, 0xF0, 0x4B, 0x5A, 0xF0, 0x5A] => {
            Reply::Done {}
        }
        Request::Powerdown {} | Request::Reset {} | Request::Pause {} | Request::Resume {} => {
            Reply::Done {}
        }
        _ => Reply::error("that cannot be done now"),
    }
}

#[test]
fn a_running_machine_answers() {
    let place = Place::new();
    let socket = place.path("control");
    let (post, requests) = mailbox::<ControlRequest>(4, Bell::new().waker());
    let server = Server::open(&socket, post).expect("listens");
    std::thread::spawn(move || {
        for ControlRequest { request, respond } in requests {
            respond.answer(answer(&request));
        }
    });
    let ctl = |args: &[&str], status: i32| {
        let output = run(&[&["ctl", text(&socket)], args].concat());
        expect_status(&output, status);
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8(both).expect("text")
    };
    let people = ctl(&["status"], 0);
    assert!(people.starts_with("role          primary\nprotected     yes\n"), "{people}");
    let json: Status = serde_json::from_str(&ctl(&["status", "--json"], 0)).expect("JSON");
    assert_eq!((json.role, json.epoch, json.icount), (Role::Primary, 7, 12_345));
    for args in [
        &["powerdown"][..],
        &["reset"],
        &["pause"],
        &["resume"],
        &["snapshot", "saved"],
        &["sendkey", "l", "ret"],
    ] {
        assert_eq!(ctl(args, 0), "", "{args:?}");
    }
    for args in [&["promote"][..], &["detach"], &["sendkey", "l"]] {
        assert_eq!(ctl(args, 5), "ftemu: that cannot be done now\n", "{args:?}");
    }
    assert_eq!(ctl(&["sendkey", "entr"], 2), "ftemu: there is no key 'entr'\n");
    drop(server);
    let line = format!("ftemu: {}: there is no such socket\n", text(&socket));
    assert_eq!(ctl(&["status"], 3), line);
}

#[test]
fn a_key_is_new_and_its_owners() {
    let place = Place::new();
    let (one, other) = (place.path("one"), place.path("other"));
    for path in [&one, &other] {
        expect_status(&run(&["keygen", text(path)]), 0);
        let mode = path.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let (first, second) = (Key::read(&one).expect("a key"), Key::read(&other).expect("a key"));
    assert!(first != second, "random");
    let again = run(&["keygen", text(&one)]);
    expect_status(&again, 3);
    let line = format!("ftemu: {}: exists already\n", text(&one));
    assert_eq!(String::from_utf8_lossy(&again.stderr), line);
    assert_eq!(Key::read(&one), Ok(first), "untouched");
}
