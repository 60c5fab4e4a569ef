//! What both sides tell each other before anything else, and what differs.
//!
//! Contract: two machines are compatible exactly if [`Greeting::difference`] is `None` on either
//! side; it then is on the other side too. The text names what differs, from the view of the side
//! that asks.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// First bytes of every greeting.
pub const MAGIC: [u8; 8] = *b"ftemu-hi";
/// Longest greeting on the wire, bytes.
pub const GREETING_MAX: usize = 64 * 1024;

/// Versions of what travels on the channel besides the channel itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// Of log entries.
    pub log: u32,
    /// Of the machine's snapshot.
    pub snapshot: u32,
}

/// Who is there, and with which machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    magic: [u8; 8],
    wire: u16,
    /// Random number of this run of the program: two connections between the same two runs are one
    /// too many.
    pub(super) instance: u64,
    /// The program, as `ftemu 0.1.0`; two builds are not trusted to execute alike.
    pub build: String,
    /// Versions of formats.
    pub formats: Formats,
    /// A hash of the whole configuration of the machine.
    pub configuration: u64,
    /// The configuration in words that a user knows, as (`memory`, `536870912`): tells what
    /// differs.
    pub settings: Vec<(String, String)>,
}

impl Greeting {
    /// A greeting of this run of the program.
    #[must_use]
    pub fn new(
        build: &str,
        formats: Formats,
        configuration: u64,
        settings: Vec<(String, String)>,
    ) -> Self {
        Self {
            magic: MAGIC,
            wire: super::WIRE_VERSION,
            instance: 0,
            build: build.into(),
            formats,
            configuration,
            settings,
        }
    }

    /// For the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a greeting can always be encoded")
    }

    /// From the wire; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > GREETING_MAX || !bytes.starts_with(&MAGIC) {
            return None;
        }
        match postcard::take_from_bytes(bytes) {
            Ok((greeting, [])) => Some(greeting),
            _ => None,
        }
    }

    /// The first thing in which `peer` differs from this side, as one line for the user.
    #[must_use]
    pub fn difference(&self, peer: &Self) -> Option<String> {
        if self.wire != peer.wire {
            return Some(unlike("version of the logging channel", peer.wire, self.wire));
        }
        if self.build != peer.build {
            let (theirs, ours) = (plain(&peer.build), plain(&self.build));
            return Some(format!("the peer is {theirs}, this side {ours}"));
        }
        if self.formats.log != peer.formats.log {
            return Some(unlike("log version", peer.formats.log, self.formats.log));
        }
        if self.formats.snapshot != peer.formats.snapshot {
            return Some(unlike("snapshot version", peer.formats.snapshot, self.formats.snapshot));
        }
        if self.settings != peer.settings {
            return Some(self.unlike_setting(peer));
        }
        (self.configuration != peer.configuration)
            .then(|| "the peer's machine is configured in another way than this one".into())
    }

    fn unlike_setting(&self, peer: &Self) -> String {
        let find = |greeting: &Self, name: &str| -> Option<String> {
            let found = greeting.settings.iter().find(|(n, _)| n == name);
            found.map(|(name, value)| shown(name, value))
        };
        for (name, value) in &self.settings {
            let ours = shown(name, value);
            match find(peer, name) {
                None => return format!("the peer has no {}, this side {ours}", plain(name)),
                Some(theirs) if theirs != ours => {
                    return match name == "memory" {
                        true => format!("the peer has {theirs} of memory, this side {ours}"),
                        false => format!("the peer has {} {theirs}, this side {ours}", plain(name)),
                    };
                }
                Some(_) => {}
            }
        }
        for (name, value) in &peer.settings {
            if find(self, name).is_none() {
                let (name, theirs) = (plain(name), shown(name, value));
                return format!("the peer has {name} {theirs}, this side none");
            }
        }
        "the peer names its machine's configuration in another order".into()
    }
}

fn unlike(what: &str, theirs: impl std::fmt::Display, ours: impl std::fmt::Display) -> String {
    format!("the peer has {what} {theirs}, this side {ours}")
}

/// A setting's value for a reader: memory in units.
fn shown(name: &str, value: &str) -> String {
    match value.parse::<u64>() {
        Ok(bytes) if name == "memory" && bytes % (1 << 20) == 0 && bytes > 0 => {
            match bytes % (1 << 30) {
                0 => format!("{} GiB", bytes >> 30),
                _ => format!("{} MiB", bytes >> 20),
            }
        }
        _ => plain(value),
    }
}

/// A peer's text, fit for a terminal: one line, no control characters, not endless.
pub(super) fn plain(text: &str) -> String {
    const SHOWN_MAX: usize = 120;
    let mut line = String::new();
    for c in text.chars().take(SHOWN_MAX) {
        match c.is_control() {
            true => write!(line, "{}", c.escape_default()).expect("writing to a string"),
            false => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn greeting(memory: &str) -> Greeting {
        let settings = vec![("memory".into(), memory.into()), ("disks".into(), "1".into())];
        Greeting::new("ftemu 0.1.0", Formats { log: 1, snapshot: 2 }, 7, settings)
    }

    fn check(change: impl Fn(&mut Greeting), here: &str, there: &str) {
        let ours = greeting("536870912");
        let mut theirs = ours.clone();
        change(&mut theirs);
        assert_eq!(ours.difference(&theirs).as_deref(), Some(here));
        assert_eq!(theirs.difference(&ours).as_deref(), Some(there));
    }

    #[test]
    fn every_difference_is_named_on_both_sides() {
        check(
            |g| g.settings[0].1 = "1073741824".into(),
            "the peer has 1 GiB of memory, this side 512 MiB",
            "the peer has 512 MiB of memory, this side 1 GiB",
        );
        check(
            |g| g.settings[1].1 = "2".into(),
            "the peer has disks 2, this side 1",
            "the peer has disks 1, this side 2",
        );
        check(
            |g| drop(g.settings.pop()),
            "the peer has no disks, this side 1",
            "the peer has disks 1, this side none",
        );
        check(
            |g| g.settings.reverse(),
            "the peer names its machine's configuration in another order",
            "the peer names its machine's configuration in another order",
        );
        check(
            |g| g.build = "ftemu 9\x1b[2J".into(),
            "the peer is ftemu 9\\u{1b}[2J, this side ftemu 0.1.0",
            "the peer is ftemu 0.1.0, this side ftemu 9\\u{1b}[2J",
        );
        check(
            |g| g.formats.log = 3,
            "the peer has log version 3, this side 1",
            "the peer has log version 1, this side 3",
        );
        check(
            |g| g.formats.snapshot = 3,
            "the peer has snapshot version 3, this side 2",
            "the peer has snapshot version 2, this side 3",
        );
        check(
            |g| g.wire = 9,
            "the peer has version of the logging channel 9, this side 1",
            "the peer has version of the logging channel 1, this side 9",
        );
        let other = "the peer's machine is configured in another way than this one";
        check(|g| g.configuration = 8, other, other);
    }

    #[test]
    fn equal_machines_do_not_differ_and_survive_the_wire() {
        let ours = greeting("536870912");
        let mut theirs = Greeting::decode(&ours.encode()).expect("a greeting");
        assert_eq!(ours, theirs);
        theirs.instance = 5;
        assert_eq!(ours.difference(&theirs), None);
        let mut long = ours.encode();
        long.push(0);
        assert_eq!(Greeting::decode(&long), None, "nothing follows");
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_greeting(tail: Vec<u8>, with_magic: bool) {
            let bytes = if with_magic { [&MAGIC[..], &tail].concat() } else { tail };
            if let Some(greeting) = Greeting::decode(&bytes) {
                prop_assert!(greeting.difference(&greeting).is_none());
            }
        }
    }
}
