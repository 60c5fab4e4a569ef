//! The client: one TCP connection on which it counts up, and a network of two.
//!
//! Contract: it has the world's time and no other; each reply is checked as it comes.

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use std::collections::VecDeque;

const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
const GUEST: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const PORT: u16 = 7777;

/// Frames on their way.
#[derive(Default)]
struct Cable {
    to_client: VecDeque<Vec<u8>>,
    from_client: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Received(frame), Sending(&mut self.from_client)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.from_client))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The client.
pub struct Client {
    cable: Cable,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// Numbers asked for and numbers got.
    asked: u64,
    got: u64,
    goal: u64,
    text: Vec<u8>,
}

fn instant(ns: u64) -> Instant {
    Instant::from_micros((ns / 1000) as i64)
}

impl Client {
    /// A client that will count up `goal` times, at the time `ns`.
    pub fn new(goal: u64, ns: u64) -> Self {
        let mut cable = Cable::default();
        let mac = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut cable, instant(ns));
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), 24)).expect("room for one");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(tcp::Socket::new(buffer(), buffer()));
        let text = Vec::new();
        Self { cable, interface, sockets, socket, asked: 0, got: 0, goal, text }
    }

    /// Connects.
    pub fn connect(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        socket
            .connect(self.interface.context(), (IpAddress::Ipv4(GUEST), PORT), 49152)
            .expect("a fresh socket");
    }

    /// A frame from the guest.
    pub fn receive(&mut self, frame: Vec<u8>) {
        self.cable.to_client.push_back(frame);
    }

    /// A frame for the guest.
    pub fn frame(&mut self) -> Option<Vec<u8>> {
        self.cable.from_client.pop_front()
    }

    /// Does what is to be done at the time `ns`.
    ///
    /// # Panics
    /// If a number is lost, repeated or out of order, or the connection ends: that is the test.
    pub fn poll(&mut self, ns: u64) {
        self.interface.poll(instant(ns), &mut self.cable, &mut self.sockets);
        let socket = self.sockets.get_mut::<tcp::Socket>(self.socket);
        if self.asked > 0 {
            assert!(socket.may_recv() && socket.may_send(), "the connection has ended");
        }
        // One to five at a time: answers that come together are a case of their own.
        let batch = 1 + self.got % 5;
        if socket.can_send() && self.asked == self.got && self.asked < self.goal {
            let n = batch.min(self.goal - self.asked);
            let words = b"INCR\n".repeat(n as usize);
            assert_eq!(socket.send_slice(&words), Ok(words.len()), "the buffer is empty");
            self.asked += n;
        }
        while socket.can_recv() {
            let text = &mut self.text;
            let taken = socket.recv(|bytes| {
                text.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            taken.expect("it can receive");
        }
        while let Some(end) = self.text.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            let line = String::from_utf8(line).expect("text");
            self.got += 1;
            assert_eq!(line.trim(), self.got.to_string(), "a number is lost or repeated");
            assert!(self.got <= self.asked, "an answer to nothing");
        }
        self.interface.poll(instant(ns), &mut self.cable, &mut self.sockets);
    }

    /// Whether all numbers have come.
    pub fn is_done(&self) -> bool {
        self.got == self.goal
    }

    /// Numbers so far.
    pub fn got(&self) -> u64 {
        self.got
    }
}
