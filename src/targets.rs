//! The values of flags: what the user's words mean.
//!
//! Contract: each parser takes the words of one flag and says what is wrong with them in one line.

use backends::socket::{Address, Endpoint};
use devices::time::Rate;
use drivers::channel::Code;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Where a serial port goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialTarget {
    /// Nowhere.
    None,
    /// Standard input and output.
    Stdio,
    /// Output to a file.
    File(PathBuf),
    /// A socket; `wait`: the machine starts when the peer is there.
    Socket {
        /// Where.
        endpoint: Endpoint,
        /// Whether to wait.
        wait: bool,
    },
}

/// Where a network card goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetTarget {
    /// There is no card.
    None,
    /// A TAP interface.
    Tap(String),
    /// A socket with QEMU's stream framing.
    Stream(Endpoint),
}

/// How guest time passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateFlag {
    /// With the host's clock.
    Auto,
    /// At this rate.
    Fixed(Rate),
}

/// The guest's clock at power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcFlag {
    /// The host's.
    Host,
    /// Seconds since 1970.
    Seconds(u64),
}

/// `512M`: bytes with K, M or G, or plain MiB, as QEMU's -m.
pub fn memory(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" | "KIB" => 1 << 10,
        "" | "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        other => return Err(format!("'{other}' is no unit: use K, M or G")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{digits}' is not a whole number"))?;
    let bytes = number.checked_mul(unit).ok_or("too large")?;
    if bytes == 0 || !bytes.is_multiple_of(1 << 20) {
        return Err("memory is a whole number of MiB".into());
    }
    if bytes > devices::ram::MAX {
        return Err(format!("at most {}G", devices::ram::MAX >> 30));
    }
    Ok(bytes)
}

/// `stdio`, `none`, `file:PATH`, `tcp:HOST:PORT[,server[,nowait]]`, `unix:PATH[,server[,nowait]]`.
pub fn serial(text: &str) -> Result<SerialTarget, String> {
    match text.split_once(':') {
        None if text == "stdio" => Ok(SerialTarget::Stdio),
        None if text == "none" || text == "null" => Ok(SerialTarget::None),
        Some(("file", path)) if !path.is_empty() => Ok(SerialTarget::File(path.into())),
        Some(("tcp", rest)) => socket(rest, tcp),
        Some(("unix", rest)) => socket(rest, unix),
        _ => Err("use stdio, none, file:PATH, tcp:HOST:PORT[,server[,nowait]] or \
                  unix:PATH[,server[,nowait]]"
            .into()),
    }
}

fn socket(
    text: &str,
    address: impl Fn(&str) -> Result<Address, String>,
) -> Result<SerialTarget, String> {
    let mut words = text.split(',');
    let address = address(words.next().unwrap_or_default())?;
    let (mut listen, mut wait) = (false, true);
    for word in words {
        match word {
            "server" | "server=on" => listen = true,
            "server=off" => listen = false,
            "nowait" | "wait=off" => wait = false,
            "wait" | "wait=on" => wait = true,
            _ => return Err(format!("'{word}' is no option of a socket: use server, nowait")),
        }
    }
    Ok(SerialTarget::Socket { endpoint: Endpoint { address, listen }, wait: wait && listen })
}

fn tcp(text: &str) -> Result<Address, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            let host = if host.is_empty() { "0.0.0.0" } else { host };
            Ok(Address::Tcp(format!("{host}:{port}")))
        }
        _ => Err(format!("'{text}' is not HOST:PORT")),
    }
}

fn unix(text: &str) -> Result<Address, String> {
    if text.is_empty() { Err("a path is missing".into()) } else { Ok(Address::Unix(text.into())) }
}

/// `none`, `tap:IF`, `stream:HOST:PORT`, `stream-listen:HOST:PORT`, `unix:PATH`,
/// `unix-listen:PATH`.
pub fn net(text: &str) -> Result<NetTarget, String> {
    let stream = |address: Result<Address, String>, listen| {
        Ok(NetTarget::Stream(Endpoint { address: address?, listen }))
    };
    match text.split_once(':') {
        None if text == "none" => Ok(NetTarget::None),
        Some(("tap", name)) if !name.is_empty() => Ok(NetTarget::Tap(name.into())),
        Some(("stream", rest)) => stream(tcp(rest), false),
        Some(("stream-listen", rest)) => stream(tcp(rest), true),
        Some(("unix", rest)) => stream(unix(rest), false),
        Some(("unix-listen", rest)) => stream(unix(rest), true),
        _ => Err("use none, tap:IF, stream:HOST:PORT, stream-listen:HOST:PORT, unix:PATH or \
                  unix-listen:PATH"
            .into()),
    }
}

/// `HOST:PORT` or `unix:PATH`, to listen on.
pub fn listen(text: &str) -> Result<Address, String> {
    text.strip_prefix("unix:").map_or_else(|| tcp(text), unix)
}

/// `ADDRESS` or `ADDRESS:PORT` of a name server.
pub fn resolver(text: &str) -> Result<SocketAddr, String> {
    let plain = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
    plain.or_else(|_| text.parse()).map_err(|_| format!("'{text}' is not ADDRESS or ADDRESS:PORT"))
}

/// How two sides without a key come to trust each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// This side shows a code.
    Shown,
    /// The code that the other side shows.
    Typed(Code),
}

/// Nothing, or eight digits.
pub fn pairing(text: &str) -> Result<Pairing, String> {
    match text {
        "" => Ok(Pairing::Shown),
        text => text.parse().map(Pairing::Typed),
    }
}

/// The port of the logging channel.
const PAIR_PORT: u16 = 7478;

/// Where a pair's channel listens: `HOST:PORT`, `:PORT`, `unix:PATH`.
pub fn channel_listen(text: &str) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some(path) => unix(path),
        None => tcp(text),
    }
}

/// Where the other side of a pair is: `HOST`, `HOST:PORT`, `unix:PATH`.
pub fn peer(text: &str) -> Result<Address, String> {
    match text.strip_prefix("unix:") {
        Some(path) => unix(path),
        None if text.is_empty() || text.starts_with(':') => Err("a host is missing".into()),
        None if text.contains(':') && !text.ends_with(']') => tcp(text),
        None => tcp(&format!("{text}:{PAIR_PORT}")),
    }
}

/// `52:54:00:12:34:56`.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten())
        .collect();
    match bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) {
        Some(mac) if mac[0] & 1 == 1 => Err("a group address is no address of a card".into()),
        Some(mac) => Ok(mac),
        None => Err("use six bytes, as in 52:54:00:12:34:56".into()),
    }
}

/// `auto`, or nanoseconds per instruction, as in `1` or `0.25`.
pub fn rate(text: &str) -> Result<RateFlag, String> {
    if text == "auto" {
        return Ok(RateFlag::Auto);
    }
    let ns: f64 = text.parse().map_err(|_| "use auto, or nanoseconds per instruction")?;
    let fixed = ns * (1u64 << 32) as f64;
    if !(Rate::MIN.0 as f64..=Rate::MAX.0 as f64).contains(&fixed) {
        return Err("a rate is between 0.015625 and 10000 ns per instruction".into());
    }
    Ok(RateFlag::Fixed(Rate(fixed as u64)))
}

/// `host`, or seconds since 1970.
pub fn rtc(text: &str) -> Result<RtcFlag, String> {
    if text == "host" {
        return Ok(RtcFlag::Host);
    }
    match text.parse::<u64>() {
        // What fits nanoseconds in 64 bits.
        Ok(seconds) if seconds < 1 << 34 => Ok(RtcFlag::Seconds(seconds)),
        _ => Err("use host, or seconds since 1970".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes() {
        assert_eq!(memory("512"), Ok(512 << 20));
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert_eq!(memory("2g"), Ok(2 << 30));
        assert_eq!(memory("2048K"), Ok(2 << 20));
        for bad in ["", "0", "M", "1T", "-1", "1.5G", "100K", "65G", "99999999999999999999G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn serial_targets() {
        let socket = |address, listen, wait| SerialTarget::Socket {
            endpoint: Endpoint { address, listen },
            wait,
        };
        let tcp = |address: &str| Address::Tcp(address.into());
        for (text, expected) in [
            ("stdio", SerialTarget::Stdio),
            ("none", SerialTarget::None),
            ("file:/a:b", SerialTarget::File("/a:b".into())),
            ("tcp:localhost:4444", socket(tcp("localhost:4444"), false, false)),
            ("tcp::4444,server", socket(tcp("0.0.0.0:4444"), true, true)),
            ("tcp:[::1]:44,server=on,wait=off", socket(tcp("[::1]:44"), true, false)),
            ("unix:/s,server,nowait", socket(Address::Unix("/s".into()), true, false)),
        ] {
            assert_eq!(serial(text), Ok(expected), "{text}");
        }
        for bad in ["", "stdio:", "file:", "tcp:host", "tcp:h:99999", "unix:", "unix:/s,telnet"] {
            assert!(serial(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn net_targets() {
        assert_eq!(net("tap:tap0"), Ok(NetTarget::Tap("tap0".into())));
        let listening = Endpoint { address: Address::Tcp("0.0.0.0:9".into()), listen: true };
        assert_eq!(net("stream-listen::9"), Ok(NetTarget::Stream(listening)));
        for bad in ["", "user", "tap:", "stream:host", "unix:"] {
            assert!(net(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn places_of_the_lan() {
        assert_eq!(listen("unix:/s"), Ok(Address::Unix("/s".into())));
        assert_eq!(listen("127.0.0.1:0"), Ok(Address::Tcp("127.0.0.1:0".into())));
        for (text, expected) in [("::1", "[::1]:53"), ("9.9.9.9:5353", "9.9.9.9:5353")] {
            assert_eq!(resolver(text), Ok(expected.parse().expect("an address")));
        }
        for bad in ["", "localhost", "unix:"] {
            assert!(listen(bad).is_err() && resolver(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sides_of_a_pair() {
        let tcp = |address: &str| Ok(Address::Tcp(address.into()));
        assert_eq!(channel_listen(":7000"), tcp("0.0.0.0:7000"));
        assert_eq!(peer("10.0.0.2"), tcp("10.0.0.2:7478"));
        assert_eq!(peer("[fe80::1]"), tcp("[fe80::1]:7478"));
        assert_eq!(peer("desk:9"), tcp("desk:9"));
        assert_eq!(peer("unix:/s"), Ok(Address::Unix("/s".into())));
        for bad in ["", ":9", "a:b", "unix:"] {
            assert!(peer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_rates_and_times() {
        assert_eq!(mac("52:54:00:12:34:56"), Ok([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for bad in ["", "52:54:00:12:34", "1:2:3:4:5:6", "53:00:00:00:00:00", "zz:00:00:00:00:00"] {
            assert!(mac(bad).is_err(), "{bad}");
        }
        assert_eq!(rate("1"), Ok(RateFlag::Fixed(Rate::ONE)));
        assert_eq!(rate("0.5"), Ok(RateFlag::Fixed(Rate(1 << 31))));
        for bad in ["", "0", "-1", "nan", "1e9", "fast"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
        assert_eq!(rtc("0"), Ok(RtcFlag::Seconds(0)));
        assert!(rtc("now").is_err());
    }
}
