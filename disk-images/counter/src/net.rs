//! The network: smoltcp over the e1000, its address by DHCP or a fixed one, and the connections of
//! both ports.

use crate::connection::{Connection, EventLog, HTTP_PORT, LINE_PORT};
use crate::e1000::E1000;
use crate::log;
use crate::system::Shared;
use alloc::vec::Vec;
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr};

const LINE_CONNECTIONS: usize = 24;
const HTTP_CONNECTIONS: usize = 8;
/// How long to wait for a DHCP server before taking the fixed address.
const DHCP_PATIENCE_MICROS: u64 = 3_000_000;
/// Without DHCP: what QEMU's user network expects.
const FALLBACK_ADDRESS: Ipv4Cidr = Ipv4Cidr::new(Ipv4Address::new(10, 0, 2, 15), 24);
const FALLBACK_ROUTER: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);
/// Frames received or rounds of sending before the main loop looks at other devices again.
const WORK_BOUND: usize = 64;
/// At most this long between two looks at the connections' deadlines.
const MAX_WAIT_MICROS: u64 = 1_000_000;

/// Where the address came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Addressing {
    /// A DHCP server may still answer until then.
    Waiting(u64),
    Dhcp,
    Fixed,
}

/// The network stack and everything connected to it.
pub struct Net {
    card: E1000,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: SocketHandle,
    addressing: Addressing,
    connections: Vec<Connection>,
    events: EventLog,
    /// When the stack wants to run again without a frame, in microseconds.
    deadline: u64,
}

fn instant(micros: u64) -> Instant {
    Instant::from_micros(micros as i64)
}

impl Net {
    /// Starts the card and the stack; `seed` makes sequence numbers and ports hard to guess.
    pub fn new(seed: u64, now: u64) -> Self {
        let mut card = E1000::new();
        let mut config = Config::new(EthernetAddress(card.mac()).into());
        config.random_seed = seed;
        let interface = Interface::new(config, &mut card, instant(now));
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = sockets.add(dhcpv4::Socket::new());
        let lines = [LINE_PORT; LINE_CONNECTIONS];
        let connections = lines.into_iter().chain([HTTP_PORT; HTTP_CONNECTIONS]);
        let connections = connections.map(|port| Connection::new(&mut sockets, port)).collect();
        Net {
            card,
            interface,
            sockets,
            dhcp,
            addressing: Addressing::Waiting(now + DHCP_PATIENCE_MICROS),
            connections,
            events: EventLog::default(),
            deadline: 0,
        }
    }

    /// The card.
    pub fn card(&mut self) -> &mut E1000 {
        &mut self.card
    }

    /// Our address, if there is one yet.
    pub fn address(&self) -> Option<Ipv4Address> {
        self.interface.ipv4_addr()
    }

    /// How the address was found.
    pub fn addressing(&self) -> &'static str {
        match self.addressing {
            Addressing::Waiting(_) => "waiting for DHCP",
            Addressing::Dhcp => "by DHCP",
            Addressing::Fixed => "fixed, no DHCP server answered",
        }
    }

    /// Clients connected.
    pub fn open_connections(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    /// Begins to end all connections.
    pub fn shut_down(&mut self) {
        self.connections.iter_mut().for_each(Connection::shut_down);
        self.deadline = 0;
    }

    /// Whether the stack has something to do at `now` even without a frame.
    pub fn is_due(&self, now: u64) -> bool {
        now >= self.deadline
    }

    /// Receives, serves the connections and sends, a bounded amount of work. Tells whether more
    /// waits to be done.
    pub fn run(&mut self, shared: &mut Shared) -> bool {
        let now = shared.clock.now();
        self.interface.poll_maintenance(instant(now));
        let received_all = self.receive(now);
        self.configure(now, shared);
        let mut has_output = false;
        for connection in &mut self.connections {
            has_output |= connection.serve(&mut self.sockets, shared, &mut self.events);
        }
        let sent_all = self.send(now);
        self.card.return_buffers();
        let wait = self.interface.poll_delay(instant(now), &self.sockets);
        let wait = wait.map_or(MAX_WAIT_MICROS, |wait| wait.total_micros().min(MAX_WAIT_MICROS));
        self.deadline = now + wait;
        !received_all || !sent_all || has_output
    }

    fn receive(&mut self, now: u64) -> bool {
        for _ in 0..WORK_BOUND {
            let result =
                self.interface.poll_ingress_single(instant(now), &mut self.card, &mut self.sockets);
            if result == PollIngressSingleResult::None {
                return true;
            }
        }
        false
    }

    fn send(&mut self, now: u64) -> bool {
        for _ in 0..WORK_BOUND {
            let result =
                self.interface.poll_egress(instant(now), &mut self.card, &mut self.sockets);
            if result == PollResult::None {
                return true;
            }
        }
        false
    }

    /// Follows the DHCP client, and stops waiting for it in the end.
    fn configure(&mut self, now: u64, shared: &Shared) {
        match self.sockets.get_mut::<dhcpv4::Socket>(self.dhcp).poll() {
            Some(dhcpv4::Event::Configured(lease)) => {
                let (address, router) = (lease.address, lease.router);
                self.addressing = Addressing::Dhcp;
                self.set_address(address, router, shared);
            }
            Some(dhcpv4::Event::Deconfigured) if self.addressing == Addressing::Dhcp => {
                log!("DHCP lease lost");
                self.addressing = Addressing::Waiting(now + DHCP_PATIENCE_MICROS);
                self.interface.update_ip_addrs(|addresses| addresses.clear());
            }
            _ => {}
        }
        if let Addressing::Waiting(until) = self.addressing
            && now >= until
        {
            self.addressing = Addressing::Fixed;
            self.set_address(FALLBACK_ADDRESS, Some(FALLBACK_ROUTER), shared);
        }
    }

    fn set_address(&mut self, address: Ipv4Cidr, router: Option<Ipv4Address>, shared: &Shared) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            addresses.push(IpCidr::Ipv4(address)).expect("room for one address");
        });
        self.interface.routes_mut().remove_default_ipv4_route();
        if let Some(router) = router {
            let routes = self.interface.routes_mut();
            routes.add_default_ipv4_route(router).expect("room for one route");
        }
        log!(
            "ready ip={} counter={} port={LINE_PORT} http={HTTP_PORT} ({})",
            address.address(),
            shared.counter.assigned(),
            self.addressing()
        );
    }
}
