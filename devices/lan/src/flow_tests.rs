//! A flow and a guest's stack in a time of their own.

use super::*;
use crate::ethernet::FRAME_MIN;
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, TcpPacket};

const HERE: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 2, 2), 49152);
const THERE: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 2, 15), 7777);
const ROOM: usize = 1 << 20;

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// The guest's end.
struct Guest {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Guest {
    fn new() -> Self {
        let mut frames = Vec::new();
        let mut wire = Wire { packet: None, header: [0; HEADER], room: 0, frames: &mut frames };
        let config = Config::new(HardwareAddress::Ip);
        let mut interface = Interface::new(config, &mut wire, instant(ms(0)));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(*THERE.ip()), 24)).expect("room for one");
        });
        let buffer = || SocketBuffer::new(vec![0; 65536]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.listen(THERE.port()).expect("a port");
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self { interface, sockets, handle }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn deadline(&mut self, now: Duration) -> Option<Duration> {
        let delay = self.interface.poll_delay(instant(now), &self.sockets);
        delay.map(|delay| now + Duration::from(delay))
    }

    /// Takes packets and gives packets.
    fn turn(&mut self, packets: &[Vec<u8>], now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for packet in packets.iter().map(Some).chain([None]) {
            let packet = packet.map(|packet| &packet[..]);
            let mut wire = Wire { packet, header: [0; HEADER], room: ROOM, frames: &mut frames };
            self.interface.poll(instant(now), &mut wire, &mut self.sockets);
        }
        packets_of(frames)
    }
}

/// The IP packets in frames, without what fills them.
fn packets_of(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let inside = |frame: Vec<u8>| {
        assert!(frame.len() >= FRAME_MIN);
        let len = usize::from(u16::from_be_bytes([frame[HEADER + 2], frame[HEADER + 3]]));
        frame[HEADER..HEADER + len].to_vec()
    };
    frames.into_iter().map(inside).collect()
}

fn poll(flow: &mut Flow, now: Duration) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    flow.poll(now, [0; HEADER], ROOM, &mut frames);
    packets_of(frames)
}

/// Exchanges packets until there are none.
fn settle(flow: &mut Flow, guest: &mut Guest, now: Duration) {
    for _ in 0..100 {
        let answers = guest.turn(&poll(flow, now), now);
        if answers.is_empty() {
            return;
        }
        answers.iter().for_each(|packet| flow.packet(packet, now));
    }
    panic!("it never ends");
}

fn connected() -> (Flow, Guest) {
    let (mut flow, mut guest) = (Flow::connect(HERE, THERE, 1, ms(0)), Guest::new());
    settle(&mut flow, &mut guest, ms(0));
    assert_eq!((flow.state(), guest.socket().state()), (State::Established, State::Established));
    (flow, guest)
}

fn say(flow: &mut Flow, bytes: &[u8]) -> usize {
    let fill = |room: &mut [u8]| {
        let n = room.len().min(bytes.len());
        room[..n].copy_from_slice(&bytes[..n]);
        (n, n)
    };
    flow.send(fill).expect("an open connection")
}

/// The times from `begin` to `end` at which an unanswered flow sends.
fn sends(flow: &mut Flow, begin: Duration, end: Duration) -> Vec<Duration> {
    let (mut now, mut times) = (begin, Vec::new());
    for _ in 0..10_000 {
        if !poll(flow, now).is_empty() {
            times.push(now);
        }
        match flow.deadline(now) {
            Some(next) if next < end => now = next.max(now + Duration::from_micros(1)),
            _ => return times,
        }
    }
    panic!("it never sleeps");
}

#[test]
fn what_a_guest_missed_is_sent_at_once_when_it_appears() {
    let (mut flow, mut guest) = connected();
    say(&mut flow, b"INCR\n");
    let lost = sends(&mut flow, ms(1000), ms(9000));
    let pauses: Vec<u64> = lost.windows(2).map(|w| (w[1] - w[0]).as_millis() as u64).collect();
    assert_eq!(
        pauses,
        [250, 500, 1000, 1000, 1000, 1000, 1000, 1000, 1000],
        "never longer than 1 s"
    );
    assert!(poll(&mut flow, ms(9000)).is_empty(), "the next one is due at 9.75 s");
    flow.kick(ms(9000));
    assert_eq!(flow.deadline(ms(9000)), Some(ms(9000)));
    settle(&mut flow, &mut guest, ms(9000));
    let seen = guest.socket().recv(|bytes| (bytes.len(), bytes.to_vec())).expect("open");
    assert_eq!(seen, b"INCR\n");
    assert_eq!(sends(&mut flow, ms(9001), ms(60_000)), [], "what is acknowledged is not");
}

#[test]
fn a_guest_that_is_not_listening_yet_hears_it_again_soon() {
    let (mut flow, _) = connected();
    say(&mut flow, b"INCR\n");
    sends(&mut flow, ms(0), ms(5000));
    flow.kick(ms(5000));
    let again = sends(&mut flow, ms(5000), ms(6000));
    let after: Vec<u64> = again.iter().map(|at| at.as_millis() as u64 - 5000).collect();
    assert_eq!(after[..5], [0, 10, 40, 100, 200], "{after:?}");
    assert!(after.len() <= 8, "{after:?}");
}

#[test]
fn a_kick_finds_a_lost_syn_and_a_lost_fin_too() {
    let (mut flow, mut guest) = (Flow::connect(HERE, THERE, 1, ms(0)), Guest::new());
    sends(&mut flow, ms(0), ms(5000));
    flow.kick(ms(5000));
    settle(&mut flow, &mut guest, ms(5000));
    assert_eq!(flow.state(), State::Established);
    flow.finish();
    sends(&mut flow, ms(6000), ms(9000));
    flow.kick(ms(9000));
    settle(&mut flow, &mut guest, ms(9000));
    assert_eq!((flow.state(), guest.socket().state()), (State::FinWait2, State::CloseWait));
    flow.kick(ms(9001));
    assert!(poll(&mut flow, ms(9001)).is_empty(), "nothing is outstanding");
}

#[test]
fn a_flow_without_hope_ends_with_a_reset() {
    let last_words = |flow: &mut Flow, from: Duration, to: Duration| {
        let mut now = from;
        while now < to {
            if poll(flow, now).iter().any(|packet| packet[33] & 4 != 0) {
                assert!(flow.is_over());
                return now;
            }
            now += ms(100);
        }
        panic!("it hopes for ever");
    };
    let mut unanswered = Flow::connect(HERE, THERE, 1, ms(0));
    assert_eq!(last_words(&mut unanswered, ms(0), ms(100_000)), PATIENCE_SHORT);
    let mut unheard = Flow::connect(HERE, THERE, 1, ms(0));
    unheard.expire(PATIENCE_SHORT - ms(1));
    assert_eq!(unheard.state(), State::SynSent);
    unheard.expire(PATIENCE_SHORT);
    assert_eq!(unheard.state(), State::Closed, "even if nothing could be sent");
    let (mut flow, _) = connected();
    poll(&mut flow, ms(1000));
    say(&mut flow, b"?");
    assert_eq!(last_words(&mut flow, ms(2000), ms(700_000)), ms(2000) + PATIENCE);
    let (mut flow, _) = connected();
    flow.finish();
    flow.orphan();
    assert_eq!(last_words(&mut flow, ms(0), ms(100_000)), PATIENCE_SHORT);
}

#[test]
fn an_idle_flow_sleeps() {
    let (mut flow, mut guest) = connected();
    settle(&mut flow, &mut guest, ms(10));
    assert_eq!(flow.deadline(ms(20)), None);
}

#[test]
fn without_room_nothing_is_sent_and_it_says_so() {
    let (mut flow, mut guest) = connected();
    say(&mut flow, &[7; 50_000]);
    let mut frames = Vec::new();
    assert!(flow.poll(ms(1), [0; HEADER], 0, &mut frames) && frames.is_empty());
    assert!(flow.poll(ms(1), [0; HEADER], 4000, &mut frames));
    assert_eq!(frames.len(), 3, "up to the room and a packet");
    let answers = guest.turn(&packets_of(frames), ms(1));
    answers.iter().for_each(|packet| flow.packet(packet, ms(1)));
    settle(&mut flow, &mut guest, ms(2));
    assert_eq!(guest.socket().recv_queue(), 50_000);
}

/// Makes a packet that was tampered with look genuine.
fn fix_checksums(bytes: &mut [u8]) {
    let Ok(mut packet) = Ipv4Packet::new_checked(bytes) else { return };
    packet.fill_checksum();
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    if let Ok(mut segment) = TcpPacket::new_checked(packet.payload_mut()) {
        segment.fill_checksum(&source, &destination);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_is_lost_on_a_bad_cable(
        seed in 1u32..u32::MAX,
        moves in proptest::collection::vec(0u64..5000, 0..5),
    ) {
        const BYTES: usize = 50_000;
        let (mut flow, mut guest) = connected();
        let mut state = seed;
        // An eighth of all packets is lost, in either direction (Marsaglia's xorshift).
        let mut survives = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state >> 29 != 0
        };
        let (mut sent, mut echoed, mut back) = (0, Vec::new(), Vec::new());
        let pattern: Vec<u8> = (0..BYTES).map(|at| (at / 3) as u8).collect();
        let (mut now, mut turns) = (ms(0), 0);
        while echoed.len() < BYTES {
            turns += 1;
            prop_assert!(turns < 100_000, "{} bytes came back", echoed.len());
            if moves.contains(&turns) {
                flow.kick(now);
            }
            if flow.can_send() && sent < BYTES {
                sent += say(&mut flow, &pattern[sent..]);
            }
            let mut packets = poll(&mut flow, now);
            packets.retain(|_| survives());
            // The guest sends everything back.
            let socket = guest.socket();
            if socket.can_recv() && back.is_empty() {
                back = socket.recv(|bytes| (bytes.len(), bytes.to_vec())).expect("open");
            }
            let taken = socket.send_slice(&back).expect("open");
            back.drain(..taken);
            let mut answers = guest.turn(&packets, now);
            answers.retain(|_| survives());
            answers.iter().for_each(|packet| flow.packet(packet, now));
            while flow.can_receive() {
                flow.receive(|bytes| (bytes.len(), echoed.extend_from_slice(bytes)));
            }
            let idle = packets.is_empty() && answers.is_empty();
            let next = flow.deadline(now).into_iter().chain(guest.deadline(now)).min();
            now = next.filter(|_| idle).unwrap_or(now).max(now + ms(2));
        }
        prop_assert!(echoed == pattern);
    }

    #[test]
    fn hostile_packets_are_harmless(
        packets in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any::<bool>(),
             proptest::collection::vec(any::<u8>(), 0..200)), 1..40)
    ) {
        let (mut flow, mut guest) = connected();
        for (step, (at, value, valid, garbage)) in packets.into_iter().enumerate() {
            let now = ms(step as u64);
            if !valid {
                flow.packet(&garbage, now);
            } else {
                let _ = guest.socket().send_slice(&garbage);
                for mut packet in guest.turn(&[], now) {
                    let at = at.index(packet.len());
                    packet[at] = value;
                    fix_checksums(&mut packet);
                    flow.packet(&packet, now);
                }
            }
            poll(&mut flow, now);
            let _ = flow.receive(|bytes| (bytes.len(), ()));
            flow.deadline(now);
        }
    }
}
