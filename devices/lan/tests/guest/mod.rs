//! A guest in a test: a TCP/IP stack of its own behind a cable, which can be pulled and plugged in
//! elsewhere.
#![allow(dead_code)]

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
pub const OTHER_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0x12, 0x34, 0x57]);
pub const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
pub const GATEWAY: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The guest's end of a cable.
pub struct Cable {
    stream: Option<TcpStream>,
    bytes: Vec<u8>,
    frames: VecDeque<Vec<u8>>,
    out: Vec<u8>,
}

impl Cable {
    pub fn plug_in(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the LAN listens");
        stream.set_nodelay(true).expect("an option");
        stream.set_nonblocking(true).expect("an option");
        Self { stream: Some(stream), bytes: Vec::new(), frames: VecDeque::new(), out: Vec::new() }
    }

    /// Raw bytes, whatever they are.
    pub fn write(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.exchange();
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.write(&[&(frame.len() as u32).to_be_bytes()[..], frame].concat());
    }

    /// Throws away what has come, as a machine that is not live yet.
    pub fn forget(&mut self) {
        self.exchange();
        self.frames.clear();
    }

    /// A frame that is already here.
    pub fn receive_waiting(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// Whether the LAN has hung up.
    pub fn is_cut(&self) -> bool {
        self.stream.is_none()
    }

    /// Waits for the next frame for which `wanted` holds.
    pub fn receive(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.exchange();
            while let Some(frame) = self.frames.pop_front() {
                if wanted(&frame) {
                    return frame;
                }
            }
            assert!(Instant::now() < end, "no such frame came");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn exchange(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut room = [0; 65536];
        let mut cut = false;
        loop {
            match stream.read(&mut room) {
                Ok(0) => cut = true,
                Ok(n) => {
                    self.bytes.extend_from_slice(&room[..n]);
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => cut = true,
            }
            break;
        }
        let mut at = 0;
        while let Some((len, rest)) = self.bytes[at..].split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            let Some(frame) = rest.get(..len) else { break };
            self.frames.push_back(frame.to_vec());
            at += 4 + len;
        }
        self.bytes.drain(..at);
        while !self.out.is_empty() && !cut {
            match stream.write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => cut = true,
            }
        }
        if cut {
            self.stream = None;
        }
    }
}

pub struct In(Vec<u8>);
pub struct Out<'a>(&'a mut Vec<u8>);

impl phy::RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        self.0.extend_from_slice(&(len as u32).to_be_bytes());
        let at = self.0.len();
        self.0.resize(at + len, 0);
        write(&mut self.0[at..])
    }
}

impl Device for Cable {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Clock) -> Option<(In, Out<'_>)> {
        let frame = self.frames.pop_front()?;
        Some((In(frame), Out(&mut self.out)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Out<'_>> {
        // A card has a ring: the stack waits while the LAN is slow.
        (self.out.len() < 256 * 1024).then_some(Out(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// The machine: it stands still while it is not run.
pub struct Guest {
    pub cable: Cable,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
}

impl Guest {
    /// A guest with an address of its own choice.
    pub fn fixed(lan: &str, mac: EthernetAddress, ip: Ipv4Address) -> Self {
        let mut guest = Self::new(lan, mac);
        guest.configure(Ipv4Cidr::new(ip, 24), GATEWAY);
        guest
    }

    pub fn new(lan: &str, mac: EthernetAddress) -> Self {
        let mut cable = Cable::plug_in(lan);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = 7;
        let interface = Interface::new(config, &mut cable, Clock::from_micros(0));
        Self { cable, interface, sockets: SocketSet::new(Vec::new()), start: Instant::now() }
    }

    pub fn configure(&mut self, address: Ipv4Cidr, router: Ipv4Address) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).expect("room for one");
        });
        self.interface.routes_mut().add_default_ipv4_route(router).expect("room for one");
    }

    /// One turn of the stack.
    pub fn turn(&mut self) -> bool {
        self.cable.exchange();
        let now = Clock::from_micros(self.start.elapsed().as_micros() as i64);
        let moved = !self.cable.frames.is_empty();
        self.interface.poll(now, &mut self.cable, &mut self.sockets);
        let sends = !self.cable.out.is_empty();
        self.cable.exchange();
        moved || sends
    }

    /// Runs the stack until `done` gives something.
    pub fn run<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let busy = self.turn();
            if let Some(value) = done(self) {
                self.turn();
                return value;
            }
            assert!(Instant::now() < end, "the guest waits in vain");
            if !busy {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Gets an address by DHCP.
    pub fn ask_for_address(&mut self) -> (Ipv4Cidr, Ipv4Address, Vec<Ipv4Address>) {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let lease =
            self.run(|guest| match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
                Some(dhcpv4::Event::Configured(config)) => {
                    let router = config.router.expect("a router");
                    Some((config.address, router, config.dns_servers.to_vec()))
                }
                _ => None,
            });
        self.sockets.remove(handle);
        self.configure(lease.0, lease.1);
        lease
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp_socket();
        socket.listen(port).expect("a free port");
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, to: (Ipv4Address, u16), from: u16) -> SocketHandle {
        let handle = self.sockets.add(tcp_socket());
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.connect(self.interface.context(), to, from).expect("a new socket");
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Waits until the connection is made.
    pub fn established(&mut self, handle: SocketHandle) {
        self.run(|guest| (guest.tcp(handle).state() == tcp::State::Established).then_some(()));
    }

    /// Waits for exactly `wanted`.
    pub fn expect(&mut self, handle: SocketHandle, wanted: &[u8]) {
        let mut seen = Vec::new();
        self.run(|guest| {
            let socket = guest.tcp(handle);
            while socket.can_recv() {
                let _ = socket.recv(|bytes| (bytes.len(), seen.extend_from_slice(bytes)));
            }
            (seen.len() >= wanted.len()).then_some(())
        });
        assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(wanted));
    }

    pub fn say(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let sent = self.tcp(handle).send_slice(bytes).expect("a connection");
        assert_eq!(sent, bytes.len());
        self.turn();
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 65536]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).expect("a free port");
        self.sockets.add(socket)
    }

    /// Sends a datagram and waits for the answer.
    pub fn ask(
        &mut self,
        handle: SocketHandle,
        to: (Ipv4Address, u16),
        question: &[u8],
    ) -> (Vec<u8>, (Ipv4Address, u16)) {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        socket.send_slice(question, to).expect("room");
        self.hear(handle)
    }

    pub fn hear(&mut self, handle: SocketHandle) -> (Vec<u8>, (Ipv4Address, u16)) {
        self.run(|guest| {
            let socket = guest.sockets.get_mut::<udp::Socket<'_>>(handle);
            let (data, from) = socket.recv().ok()?;
            let smoltcp::wire::IpAddress::Ipv4(ip) = from.endpoint.addr;
            Some((data.to_vec(), (ip, from.endpoint.port)))
        })
    }

    pub fn icmp(&mut self, ident: u16) -> SocketHandle {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 65536]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(icmp::Endpoint::Ident(ident)).expect("a free identifier");
        self.sockets.add(socket)
    }
}

fn tcp_socket() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}
