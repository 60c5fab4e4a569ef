//! `ftemu lan`: the network between guests and the host.

use crate::cli::LanFlags;
use crate::failure::Failure;
use lan::config::{Config, resolvers};
use lan::server::Lan;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Write;
use std::net::SocketAddr;

/// Runs the LAN until a signal ends it.
pub fn run(flags: &LanFlags) -> Result<u8, Failure> {
    let config = Config {
        listen: flags.listen.clone(),
        subnet: flags.subnet,
        forwards: flags.forward.clone(),
        resolvers: name_servers(flags),
        host_services: !flags.no_host,
        pcap: flags.pcap.clone(),
    };
    config.check().map_err(Failure::Usage)?;
    let mut lan = Lan::new(config).map_err(Failure::Input)?;
    let host = |e: std::io::Error| Failure::Host(e.to_string());
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let stop = lan.stop().map_err(host)?;
        signal_hook::low_level::pipe::register(signal, stop).map_err(host)?;
    }
    announce(&lan, flags.json).map_err(host)?;
    lan.run().map_err(host)?;
    Ok(0)
}

/// The name servers that guests' questions go to.
fn name_servers(flags: &LanFlags) -> Vec<SocketAddr> {
    if flags.no_dns || !flags.resolver.is_empty() {
        return flags.resolver.clone();
    }
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let found = resolvers(&text);
    if found.is_empty() {
        log::warn!("/etc/resolv.conf names no name server: guests have none (see --resolver)");
    }
    found
}

/// Says where everything is.
fn announce(lan: &Lan, json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if json {
        let forwards = lan.forwards().iter().map(|forward| {
            serde_json::json!({
                "protocol": forward.protocol.to_string(),
                "host": forward.host.to_string(),
                "guest": forward.guest.to_string(),
            })
        });
        let forwards: Vec<_> = forwards.collect();
        let line = serde_json::json!({ "listening": lan.name(), "forwards": forwards });
        writeln!(out, "{line}")?;
        return out.flush();
    }
    writeln!(out, "listening {}", lan.name())?;
    for forward in lan.forwards() {
        writeln!(out, "forward {} {} -> {}", forward.protocol, forward.host, forward.guest)?;
    }
    writeln!(out, "ready")?;
    out.flush()
}
