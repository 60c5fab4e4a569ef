//! Hardware addresses of the LAN's hosts (RFC 826): a bounded table, and the gateway's questions.
//!
//! Contract: what a host says about itself counts at once, so that an address follows a machine
//! that moved. A question is asked again every second while somebody wants the answer.

use smoltcp::wire::EthernetAddress;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Hosts that the table holds.
const HOSTS_MAX: usize = 1024;
/// Hosts that are asked for at the same time.
const QUESTIONS_MAX: usize = 64;
/// Between two questions about the same host.
const REPEAT: Duration = Duration::from_secs(1);

/// The table.
#[derive(Debug, Default)]
pub struct Neighbours {
    known: BTreeMap<Ipv4Addr, (EthernetAddress, Duration)>,
    asked: BTreeMap<Ipv4Addr, Duration>,
}

impl Neighbours {
    /// Notes the address of a host; tells whether it is news.
    pub fn learn(&mut self, ip: Ipv4Addr, mac: EthernetAddress, now: Duration) -> bool {
        self.asked.remove(&ip);
        if let Some((known, heard)) = self.known.get_mut(&ip) {
            *heard = now;
            return std::mem::replace(known, mac) != mac;
        }
        if self.known.len() >= HOSTS_MAX {
            let oldest = self.known.iter().min_by_key(|(_, (_, heard))| *heard);
            let oldest = *oldest.expect("a full table is not empty").0;
            self.known.remove(&oldest);
        }
        self.known.insert(ip, (mac, now));
        true
    }

    /// The hardware address of a host, if it is known.
    pub fn get(&self, ip: Ipv4Addr) -> Option<EthernetAddress> {
        self.known.get(&ip).map(|(mac, _)| *mac)
    }

    /// Hosts that have this hardware address.
    pub fn hosts(&self, mac: EthernetAddress) -> Vec<Ipv4Addr> {
        self.known.iter().filter(|(_, (known, _))| *known == mac).map(|(ip, _)| *ip).collect()
    }

    /// Whether the host should be asked for now; then it counts as asked.
    pub fn should_ask(&mut self, ip: Ipv4Addr, now: Duration) -> bool {
        if let Some(asked) = self.asked.get_mut(&ip) {
            let due = now.saturating_sub(*asked) >= REPEAT;
            if due {
                *asked = now;
            }
            return due;
        }
        if self.asked.len() >= QUESTIONS_MAX {
            self.asked.retain(|_, asked| now.saturating_sub(*asked) < 2 * REPEAT);
        }
        if self.asked.len() >= QUESTIONS_MAX {
            return false;
        }
        self.asked.insert(ip, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);

    fn host(n: u32) -> Ipv4Addr {
        Ipv4Addr::from(0x0A00_0000 + n)
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_latest() {
        let mut table = Neighbours::default();
        for n in 0..3000 {
            assert!(table.learn(host(n), MAC, Duration::from_secs(u64::from(n))));
        }
        assert_eq!(table.known.len(), HOSTS_MAX);
        assert!(table.get(host(2999)).is_some() && table.get(host(0)).is_none());
        assert!(!table.learn(host(2999), MAC, Duration::from_secs(4000)));
        assert!(table.learn(host(2999), EthernetAddress([2; 6]), Duration::from_secs(4000)));
        assert_eq!(table.hosts(EthernetAddress([2; 6])), [host(2999)]);
    }

    #[test]
    fn questions_are_repeated_once_a_second_and_bounded() {
        let mut table = Neighbours::default();
        let at = Duration::from_millis;
        assert!(table.should_ask(host(1), at(0)));
        assert!(!table.should_ask(host(1), at(999)));
        assert!(table.should_ask(host(1), at(1000)));
        let asked = (2..200).filter(|n| table.should_ask(host(*n), at(1000))).count();
        assert_eq!(asked, QUESTIONS_MAX - 1);
        assert!(table.should_ask(host(300), at(3001)), "old questions make room");
        table.learn(host(300), MAC, at(3002));
        assert!(!table.asked.contains_key(&host(300)));
    }
}
