//! The command's surface: bad input gets one clear line and the right status; help, man page and
//! completions agree.

mod ftemu;

use ftemu::{EXIT, Place, expect_status, run, text};
use std::os::unix::fs::PermissionsExt;

/// Runs `args` and checks status and the one line on standard error.
#[track_caller]
fn refused(args: &[&str], status: i32, says: &str) {
    let output = run(args);
    let said = String::from_utf8_lossy(&output.stderr);
    expect_status(&output, status);
    assert!(said.contains(says), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("ftemu: "), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn disks_that_cannot_be_used() {
    let place = Place::new();
    let boot = |path: &str, says| refused(&["boot", path], 3, says);
    boot("/no/such/disk.img", "/no/such/disk.img: does not exist");
    boot("/", "/: is a directory");
    boot("/dev/null", "is neither a file nor a block device");
    boot(text(&place.file("empty", b"")), "is empty");
    boot(text(&place.file("q", b"QFI\xFB\0\0\0\x02")), "is a qcow2 image");
    let locked = place.guest("locked", EXIT);
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o444)).expect("chmod");
    boot(text(&locked), "is read-only: make it writable, or use --snapshot");
}

#[test]
fn kernels_that_cannot_be_used() {
    let place = Place::new();
    let kernel = |path: &str, says| refused(&["boot", "--kernel", path], 3, says);
    kernel("/no/such/kernel", "does not exist");
    kernel("/", "is a directory");
    kernel(text(&place.file("text", b"hello")), "is not a Linux kernel (bzImage)");
    kernel(text(&place.guest("sector", EXIT)), "is not a Linux kernel (bzImage)");
    let large = place.path("large");
    let file = std::fs::File::create(&large).expect("create");
    file.set_len(1 << 30).expect("length");
    kernel(text(&large), "is too large: 512 MiB of memory hold it");
    let mut header = vec![0; 4096];
    header[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
    header[0x202..0x206].copy_from_slice(b"HdrS");
    let kernel = place.file("kernel", &header);
    let args = ["boot", "--kernel", text(&kernel), "--initrd", "/none"];
    refused(&args, 3, "/none: does not exist");
}

#[test]
fn logs_that_cannot_be_used() {
    let place = Place::new();
    let replay = |path: &str, says| refused(&["replay", path], 3, says);
    replay("/no/such.log", "/no/such.log: does not exist");
    replay("/", "is a directory, not a log");
    replay(text(&place.file("empty", b"")), "is not an ftemu log");
    replay(text(&place.file("text", b"some text, and no log")), "is not an ftemu log");
    replay(text(&place.file("new", b"ftemulog\x63\0\0\0")), "is a log of version 99");
    let header = [&b"ftemulog"[..], &ft::log::file::VERSION.to_le_bytes()].concat();
    replay(text(&place.file("cut", &header)), "does not begin with a machine");
    // A frame with a start whose machine is none.
    let mut writer = ft::log::LogWriter::new();
    let body = ft::log::Body::Start { build: "ftemu 99".into(), config: vec![1, 2, 3] };
    writer.push(ft::log::Instant::default(), &body);
    writer.flush();
    let other = place.file("other", &writer.take());
    replay(text(&other), "is a log of another machine, written by 'ftemu 99'");
}

#[test]
fn places_that_cannot_be_written_or_reached() {
    let place = Place::new();
    let disk = place.guest("disk", EXIT);
    let boot = |flag: &str, value: &str, says| {
        refused(&["boot", text(&disk), "--serial", "none", flag, value], 3, says);
    };
    boot("--record", "/no/such/dir/log", "/no/such/dir/log: does not exist");
    boot("--record", text(&disk), "is there already and is no log: it is left alone");
    assert_eq!(place.read("disk")[..EXIT.len()], *EXIT, "nothing is lost");
    boot("--pcap", "/no/such/dir/capture", "does not exist");
    boot("--debugcon", "/", "");
    boot("--net", "tap:a-name-that-is-too-long", "not an interface name");
    boot("--net", "unix:/no/such/socket", "--net /no/such/socket: ");
    refused(&["lan", "--listen", "unix:/no/such/dir/s"], 3, "/no/such/dir/s: No such file");
    refused(&["lan", "--pcap", "/no/such/dir/c"], 3, "/no/such/dir/c: ");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().expect("an address").to_string();
    refused(&["lan", "--listen", &taken], 3, "Address already in use");
    let forward = format!("tcp:{taken}-:80");
    refused(&["lan", "--forward", &forward], 3, &format!("tcp:{taken}: Address already in use"));
    refused(
        &["boot", text(&disk), "--serial", "tcp:127.0.0.1:1"],
        3,
        "--serial 127.0.0.1:1: Connection refused",
    );
    refused(&["boot", text(&disk), "--serial", "file:/no/such/dir/x"], 3, "does not exist");
}

#[test]
fn wrong_usage_has_status_two() {
    for args in [
        &["boot", "--engine", "both", "--role", "primary"],
        &[][..],
        &["dance"],
        &["boot", "--no-such-flag"],
        &["boot", "-m", "lots"],
        &["boot", "-m", "1000G"],
        &["boot", "--serial", "telnet"],
        &["boot", "--net", "user"],
        &["boot", "--mac", "1:2"],
        &["boot", "--rate", "0"],
        &["boot", "--initrd", "x"],
        &["boot", "--append", "x"],
        &["boot", "--log-disk-data", "always"],
        &["boot", "--engine", "magic"],
        &["boot", "--serial", "stdio", "--serial", "stdio"],
        &["boot", "a", "b", "c", "d", "e"],
        &["replay"],
        &["lan", "--forward", "tcp:127.0.0.1:80"],
        &["lan", "--forward", "tcp:127.0.0.1:0-10.9.9.9:80"],
        &["lan", "--subnet", "10.0.2.1/24"],
        &["lan", "--resolver", "9.9.9.9", "--no-dns"],
        &["man", "dance"],
        &["completions", "dos"],
    ] {
        let output = run(args);
        expect_status(&output, 2);
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn help_man_page_and_completions_name_every_flag() {
    let shown = |args: &[&str]| {
        let output = run(args);
        expect_status(&output, 0);
        String::from_utf8(output.stdout).expect("text")
    };
    let scripts = ["bash", "zsh", "fish"].map(|shell| shown(&["completions", shell]));
    for command in ["boot", "replay", "lan"] {
        let help = shown(&[command, "--help"]);
        assert!(help.contains("Exit status:"), "{help}");
        let page = shown(&["man", command]).replace("\\-", "-");
        let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let flags: Vec<&str> =
            lines.flat_map(str::split_whitespace).filter(|word| word.starts_with("--")).collect();
        assert!(flags.contains(&"--pcap") && flags.contains(&"--help"), "{flags:?}");
        for flag in flags {
            assert!(page.contains(flag), "{flag} is not in the manual page of {command}");
            for script in &scripts {
                let name = flag.trim_start_matches('-');
                assert!(script.contains(name), "{flag} is not in a completion script");
            }
        }
    }
    assert!(shown(&["man"]).contains("ftemu"));
    assert!(shown(&["--version"]).starts_with("ftemu "));
}
