//! Where an NBD export is: `nbd://HOST[:PORT]/[EXPORT]`.
//!
//! Contract: the name of an export is percent-decoded, and may be empty (the server's default).
//! Displays as it is parsed.

use super::protocol::MAX_NAME;
use std::fmt;
use std::str::FromStr;

/// The port that IANA gave to NBD.
const PORT: u16 = 10809;

/// An export of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdAddress {
    /// Name or address; an IPv6 address has no brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Name of the export.
    pub export: String,
}

impl NbdAddress {
    /// Whether `text`, given for a disk, means an NBD export and not a file.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("nbd:")
    }
}

impl FromStr for NbdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not nbd://HOST:PORT/EXPORT");
        let rest = text.strip_prefix("nbd://").ok_or_else(wrong)?;
        let (server, export) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
                let port = if after.is_empty() { None } else { after.strip_prefix(':') };
                (port.is_some() || after.is_empty()).then_some(()).ok_or_else(wrong)?;
                (host, port)
            }
            None => match server.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (server, None),
            },
        };
        let inside = |b: u8| b.is_ascii_alphanumeric() || b"-._:%".contains(&b);
        if host.is_empty() || !host.bytes().all(inside) {
            return Err(wrong());
        }
        let port = match port {
            None => PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
        };
        let export = decode(export).ok_or_else(wrong)?;
        if export.len() > MAX_NAME {
            return Err(format!("the name of an export has at most {MAX_NAME} bytes"));
        }
        Ok(Self { host: host.into(), port, export })
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            // A query or a fragment would be meant for somebody else.
            b'?' | b'#' => return None,
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|name| !name.contains('\0'))
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "nbd://[{}]:{}/", self.host, self.port)?,
            false => write!(f, "nbd://{}:{}/", self.host, self.port)?,
        }
        for c in self.export.chars() {
            match c {
                '%' | '?' | '#' | '\0'..=' ' | '\x7F' => write!(f, "%{:02X}", u32::from(c))?,
                other => write!(f, "{other}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parsed = |text: &str| text.parse::<NbdAddress>();
        let is = |host: &str, port, export: &str| {
            Ok(NbdAddress { host: host.into(), port, export: export.into() })
        };
        assert_eq!(parsed("nbd://nas:9000/debian"), is("nas", 9000, "debian"));
        assert_eq!(parsed("nbd://nas/a/b%20c%2F"), is("nas", PORT, "a/b c/"));
        assert_eq!(parsed("nbd://10.0.0.1"), is("10.0.0.1", PORT, ""));
        assert_eq!(parsed("nbd://[fe80::1%25eth0]:9/"), is("fe80::1%25eth0", 9, ""));
        assert_eq!(parsed("nbd://[::1]/x"), is("::1", PORT, "x"));
        for bad in [
            "",
            "disk.img",
            "nbd:",
            "nbd://",
            "nbd:///x",
            "nbd://:9/x",
            "nbd://a:0/x",
            "nbd://a:65536/",
            "nbd://a b/",
            "nbd://a:9:9/",
            "nbd://[::1/x",
            "nbd://[::1]9/x",
            "nbd://a/%",
            "nbd://a/%zz",
            "nbd://a/%ff",
            "nbd://a/%00",
            "nbd://a/x?y",
            "nbd://u@a/x",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        assert!(parsed(&format!("nbd://a/{}", "x".repeat(MAX_NAME))).is_ok());
        assert!(parsed(&format!("nbd://a/{}", "x".repeat(MAX_NAME + 1))).is_err());
        for text in ["nbd://nas:9000/de%20bian/x", "nbd://[::1]:9/", "nbd://a:10809/%25"] {
            assert_eq!(parsed(text).expect("good").to_string(), text);
        }
        assert!(NbdAddress::is_meant("nbd:x") && !NbdAddress::is_meant("nbd.img"));
    }
}
