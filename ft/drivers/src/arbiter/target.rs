//! Which arbiter the user named.
//!
//! Contract: [`Target`] is what `--arbiter` takes; [`Target::open`] makes the arbiter of it.

use super::Arbiter;
use super::dir::DirArbiter;
use super::etcd::EtcdArbiter;
use super::manual::{Manual, NoArbiter, Promotion};
use super::witness::WitnessArbiter;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// What an arbiter on the network may take for one answer.
pub const LIMIT: Duration = Duration::from_secs(3);

/// An arbiter as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory on shared storage.
    Dir(PathBuf),
    /// A directory that is made when it is missing: the default on one machine.
    LocalDir(PathBuf),
    /// `ftemu witness` at HOST:PORT.
    Witness(String),
    /// etcd at HOST:PORT.
    Etcd(String),
    /// The user.
    Manual,
    /// Nobody; only for who accepts two live replicas.
    None,
}

impl Target {
    /// The arbiter of two replicas on one machine: a directory beside the disk image.
    #[must_use]
    pub fn beside(image: &Path) -> Self {
        let mut path = image.as_os_str().to_owned();
        path.push(".arbiter");
        Self::LocalDir(path.into())
    }

    /// Opens the arbiter. `promotion` is the user's end of `manual`, `key` proves a witness; the
    /// others leave them alone.
    ///
    /// # Errors
    /// A directory that cannot be used. Arbiters on the network are not reached before they are
    /// asked.
    pub fn open(
        &self,
        promotion: &Promotion,
        key: Option<&[u8; 32]>,
    ) -> io::Result<Box<dyn Arbiter>> {
        Ok(match self {
            Self::Dir(path) => Box::new(DirArbiter::open(path)?),
            Self::LocalDir(path) => Box::new(DirArbiter::open_or_create(path)?),
            Self::Witness(address) => Box::new(WitnessArbiter::new(address.clone(), key, LIMIT)),
            Self::Etcd(address) => Box::new(EtcdArbiter::new(address.clone(), LIMIT)),
            Self::Manual => Box::new(Manual::new(promotion.clone())),
            Self::None => Box::new(NoArbiter),
        })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "manual" => Ok(Self::Manual),
            None if text == "none" => Ok(Self::None),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            Some(("witness", rest)) => host_and_port(rest).map(Self::Witness),
            Some(("etcd", rest)) => {
                let rest = rest.strip_prefix("//").unwrap_or_default();
                host_and_port(rest.strip_suffix('/').unwrap_or(rest)).map(Self::Etcd)
            }
            _ => Err("use dir:PATH, witness:HOST:PORT, etcd://HOST:PORT, manual or none".into()),
        }
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets.
fn host_and_port(text: &str) -> Result<String, String> {
    let inside =
        |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]%".contains(&b));
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty()
                && inside(host)
                && (!host.contains(':') || (host.starts_with('[') && host.ends_with(']')))
                && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.into())
        }
        _ => Err(format!("'{text}' is not HOST:PORT")),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) | Self::LocalDir(path) => write!(f, "dir:{}", path.display()),
            Self::Witness(address) => write!(f, "witness:{address}"),
            Self::Etcd(address) => write!(f, "etcd://{address}"),
            Self::Manual => f.write_str("manual"),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parsed = |text: &str| text.parse::<Target>();
        assert_eq!(parsed("dir:/srv/ha"), Ok(Target::Dir("/srv/ha".into())));
        assert_eq!(parsed("dir:a:b"), Ok(Target::Dir("a:b".into())));
        assert_eq!(parsed("manual"), Ok(Target::Manual));
        assert_eq!(parsed("none"), Ok(Target::None));
        assert_eq!(parsed("witness:third:4810"), Ok(Target::Witness("third:4810".into())));
        assert_eq!(parsed("witness:[::1]:4810"), Ok(Target::Witness("[::1]:4810".into())));
        assert_eq!(parsed("etcd://10.0.0.1:2379"), Ok(Target::Etcd("10.0.0.1:2379".into())));
        assert_eq!(parsed("etcd://e:2379/"), Ok(Target::Etcd("e:2379".into())));
        for bad in [
            "",
            "dir",
            "dir:",
            "manual:",
            "nobody",
            "/srv/ha",
            "witness:",
            "witness:a",
            "witness::1",
            "witness:a:0",
            "witness:a:65536",
            "witness:::1:9",
            "witness:a b:9",
            "etcd:a:9",
            "etcd://a",
            "etcd://a:9/x",
            "etcd://u@a:9",
            "etcd://a/b:9",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        for text in ["dir:/srv/ha", "manual", "none", "witness:a:9", "etcd://a:9"] {
            assert_eq!(parsed(text).expect("as above").to_string(), text);
        }
        assert_eq!(Target::beside(Path::new("a.img")), Target::LocalDir("a.img.arbiter".into()));
    }
}
