//! What the gateway says to frames, byte by byte.

use super::*;
use backends::socket::Address;
use proptest::prelude::*;
use smoltcp::wire::TcpSeqNumber;

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const US: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];
const NOW: Duration = Duration::from_secs(1);

fn gateway() -> Gateway {
    let mut config = Config::new(Address::Tcp(String::new()));
    config.resolvers = vec!["127.0.0.1:53".parse().expect("an address")];
    Gateway::new(&config)
}

fn arp(operation: u8, sender: ([u8; 6], u8), target: u8) -> Vec<u8> {
    let mut frame = [&[0xFF; 6][..], &GUEST, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend(sender.0);
    frame.extend([10, 0, 2, sender.1, 0, 0, 0, 0, 0, 0, 10, 0, 2, target]);
    frame
}

/// The ones' complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !((sum & 0xFFFF) + (sum >> 16)) as u16
}

fn ipv4(to: [u8; 6], source: [u8; 4], destination: [u8; 4], protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = (20 + body.len() as u16).to_be_bytes();
    let mut ip = vec![0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    ip.extend(source);
    ip.extend(destination);
    let check = sum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&check);
    [&to[..], &GUEST, &[8, 0], &ip, body].concat()
}

/// A UDP datagram without a checksum (RFC 768 allows that).
fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len() as u16).to_be_bytes();
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &len, &[0, 0], data].concat()
}

fn answers(gateway: &mut Gateway, frame: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(gateway.frame(frame, NOW, &mut Vec::new()), Heard::Nothing);
    gateway.frames()
}

#[test]
fn arp_questions_for_the_gateway_are_answered() {
    let mut gateway = gateway();
    let mut news = Vec::new();
    gateway.frame(&arp(1, (GUEST, 15), 2), NOW, &mut news);
    assert_eq!(news, [Ipv4Addr::new(10, 0, 2, 15)]);
    let mut expected = [&GUEST[..], &US, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &US].concat();
    expected.extend([10, 0, 2, 2]);
    expected.extend(GUEST);
    expected.extend([10, 0, 2, 15]);
    expected.resize(60, 0);
    assert_eq!(gateway.frames(), [expected]);
    for silent in [arp(1, (GUEST, 15), 3), arp(2, (GUEST, 15), 2), arp(1, ([2; 6], 15), 2)] {
        assert!(answers(&mut gateway, &silent).is_empty());
    }
    // A probe for an address that nobody has yet (RFC 5227): the sender is not noted.
    let mut probe = arp(1, (GUEST, 0), 2);
    probe[28..32].copy_from_slice(&[0; 4]);
    assert_eq!(answers(&mut gateway, &probe).len(), 1, "the gateway defends its address");
    assert_eq!(gateway.hosts(EthernetAddress(GUEST)).len(), 1);
}

#[test]
fn nobody_takes_the_gateways_addresses() {
    let mut gateway = gateway();
    let mut news = Vec::new();
    gateway.frame(&arp(1, (GUEST, 2), 15), NOW, &mut news);
    let mut outside = arp(1, (GUEST, 15), 2);
    outside[28..32].copy_from_slice(&[8, 8, 8, 8]);
    gateway.frame(&outside, NOW, &mut news);
    assert!(news.is_empty());
}

#[test]
fn echo_requests_are_answered_with_what_they_brought() {
    let mut gateway = gateway();
    let mut echo = vec![8, 0, 0, 0, 0x12, 0x34, 0, 7];
    echo.extend(b"data of the guest, an odd number of bytes");
    let check = sum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&check);
    let frame = ipv4(US, [10, 0, 2, 15], [10, 0, 2, 2], 1, &echo);
    let reply = &answers(&mut gateway, &frame)[0];
    assert_eq!((&reply[..6], &reply[6..12]), (&GUEST[..], &US[..]));
    assert_eq!((&reply[26..30], &reply[30..34]), (&[10, 0, 2, 2][..], &[10, 0, 2, 15][..]));
    assert_eq!((reply[34], reply[35], sum(&reply[14..34]), sum(&reply[34..])), (0, 0, 0, 0));
    assert_eq!(reply[38..34 + echo.len()], echo[4..]);
    let away = ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], 1, &echo);
    let heard = gateway.frame(&away, NOW, &mut Vec::new());
    assert!(matches!(heard, Heard::Echo { ident: 0x1234, seq: 7, .. }), "{heard:?}");
}

#[test]
fn wrong_packets_are_nothing() {
    let mut gateway = gateway();
    let good = ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], 17, &udp(1, 2, b"data"));
    assert!(matches!(
        gateway.frame(&good, NOW, &mut Vec::new()),
        Heard::Udp { payload: b"data", .. }
    ));
    let change = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        let check = [0, 0];
        frame[24..26].copy_from_slice(&check);
        let check = sum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&check);
        frame
    };
    let mut checksum = good.clone();
    checksum[24] ^= 1;
    let from_outside = ipv4(US, [9, 9, 9, 9], [10, 0, 2, 2], 17, &udp(1, 2, b"data"));
    let from_us = ipv4(US, [10, 0, 2, 2], [9, 9, 9, 9], 17, &udp(1, 2, b"data"));
    let to_a_guest = ipv4(US, [10, 0, 2, 15], [10, 0, 2, 16], 17, &udp(1, 2, b"data"));
    let to_a_group = ipv4(US, [10, 0, 2, 15], [224, 0, 0, 1], 17, &udp(1, 2, b"data"));
    let to_nobody = ipv4(US, [10, 0, 2, 15], [0, 0, 0, 0], 17, &udp(1, 2, b"data"));
    let elsewhere = ipv4([2; 6], [10, 0, 2, 15], [9, 9, 9, 9], 17, &udp(1, 2, b"data"));
    let port_0 = ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], 17, &udp(0, 2, b"data"));
    let longer = change(17, 200);
    for bad in [
        checksum,
        from_outside,
        from_us,
        to_a_guest,
        to_a_group,
        to_nobody,
        elsewhere,
        port_0,
        longer,
        change(14, 0x65),
        change(14, 0x4F),
        change(20, 0x20),
        change(21, 1),
        change(38, 0xFF),
        good[..33].to_vec(),
        good[..38].to_vec(),
        good[..14].to_vec(),
    ] {
        assert!(answers(&mut gateway, &bad).is_empty(), "{bad:02x?}");
    }
    let unknown = ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], 132, b"sctp and so on");
    let told = &answers(&mut gateway, &unknown)[0];
    assert_eq!((told[34], told[35]), (3, 2), "protocol unreachable");
    assert_eq!(told[42..62], unknown[14..34], "with the header that was meant");
}

#[test]
fn segments_of_no_connection_are_reset() {
    let mut gateway = gateway();
    let mut segment = [&7777u16.to_be_bytes()[..], &80u16.to_be_bytes()].concat();
    segment.extend(1000u32.to_be_bytes());
    segment.extend(5000u32.to_be_bytes());
    segment.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    let frame = ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], 6, &segment);
    let mut news = Vec::new();
    let Heard::Tcp { packet, opens: false, .. } = gateway.frame(&frame, NOW, &mut news) else {
        panic!("a segment");
    };
    gateway.reset(packet, NOW);
    let reset = &gateway.frames()[0];
    let tcp = TcpPacket::new_checked(&reset[34..54]).expect("a segment");
    assert!(tcp.rst() && !tcp.ack());
    assert_eq!((tcp.seq_number(), tcp.dst_port()), (TcpSeqNumber(5000), 7777));
    let path = (IpAddress::v4(9, 9, 9, 9), IpAddress::v4(10, 0, 2, 15));
    assert!(tcp.verify_checksum(&path.0, &path.1));
}

#[test]
fn guests_that_are_not_known_are_asked_for() {
    let mut gateway = gateway();
    let ip = Ipv4Addr::new(10, 0, 2, 15);
    assert_eq!(gateway.header_to(ip, NOW), None);
    assert_eq!(gateway.header_to(ip, NOW), None);
    let asked = gateway.frames();
    assert_eq!(asked.len(), 1, "once a second");
    assert_eq!((&asked[0][..6], &asked[0][38..42]), (&[0xFF; 6][..], &[10, 0, 2, 15][..]));
    gateway.frame(&arp(2, (GUEST, 15), 2), NOW, &mut Vec::new());
    assert_eq!(gateway.header_to(ip, NOW).map(|h| h.destination), Some(EthernetAddress(GUEST)));
}

proptest! {
    #[test]
    fn hostile_frames_are_harmless(
        kind in 0usize..4, at in any::<prop::sample::Index>(), value in any::<u8>(),
        cut in any::<prop::sample::Index>(), body in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut gateway = gateway();
        let dhcp = udp(68, 67, &body);
        let mut frame = match kind {
            0 => body.clone(),
            1 => arp(1, (GUEST, 15), 2),
            2 => ipv4([0xFF; 6], [0; 4], [255; 4], 17, &dhcp),
            _ => ipv4(US, [10, 0, 2, 15], [9, 9, 9, 9], value % 20, &body),
        };
        if !frame.is_empty() {
            let at = at.index(frame.len());
            frame[at] = value;
            frame.truncate(cut.index(frame.len()) + 1);
        }
        let mut news = Vec::new();
        match gateway.frame(&frame, NOW, &mut news) {
            Heard::Tcp { packet, .. } => gateway.reset(packet, NOW),
            Heard::Udp { packet, .. } => {
                gateway.unreachable(packet, Icmpv4DstUnreachable::PortUnreachable, NOW);
            }
            _ => {}
        }
        for answer in gateway.frames() {
            prop_assert!((60..=1514).contains(&answer.len()));
        }
    }
}
