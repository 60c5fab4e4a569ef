//! The whole LAN on loopback: guests with a TCP/IP stack of their own, and clients and servers of
//! the host.

mod guest;

use guest::{ADDRESS, Cable, GATEWAY, Guest, MAC, OTHER_MAC, PATIENCE};
use lan::config::{Config, Protocol};
use lan::server::Lan;
use smoltcp::socket::{icmp, tcp};
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running LAN, stopped at the end of the test.
struct Running {
    name: String,
    forwards: Vec<SocketAddr>,
    stop: std::os::unix::net::UnixStream,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Running {
    fn start(forwards: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let listen = backends::socket::Address::Tcp("127.0.0.1:0".into());
        let mut config = Config::new(listen);
        config.forwards = forwards.iter().map(|text| text.parse().expect("a forward")).collect();
        configure(&mut config);
        let mut lan = Lan::new(config).expect("free ports");
        let forwards = lan.forwards().iter().map(|forward| forward.host).collect();
        let (name, stop) = (lan.name().to_owned(), lan.stop().expect("a descriptor"));
        let thread = Some(std::thread::spawn(move || lan.run()));
        Self { name, forwards, stop, thread }
    }

    /// With a forward to the first guest's port 7777.
    fn with_forward() -> Self {
        Self::start(&["tcp:127.0.0.1:0-:7777"], |_| ())
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.forwards[0]).expect("the forward listens");
        client.set_nodelay(true).expect("an option");
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        client
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.write(&[0]);
        let ended = self.thread.take().expect("stopped once").join();
        if !std::thread::panicking() {
            ended.expect("the LAN does not panic").expect("the LAN does not fail");
        }
    }
}

/// Reads exactly `wanted`.
#[track_caller]
fn expect(client: &mut TcpStream, wanted: &[u8]) {
    let mut seen = vec![0; wanted.len()];
    client.read_exact(&mut seen).expect("bytes come");
    assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(wanted));
}

/// A guest that listens, and a client that it has accepted.
fn connected(lan: &Running) -> (Guest, smoltcp::iface::SocketHandle, TcpStream) {
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.listen(7777);
    let client = lan.client();
    guest.established(handle);
    (guest, handle, client)
}

/// A server of the host that answers one connection with what it hears.
fn echo_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => stream.write_all(&buffer[..n]).expect("the client reads"),
            }
        }
    });
    (address, thread)
}

#[test]
fn guests_get_addresses_and_can_ping_the_gateway() {
    let lan = Running::start(&[], |config| {
        config.resolvers = vec!["127.0.0.1:53".parse().expect("an address")];
    });
    let mut one = Guest::new(&lan.name, MAC);
    let (address, router, dns) = one.ask_for_address();
    assert_eq!((address.address(), address.prefix_len()), (ADDRESS, 24));
    assert_eq!((router, dns), (GATEWAY, vec![GATEWAY]));
    let mut two = Guest::new(&lan.name, OTHER_MAC);
    assert_eq!(two.ask_for_address().0.address(), Ipv4Address::new(10, 0, 2, 16));
    let mut again = Guest::new(&lan.name, MAC);
    assert_eq!(again.ask_for_address().0.address(), ADDRESS, "the same card, the same address");
    let handle = again.icmp(0x1234);
    let repr = Icmpv4Repr::EchoRequest { ident: 0x1234, seq_no: 7, data: b"is anybody there?" };
    let socket = again.sockets.get_mut::<icmp::Socket<'_>>(handle);
    let room = socket.send(repr.buffer_len(), IpAddress::Ipv4(GATEWAY)).expect("room");
    repr.emit(&mut Icmpv4Packet::new_unchecked(room), &Default::default());
    let answer = again.run(|guest| {
        let socket = guest.sockets.get_mut::<icmp::Socket<'_>>(handle);
        socket.recv().ok().map(|(bytes, from)| (bytes.to_vec(), from))
    });
    assert_eq!(answer.1, IpAddress::Ipv4(GATEWAY));
    let packet = Icmpv4Packet::new_checked(&answer.0[..]).expect("a packet");
    let parsed = Icmpv4Repr::parse(&packet, &Default::default()).expect("a good checksum");
    let expected = Icmpv4Repr::EchoReply { ident: 0x1234, seq_no: 7, data: b"is anybody there?" };
    assert_eq!(parsed, expected);
}

#[test]
fn two_guests_talk_over_the_switch() {
    let lan = Running::start(&[], |_| ());
    let mut server = Guest::fixed(&lan.name, MAC, ADDRESS);
    let listening = server.listen(80);
    let mut client = Guest::fixed(&lan.name, OTHER_MAC, Ipv4Address::new(10, 0, 2, 16));
    let calling = client.connect((ADDRESS, 80), 4000);
    let end = Instant::now() + PATIENCE;
    while client.tcp(calling).state() != tcp::State::Established {
        client.turn();
        server.turn();
        assert!(Instant::now() < end);
    }
    client.say(calling, b"from one to the other");
    server.expect(listening, b"from one to the other");
}

#[test]
fn a_guest_reaches_a_server_of_the_host() {
    let lan = Running::start(&[], |_| ());
    let (server, thread) = echo_server();
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.connect((GATEWAY, server.port()), 5000);
    guest.established(handle);
    guest.say(handle, b"there and back");
    guest.expect(handle, b"there and back");
    guest.tcp(handle).close();
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::TimeWait).then_some(()));
    thread.join().expect("the server saw the end");
}

#[test]
fn a_refusal_is_a_reset() {
    let lan = Running::start(&[], |_| ());
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let begin = Instant::now();
    let handle = guest.connect((GATEWAY, port), 5000);
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    assert!(begin.elapsed() < Duration::from_secs(10), "told, not timed out");
}

#[test]
fn no_cable_leads_through_the_lan_itself() {
    let lan = Running::start(&[], |_| ());
    let port = lan.name.rsplit(':').next().expect("a port").parse().expect("a number");
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.connect((GATEWAY, port), 5000);
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
}

#[test]
fn without_host_services_the_gateway_refuses() {
    let lan = Running::start(&[], |config| config.host_services = false);
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("an address").port();
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.connect((GATEWAY, port), 5000);
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    let loopback = guest.connect((Ipv4Address::new(127, 0, 0, 1), port), 5001);
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        guest.turn();
    }
    assert_ne!(guest.tcp(loopback).state(), tcp::State::Established);
    server.set_nonblocking(true).expect("an option");
    assert!(server.accept().is_err(), "nobody came");
}

#[test]
fn a_forward_relays_both_ways_and_each_half_closes_alone() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    client.write_all(b"from the client").expect("open");
    guest.expect(handle, b"from the client");
    guest.say(handle, b"from the guest");
    expect(&mut client, b"from the guest");
    client.shutdown(Shutdown::Write).expect("open");
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::CloseWait).then_some(()));
    guest.say(handle, b"still there");
    expect(&mut client, b"still there");
    guest.tcp(handle).close();
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
    assert_eq!(client.read(&mut [0; 8]).expect("a clean end"), 0);
}

#[test]
fn the_guest_may_finish_first() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    guest.say(handle, b"all that I have");
    guest.tcp(handle).close();
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::FinWait2).then_some(()));
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).expect("a clean end");
    assert_eq!(seen, b"all that I have");
    client.write_all(b"and my part").expect("the other half is open");
    guest.expect(handle, b"and my part");
}

#[test]
fn resets_are_passed_on() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    guest.tcp(handle).abort();
    guest.turn();
    let error = client.read(&mut [0; 8]).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    guest.sockets.remove(handle);
    let handle = guest.listen(7777);
    let client = lan.client();
    guest.established(handle);
    // Bytes that are thrown away unread make the host's kernel send a reset.
    guest.say(handle, b"unread");
    client.peek(&mut [0; 6]).expect("bytes come");
    drop(client);
    guest.run(|guest| (guest.tcp(handle).state() == tcp::State::Closed).then_some(()));
}

#[test]
fn a_client_may_come_before_the_guest() {
    let lan = Running::with_forward();
    let mut client = lan.client();
    client.write_all(b"anybody?").expect("the forward takes it");
    std::thread::sleep(Duration::from_millis(50));
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.listen(7777);
    guest.expect(handle, b"anybody?");
}

/// The announcement of a machine that took over (RFC 903 as hypervisors use it).
fn rarp(mac: EthernetAddress) -> Vec<u8> {
    let mut frame = vec![0xFF; 6];
    frame.extend(mac.0);
    frame.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    frame.extend(mac.0);
    frame.extend([0; 4]);
    frame.extend(mac.0);
    frame.resize(60, 0);
    frame
}

#[test]
fn a_connection_survives_the_death_of_the_guests_computer() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    for silence in [0, 2000, 300] {
        client.write_all(b"before").expect("open");
        guest.expect(handle, b"before");
        // The computer dies: the cable is pulled; the machine's state goes on elsewhere.
        guest.cable = Cable::plug_in(&lan.name);
        // It is not announced yet, so the words go into the void, again and again.
        client.write_all(b"INCR\n").expect("the forward takes it");
        std::thread::sleep(Duration::from_millis(silence));
        guest.cable.forget();
        let announced = Instant::now();
        guest.cable.send(&rarp(MAC));
        guest.expect(handle, b"INCR\n");
        let gap = announced.elapsed();
        // The timers alone would take at least 250 ms; the rest is for a busy machine.
        assert!(gap < Duration::from_millis(200), "{gap:?} after {silence} ms of silence");
        guest.say(handle, b"42\n");
        expect(&mut client, b"42\n");
    }
}

#[test]
fn bulk_goes_both_ways_with_back_pressure() {
    const BYTES: usize = 32 << 20;
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    let mut writing = client.try_clone().expect("a descriptor");
    let pattern = |at: usize| (at * 7 + at / 251) as u8;
    let writer = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..BYTES).map(pattern).collect();
        writing.write_all(&bytes).expect("the guest reads in the end");
    });
    // Nobody reads yet: the client must be held back, or all of it would be in memory.
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        guest.turn();
    }
    assert!(!writer.is_finished(), "32 MiB fit no buffer on the way");
    // The guest sends back what it gets, in its own time.
    let reader = std::thread::spawn(move || {
        let mut seen = vec![0; BYTES];
        client.read_exact(&mut seen).expect("all comes back");
        seen
    });
    let mut moved = 0;
    while moved < BYTES {
        moved += guest.run(|guest| {
            let socket = guest.tcp(handle);
            let room = (socket.send_capacity() - socket.send_queue()).min(16384);
            let mut piece = vec![0; room];
            let n = socket.recv_slice(&mut piece).expect("open");
            assert_eq!(socket.send_slice(&piece[..n]), Ok(n));
            (n > 0).then_some(n)
        });
    }
    let end = Instant::now() + PATIENCE;
    while !reader.is_finished() {
        guest.turn();
        assert!(Instant::now() < end, "all was sent");
    }
    let seen = reader.join().expect("the reader");
    writer.join().expect("the writer");
    assert!(seen.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

#[test]
fn names_are_asked_for_at_the_hosts_resolver() {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    server.set_read_timeout(Some(PATIENCE)).expect("an option");
    let address = server.local_addr().expect("an address");
    let lan = Running::start(&[], |config| config.resolvers = vec![address]);
    let thread = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut question = [0; 512];
            let (n, from) = server.recv_from(&mut question).expect("a question");
            question[2] |= 0x80;
            server.send_to(&question[..n], from).expect("an answer");
        }
    });
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    for (port, id) in [(3000, 1), (3001, 2)] {
        let handle = guest.udp(port);
        let question = [0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
        let (answer, from) = guest.ask(handle, (GATEWAY, 53), &question);
        assert_eq!(from, (GATEWAY, 53));
        assert_eq!((answer[1], answer[2]), (id, 0x81));
    }
    thread.join().expect("the server");
}

#[test]
fn names_go_over_tcp_too() {
    let (address, thread) = echo_server();
    let lan = Running::start(&[], |config| config.resolvers = vec![address]);
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let handle = guest.connect((GATEWAY, 53), 5000);
    guest.established(handle);
    guest.say(handle, b"a long question");
    guest.expect(handle, b"a long question");
    drop(guest);
    drop(lan);
    thread.join().expect("the end of the LAN is the end of its connections");
}

#[test]
fn datagrams_go_out_and_come_in_by_a_forward() {
    let lan = Running::start(&["udp:127.0.0.1:0-:5353"], |_| ());
    let mut guest = Guest::fixed(&lan.name, MAC, ADDRESS);
    let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("an address").port();
    server.set_read_timeout(Some(PATIENCE)).expect("an option");
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 100];
        let (n, from) = server.recv_from(&mut buffer).expect("a datagram");
        server.send_to(&buffer[..n], from).expect("an answer");
    });
    let handle = guest.udp(3000);
    let answer = guest.ask(handle, (GATEWAY, port), b"echo");
    assert_eq!(answer, (b"echo".to_vec(), (GATEWAY, port)));
    thread.join().expect("the server");

    let served = guest.udp(5353);
    let clients = [(); 2].map(|()| {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        client.connect(lan.forwards[0]).expect("loopback");
        client
    });
    for (client, word) in clients.iter().zip([b"one", b"two"]) {
        client.send(word).expect("the forward listens");
    }
    for _ in 0..2 {
        let (word, from) = guest.hear(served);
        let socket = guest.sockets.get_mut::<smoltcp::socket::udp::Socket<'_>>(served);
        socket.send_slice(&word, from).expect("room");
        guest.turn();
    }
    for (client, word) in clients.iter().zip([b"one", b"two"]) {
        let mut buffer = [0; 100];
        let n = client.recv(&mut buffer).expect("each its own answer");
        assert_eq!(buffer[..n], word[..]);
    }
}

#[test]
fn a_stranger_on_a_cable_is_harmless() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    let mut cable = Cable::plug_in(&lan.name);
    for frame in [&[][..], &[0; 3], &[0xFF; 13], &[0xFF; 14], &[0xFF; 1514], &[1; 16384]] {
        cable.send(frame);
    }
    cable.send(&[&[0xFF; 6][..], &OTHER_MAC.0, &[8, 0, 0x4F, 0xFF, 0xFF, 0xFF]].concat());
    assert!(!cable.is_cut(), "frames are only frames");
    cable.write(&[0xFF; 64]);
    let end = Instant::now() + PATIENCE;
    while !cable.is_cut() {
        cable.exchange();
        assert!(Instant::now() < end, "a length of no frame ends the cable");
    }
    client.write_all(b"still here").expect("open");
    guest.expect(handle, b"still here");
}

#[test]
fn a_guest_that_does_not_read_keeps_nobody_waiting() {
    let lan = Running::with_forward();
    let (mut guest, handle, mut client) = connected(&lan);
    let deaf = Cable::plug_in(&lan.name);
    // Broadcasts go to the deaf one too, more than all queues hold.
    let mut broadcast = vec![0xFF; 6];
    broadcast.extend(OTHER_MAC.0);
    broadcast.resize(1514, 0x11);
    let mut noisy = Cable::plug_in(&lan.name);
    for _ in 0..8000 {
        noisy.send(&broadcast);
        guest.cable.exchange();
        while guest.cable.receive_waiting().is_some() {}
    }
    client.write_all(b"not kept waiting").expect("open");
    guest.expect(handle, b"not kept waiting");
    assert!(!deaf.is_cut());
}

#[test]
fn a_cable_that_ends_with_its_last_frame_is_unplugged() {
    let lan = Running::start(&[], |_| ());
    let mut sender = Cable::plug_in(&lan.name);
    let mut listener = Cable::plug_in(&lan.name);
    for n in 0..20 {
        let mac = [2, 0, 0, 0, 0, n];
        let mut gone = Cable::plug_in(&lan.name);
        gone.send(&[&[0xFF; 6][..], &mac, &[0x88, 0xB5], &[0; 46]].concat());
        drop(gone);
        listener.receive(|frame| frame[6..12] == mac);
        std::thread::sleep(Duration::from_millis(20));
        // Nobody has the address any more, so everybody gets the frame.
        sender.send(&[&mac[..], &OTHER_MAC.0, &[0x88, 0xB5], &[n; 46]].concat());
        listener.receive(|frame| frame[..6] == mac);
    }
}

#[test]
fn the_capture_has_the_frames() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("capture");
    let lan = Running::start(&["tcp:127.0.0.1:0-:7777"], |config| config.pcap = Some(path.clone()));
    let (mut guest, handle, mut client) = connected(&lan);
    client.write_all(b"a word to be found").expect("open");
    guest.expect(handle, b"a word to be found");
    drop(lan);
    let capture = std::fs::read(path).expect("a capture");
    assert!(capture.windows(18).any(|part| part == b"a word to be found"));
}

#[test]
fn forwards_say_where_they_are() {
    let listen = backends::socket::Address::Tcp("127.0.0.1:0".into());
    let mut config = Config::new(listen);
    config.forwards = vec!["udp:127.0.0.1:0-10.0.2.77:53".parse().expect("a forward")];
    let lan = Lan::new(config).expect("free ports");
    let forward = lan.forwards()[0];
    assert_eq!(forward.protocol, Protocol::Udp);
    assert_ne!(forward.host.port(), 0);
    assert_eq!(forward.guest.to_string(), "10.0.2.77:53");
}
