//! The embedded guest on a network of two: frames over a socket, a capture of them, and the same
//! again in a replay.

mod ftemu;

use ftemu::{Place, expect_status, run, start, text};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const GUEST_IP: [u8; 4] = [10, 0, 2, 15];
const OUR_IP: [u8; 4] = [10, 0, 2, 2];
const OUR_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0xAB, 0xCD, 0xEF];

/// The other end of the guest's cable.
struct Cable(UnixStream);

impl Cable {
    fn plug_in(path: &Path) -> Self {
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
                    return Self(stream);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&(frame.len() as u32).to_be_bytes()).expect("the guest's end is there");
        self.0.write_all(frame).expect("the guest's end is there");
    }

    /// The next frame for which `wanted` holds.
    fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let mut len = [0; 4];
            self.0.read_exact(&mut len).expect("a frame comes");
            let mut frame = vec![0; u32::from_be_bytes(len) as usize];
            self.0.read_exact(&mut frame).expect("a whole frame comes");
            if wanted(&frame) {
                return frame;
            }
        }
    }
}

/// Who has the guest's address? (RFC 826)
fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend(OUR_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OUR_MAC);
    frame.extend(OUR_IP);
    frame.extend([0; 6]);
    frame.extend(GUEST_IP);
    frame.resize(60, 0);
    frame
}

/// The ones' complement sum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An ICMP echo request (RFC 792).
fn ping(data: &[u8]) -> Vec<u8> {
    let mut icmp = [&[8, 0, 0, 0, 0x12, 0x34, 0, 1][..], data].concat();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let len = (20 + icmp.len() as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, 1, 0, 0];
    ip.extend(OUR_IP);
    ip.extend(GUEST_IP);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    [&GUEST_MAC[..], &OUR_MAC, &[8, 0], &ip, &icmp].concat()
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == GUEST_IP
}

fn is_echo_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
}

#[test]
fn frames_go_both_ways_and_a_replay_captures_the_same() {
    let place = Place::new();
    let (socket, log) = (place.path("lan"), place.path("log"));
    let (live, again) = (place.path("live.pcapng"), place.path("again.pcapng"));
    let net = format!("unix-listen:{}", text(&socket));
    let files = ["--record", text(&log), "--pcap", text(&live)];
    let args = [&["boot", "-m", "64M", "--net", &net, "--mac", "52:54:00:ab:cd:ef"][..], &files];
    let mut child = start(&args.concat());
    let mut cable = Cable::plug_in(&socket);
    let mut shown = String::new();
    let mut console = BufReader::new(child.stdout.take().expect("a pipe"));
    while !shown.contains("counter: ready ip=10.0.2.15") {
        let n = console.read_line(&mut shown).expect("text");
        assert!(n > 0, "the guest ended: {shown}");
    }
    cable.send(&arp_request());
    let reply = cable.receive(is_arp_reply);
    assert_eq!(reply[..6], OUR_MAC);
    assert_eq!(reply[22..28], GUEST_MAC);
    cable.send(&ping(b"is anybody there?"));
    let reply = cable.receive(is_echo_reply);
    assert_eq!(reply[42..59], *b"is anybody there?");
    let stdin = child.stdin.as_mut().expect("a pipe");
    stdin.write_all(b"incr\rpoweroff\r").expect("the guest reads");
    console.read_to_string(&mut shown).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{shown}");
    assert!(shown.contains("counter: power-off counter=1"), "{shown}");
    let output = run(&["replay", text(&log), "--serial", "stdio", "--pcap", text(&again)]);
    expect_status(&output, 0);
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
    let capture = place.read("live.pcapng");
    assert!(capture.windows(17).any(|part| part == b"is anybody there?"));
    assert!(capture == place.read("again.pcapng"), "a replay has the same packets and times");
}

#[test]
fn without_a_network_the_embedded_guest_still_counts() {
    let mut child = start(&["boot", "-m", "64M"]);
    let mut shown = String::new();
    let mut console = BufReader::new(child.stdout.take().expect("a pipe"));
    while !shown.contains("counter: ready") {
        let n = console.read_line(&mut shown).expect("text");
        assert!(n > 0, "the guest ended: {shown}");
    }
    let stdin = child.stdin.as_mut().expect("a pipe");
    stdin.write_all(b"incr\rincr\rpoweroff\r").expect("the guest reads");
    console.read_to_string(&mut shown).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "{shown}");
    assert!(shown.contains("counter: power-off counter=2"), "{shown}");
}
