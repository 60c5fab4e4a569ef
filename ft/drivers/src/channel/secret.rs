//! What proves to each side that the other one is its peer: a key, a pairing code, or being on the
//! same computer.
//!
//! Contract: without a key and without pairing only loopback addresses and Unix sockets are used
//! ([`Secret::Local`]: a key that everybody knows, so the bytes are protected against damage and
//! not against other users of the computer). An address that others can reach is refused without a
//! key. A key is 32 bytes in a file, raw or as 64 hexadecimal digits; a file that is written here
//! has 64 digits and mode 0600.

use super::pairing::Code;
use backends::socket::Address;
use rustix::fs::{Mode, OFlags};
use rustix::rand::{GetRandomFlags, getrandom};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// More than any key file has.
const FILE_MAX: u64 = 128;
/// The key of [`Secret::Local`].
pub(super) const LOCAL_KEY: Key = Key(*b"no secret: one computer, no more");

/// A pre-shared key. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub [u8; KEY_BYTES]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What the peer must prove.
#[derive(Clone, Debug)]
pub enum Secret {
    /// Nothing, but only on this computer.
    Local,
    /// That it has this key.
    Key(Key),
    /// Once, that its user has typed the code that the other side shows. Both sides then have a
    /// key, kept in the file `store` if one is given, and use it from there on.
    Pairing {
        /// The short code.
        code: Code,
        /// Where the key goes.
        store: Option<PathBuf>,
    },
}

impl Secret {
    /// Whether this is safe where `address` is.
    ///
    /// # Errors
    /// The line for the user: others can reach the address, and there is no key.
    pub fn check(&self, address: &Address) -> Result<(), String> {
        match (self, address) {
            (Self::Local, Address::Tcp(text)) => {
                // A name that cannot be resolved now is checked when it can.
                let mut resolved = text.to_socket_addrs().into_iter().flatten();
                resolved.try_for_each(|found| self.check_resolved(&found))
            }
            _ => Ok(()),
        }
    }

    /// As [`Secret::check`], of an address without a name.
    pub(super) fn check_resolved(&self, address: &SocketAddr) -> Result<(), String> {
        match self {
            Self::Local if !address.ip().to_canonical().is_loopback() => Err(format!(
                "{address} can be reached from other computers: that needs a key (--key FILE) or \
                 pairing"
            )),
            _ => Ok(()),
        }
    }
}

/// Random bytes of the host.
///
/// # Errors
/// The host has none.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut have = 0;
    while have < N {
        have += getrandom(&mut bytes[have..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

impl Key {
    /// A new random key.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn generate() -> io::Result<Self> {
        random().map(Self)
    }

    /// The key in `bytes` of a file: 32 raw bytes, or 64 hexadecimal digits with white space around
    /// them.
    ///
    /// # Errors
    /// The line for the user.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(bytes) {
            return Ok(Self(raw));
        }
        let text = bytes.trim_ascii();
        let wrong = || "is no key: it needs 32 bytes, or 64 hexadecimal digits".to_string();
        if text.len() != 2 * KEY_BYTES {
            return Err(wrong());
        }
        let mut key = [0; KEY_BYTES];
        for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(wrong);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(key))
    }

    /// The key in the file at `path`.
    ///
    /// # Errors
    /// The line for the user, without the path.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        let metadata = file.metadata().map_err(|e| e.to_string())?;
        if !metadata.is_file() {
            return Err("is no key: not a regular file".into());
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            log::warn!("{}: other users can read this key: chmod 600", path.display());
        }
        let mut bytes = Vec::new();
        file.take(FILE_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Self::parse(&bytes)
    }

    /// Writes the key to a new file at `path`.
    ///
    /// # Errors
    /// There is a file already, or the host fails.
    pub fn create(&self, path: &Path) -> io::Result<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(path, flags, mode)?);
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{digits}")?;
        file.sync_all()
    }

    /// Writes the key to the file at `path`, in place of one that is there.
    ///
    /// # Errors
    /// The host fails; a file that was there is untouched then.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_os_string();
        name.push(format!(".{:016x}", u64::from_ne_bytes(random()?)));
        let beside = PathBuf::from(name);
        let result = self.create(&beside).and_then(|()| std::fs::rename(&beside, path));
        if result.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_survives_its_file_which_only_its_owner_reads() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        let key = Key::generate().expect("random");
        key.create(&path).expect("written");
        let mode = path.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Key::read(&path), Ok(key.clone()));
        let again = key.create(&path).expect_err("never over another key");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        let other = Key::generate().expect("random");
        other.store(&path).expect("replaced");
        assert_eq!(Key::read(&path), Ok(other));
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn only_keys_are_keys() {
        assert_eq!(Key::parse(&[7; 32]), Ok(Key([7; 32])));
        assert_eq!(Key::parse(format!("{}\n", "0A".repeat(32)).as_bytes()), Ok(Key([10; 32])));
        let error = "is no key: it needs 32 bytes, or 64 hexadecimal digits";
        for wrong in [&b""[..], &[7; 31], &[7; 33], &[b'g'; 64], &[b'0'; 65]] {
            assert_eq!(Key::parse(wrong), Err(error.into()));
        }
        assert!(Key::read(Path::new("/dev/zero")).is_err());
        assert!(Key::read(Path::new("/no/such/key")).is_err());
    }

    #[test]
    fn without_a_key_only_this_computer_is_reached() {
        let tcp = |text: &str| Secret::Local.check(&Address::Tcp(text.into()));
        assert_eq!(tcp("127.0.0.1:1"), Ok(()));
        assert_eq!(tcp("[::1]:1"), Ok(()));
        assert_eq!(Secret::Local.check(&Address::Unix("/x".into())), Ok(()));
        for open in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            assert!(tcp(open).is_err(), "{open}");
            let key = Secret::Key(Key([0; 32]));
            assert_eq!(key.check(&Address::Tcp(open.into())), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn hostile_files_are_no_panic(bytes: Vec<u8>) {
            prop_assert_eq!(Key::parse(&bytes).is_ok(), bytes.len() == 32);
        }
    }
}
