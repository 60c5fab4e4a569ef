//! What the LAN looks like: its addresses, where guests attach, and what is forwarded to them.

use backends::socket::Address;
use smoltcp::wire::EthernetAddress;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

/// Host number of the gateway.
const GATEWAY: u32 = 2;
/// Host number of the first lease.
const FIRST_LEASE: u32 = 15;

/// An IPv4 network with room for the gateway and some guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Default for Subnet {
    fn default() -> Self {
        Self { base: u32::from(Ipv4Addr::new(10, 0, 2, 0)), prefix: 24 }
    }
}

impl Subnet {
    /// The network's mask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask_bits())
    }

    fn mask_bits(&self) -> u32 {
        u32::MAX << (32 - self.prefix)
    }

    /// Whether `address` is one of a host here.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        let host = address & !self.mask_bits();
        address & self.mask_bits() == self.base && host != 0 && host != !self.mask_bits()
    }

    /// The gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + GATEWAY)
    }

    /// All hosts.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base | !self.mask_bits())
    }

    /// Addresses for leases, the first one first.
    pub fn leases(&self) -> impl Iterator<Item = Ipv4Addr> {
        let last = !self.mask_bits() - 1;
        (FIRST_LEASE..=last).map(|host| Ipv4Addr::from(self.base + host))
    }

    /// The address of the first guest.
    pub fn first_guest(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + FIRST_LEASE)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no network, as in 10.0.2.0/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(16..=27).contains(&prefix) {
            return Err("a network has a prefix of 16 to 27 bits".into());
        }
        let subnet = Self { base: u32::from(address) & (u32::MAX << (32 - prefix)), prefix };
        if subnet.base != u32::from(address) {
            return Err(format!("'{text}' has host bits: use {subnet}"));
        }
        if !address.is_private() && !address.is_link_local() {
            return Err(format!("{subnet} is a public network: use one of 10.0.0.0/8"));
        }
        Ok(subnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// Transport protocols that are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A port of the host that leads to a port of a guest: `tcp:127.0.0.1:8080-10.0.2.15:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// What is forwarded.
    pub protocol: Protocol,
    /// Where clients come; port 0 means any.
    pub host: SocketAddr,
    /// The guest, if it is not the first one.
    pub guest: Option<Ipv4Addr>,
    /// The guest's port.
    pub port: u16,
}

impl Forward {
    /// Where it leads on `subnet`.
    pub fn target(&self, subnet: &Subnet) -> SocketAddrV4 {
        SocketAddrV4::new(self.guest.unwrap_or(subnet.first_guest()), self.port)
    }
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "use tcp:HOSTADDR:PORT-[GUESTADDR]:PORT, or udp:…";
        let (protocol, rest) = text.split_once(':').ok_or(usage)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(usage.into()),
        };
        let (host, guest) = rest.rsplit_once('-').ok_or(usage)?;
        // As in QEMU, no address means all of them.
        let host = host.strip_prefix(':').map_or(host.into(), |port| format!("0.0.0.0:{port}"));
        let host = host.parse().map_err(|_| format!("'{host}' is not ADDRESS:PORT; {usage}"))?;
        let (guest, port) = guest.rsplit_once(':').ok_or(usage)?;
        let port = port.parse().ok().filter(|port| *port != 0);
        let port = port.ok_or(format!("'{text}' names no port of the guest; {usage}"))?;
        let guest = match guest {
            "" => None,
            guest => Some(guest.parse().map_err(|_| format!("'{guest}' is no IPv4 address"))?),
        };
        Ok(Self { protocol, host, guest, port })
    }
}

/// Everything that the LAN is told at the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where guests attach.
    pub listen: Address,
    /// The network.
    pub subnet: Subnet,
    /// Ports of the host that lead to guests.
    pub forwards: Vec<Forward>,
    /// Name servers of the host, in the order of their use; none: no DNS.
    pub resolvers: Vec<SocketAddr>,
    /// Whether guests reach the host's own services, at the gateway's address.
    pub host_services: bool,
    /// A pcapng file for every frame that the switch takes.
    pub pcap: Option<PathBuf>,
}

impl Config {
    /// A LAN on `listen` without forwards and names.
    pub fn new(listen: Address) -> Self {
        Self {
            listen,
            subnet: Subnet::default(),
            forwards: Vec::new(),
            resolvers: Vec::new(),
            host_services: true,
            pcap: None,
        }
    }

    /// The gateway's hardware address, which follows from its IP address.
    pub fn gateway_mac(&self) -> EthernetAddress {
        let [a, b, c, d] = self.subnet.gateway().octets();
        EthernetAddress([0x52, 0x55, a, b, c, d])
    }

    /// Refuses forwards that lead out of the network.
    ///
    /// # Errors
    /// What is wrong, in one line.
    pub fn check(&self) -> Result<(), String> {
        for forward in &self.forwards {
            let guest = *forward.target(&self.subnet).ip();
            if !self.subnet.contains(guest) || guest == self.subnet.gateway() {
                return Err(format!("{guest} is no guest's address on {}", self.subnet));
            }
        }
        Ok(())
    }
}

/// Name servers in the text of a `resolv.conf` (resolv.conf(5)).
pub fn resolvers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = (words.next() == Some("nameserver")).then(|| words.next())??;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    };
    text.lines().filter_map(server).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let subnet: Subnet = "10.0.2.0/24".parse().expect("a network");
        assert_eq!(subnet, Subnet::default());
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 0, 2, 2));
        assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(subnet.leases().next(), Some(Ipv4Addr::new(10, 0, 2, 15)));
        assert_eq!(subnet.leases().last(), Some(Ipv4Addr::new(10, 0, 2, 254)));
        for outside in [[10, 0, 2, 0], [10, 0, 2, 255], [10, 0, 3, 1], [0, 0, 0, 0]] {
            assert!(!subnet.contains(outside.into()));
        }
        for bad in ["", "10.0.2.0", "10.0.2.0/28", "10.0.2.1/24", "8.8.8.0/24", "10.0.0.0/8"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn forwards() {
        let parse = |text: &str| text.parse::<Forward>();
        let web = parse("tcp:127.0.0.1:8080-:80").expect("a forward");
        let subnet = Subnet::default();
        assert_eq!(web.target(&subnet), "10.0.2.15:80".parse().expect("an address"));
        assert_eq!(web.host, "127.0.0.1:8080".parse().expect("an address"));
        let dns = parse("udp:[::1]:0-10.0.2.20:53").expect("a forward");
        assert_eq!((dns.protocol, dns.guest), (Protocol::Udp, Some(Ipv4Addr::new(10, 0, 2, 20))));
        assert_eq!(parse("tcp::22-:22").expect("any").host, "0.0.0.0:22".parse().expect("any"));
        for bad in [
            "",
            "tcp",
            "tcp:1-2",
            "tcp:127.0.0.1:80-",
            "tcp:127.0.0.1:80-:0",
            "udp:x:1-:1",
            "sctp:127.0.0.1:80-:80",
            "tcp:127.0.0.1:80-guest:80",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let mut config = Config::new(Address::Tcp("127.0.0.1:0".into()));
        config.forwards = vec![parse("tcp:127.0.0.1:80-10.0.3.15:80").expect("a forward")];
        assert!(config.check().is_err());
    }

    #[test]
    fn name_servers() {
        let text =
            "# a comment\nsearch x\nnameserver 127.0.0.53\n nameserver ::1 # two\nnameserver x\n";
        let found: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[::1]:53"]);
    }
}
