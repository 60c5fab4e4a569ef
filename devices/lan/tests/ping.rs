//! Pings of guests to other hosts, in a network namespace where the host allows ICMP sockets.

mod guest;

use guest::{ADDRESS, Guest, MAC};
use lan::config::Config;
use lan::server::Lan;
use smoltcp::socket::icmp;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};
use std::io::Write;
use std::process::Command;

/// Set in the process inside the namespace.
const INSIDE: &str = "FTEMU_LAN_PING_INSIDE";
/// Another host, which answers (RFC 5737).
const THERE: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);

const PREPARE: &str = "ip link set lo up && ip addr add 192.0.2.1/32 dev lo && \
                       echo 0 0 > /proc/sys/net/ipv4/ping_group_range && exec \"$@\"";

#[test]
fn a_guest_pings_another_host() {
    if std::env::var_os(INSIDE).is_some() {
        return ping();
    }
    let test = std::env::current_exe().expect("this test");
    let inside = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-c", PREPARE, "sh"])
        .arg(test)
        .args(["--exact", "a_guest_pings_another_host", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let made = Command::new("unshare").args(["--map-root-user", "--net", "true"]).status();
    if !made.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("FTEMU_GUESTS_REQUIRED").is_none(), "no network namespaces");
        return eprintln!("left out: this host gives no network namespaces");
    }
    let inside = inside.expect("unshare runs");
    let said = String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success(), "{}{said}", String::from_utf8_lossy(&inside.stdout));
}

fn ping() {
    let config = Config::new(backends::socket::Address::Tcp("127.0.0.1:0".into()));
    let mut lan = Lan::new(config).expect("free ports");
    let (name, mut stop) = (lan.name().to_owned(), lan.stop().expect("a descriptor"));
    let thread = std::thread::spawn(move || lan.run());
    let mut guest = Guest::fixed(&name, MAC, ADDRESS);
    for (ident, seq_no) in [(0x4321, 1), (0x4321, 2), (7, 1)] {
        let handle = guest.icmp(ident);
        let sent = Icmpv4Repr::EchoRequest { ident, seq_no, data: b"over the host" };
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        let room = socket.send(sent.buffer_len(), IpAddress::Ipv4(THERE)).expect("room");
        sent.emit(&mut Icmpv4Packet::new_unchecked(room), &Default::default());
        let (answer, from) = guest.run(|guest| {
            let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
            socket.recv().ok().map(|(bytes, from)| (bytes.to_vec(), from))
        });
        assert_eq!(from, IpAddress::Ipv4(THERE));
        let packet = Icmpv4Packet::new_checked(&answer[..]).expect("a packet");
        let answer = Icmpv4Repr::parse(&packet, &Default::default()).expect("a good checksum");
        assert_eq!(answer, Icmpv4Repr::EchoReply { ident, seq_no, data: b"over the host" });
        guest.sockets.remove(handle);
    }
    stop.write_all(&[0]).expect("it runs");
    thread.join().expect("no panic").expect("no failure");
}
