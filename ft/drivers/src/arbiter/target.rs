//! Which arbiter the user named.
//!
//! Contract: [`Target`] is what `--arbiter` takes; [`Target::open`] makes the arbiter of it.

use super::Arbiter;
use super::dir::DirArbiter;
use super::manual::{Manual, NoArbiter, Promotion};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An arbiter as the user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A directory on shared storage.
    Dir(PathBuf),
    /// A directory that is made when it is missing: the default on one machine.
    LocalDir(PathBuf),
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

    /// Opens the arbiter. `promotion` is the user's end of `manual`; the others leave it alone.
    ///
    /// # Errors
    /// A directory that cannot be used. Arbiters on the network are not reached before they are asked.
    pub fn open(&self, promotion: &Promotion) -> io::Result<Box<dyn Arbiter>> {
        Ok(match self {
            Self::Dir(path) => Box::new(DirArbiter::open(path)?),
            Self::LocalDir(path) => Box::new(DirArbiter::open_or_create(path)?),
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
            _ => Err("use dir:PATH, manual or none".into()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) | Self::LocalDir(path) => write!(f, "dir:{}", path.display()),
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
        for bad in ["", "dir", "dir:", "manual:", "nobody", "/srv/ha"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        for text in ["dir:/srv/ha", "manual", "none"] {
            assert_eq!(parsed(text).expect("as above").to_string(), text);
        }
        assert_eq!(Target::beside(Path::new("a.img")), Target::LocalDir("a.img.arbiter".into()));
    }
}
