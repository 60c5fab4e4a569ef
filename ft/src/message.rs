//! What replicas say to each other.
//!
//! Contract: names of variants and the order of fields are fixed, and none is reused. A message is
//! one MessagePack value (`rmp-serde`); bytes from outside give an error, never a panic, and no
//! more memory than their length. Messages on a connection arrive in order, whole, or not at all.

use crate::log::Instant;
use crate::types::{Epoch, OutputNo, ReplicaId, VmId};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Longest message in bytes that a channel must carry: a frame of the log with room to spare.
pub const MAX_MESSAGE: usize = crate::log::frame::MAX_PAYLOAD + 4096;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First on every connection, from both sides.
    Hello(Hello),
    /// A live replica will make the other its backup: state transfer begins.
    Welcome {
        /// The machine.
        vm: VmId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// No; the connection is closed after this.
    Refuse(String),
    /// A piece of the state transfer, opaque here.
    Transfer(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The state transfer is complete: what was transferred is the machine at this point, and the
    /// log begins here.
    Commit(Commit),
    /// The backup has the machine of [`Message::Commit`], has compared its digest, and can take
    /// over.
    Joined,
    /// Entries, and that the primary lives.
    Log {
        /// One frame of [`crate::log::frame`], or nothing.
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
        /// Outputs below this have been released.
        released: OutputNo,
        /// The primary wants to hear at once when entries below this are executed; 0: it does not.
        wanted: u64,
        /// Milliseconds of the primary's clock, for [`Ack::stamp`].
        stamp: u64,
    },
    /// What the backup has, and that it lives.
    Ack(Ack),
    /// The backup's machine differs from the primary's.
    Diverged {
        /// Where it was noticed.
        icount: u64,
        /// What differs.
        what: String,
        /// The backup's state, opaque here.
        #[serde(with = "serde_bytes")]
        evidence: Vec<u8>,
    },
    /// The sender leaves in order.
    Bye(Bye),
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The process.
    pub replica: ReplicaId,
    /// Its machine; `None`: it takes any.
    pub vm: Option<VmId>,
    /// The last epoch that it knows of.
    pub epoch: Epoch,
    /// What it does.
    pub standing: Standing,
}

/// What a replica does when a connection comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It waits for a machine to back up.
    Spare,
    /// Its machine is live.
    Live,
    /// It backs up a machine, or is taking one over.
    Backup,
    /// It is about to stop.
    Leaving,
}

/// The point at which a backup's life begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The epoch of the pair.
    pub epoch: Epoch,
    /// Instructions retired.
    pub icount: u64,
    /// Virtual nanoseconds, if the CPU is halted.
    pub halted_ns: Option<u64>,
    /// Number of the log's next entry.
    pub seq: u64,
    /// Outputs that the machine has made; all of them are released.
    pub outputs: OutputNo,
    /// Hash of the whole state.
    pub digest: u128,
}

impl Commit {
    /// The point in the guest's time.
    #[must_use]
    pub fn at(&self) -> Instant {
        Instant { icount: self.icount, halted_ns: self.halted_ns }
    }
}

/// What the backup has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Entries below this are in its buffer or executed.
    pub received: u64,
    /// Entries below this are executed.
    pub executed: u64,
    /// Instructions retired.
    pub icount: u64,
    /// Bytes of entries that wait for execution.
    pub waiting_bytes: u64,
    /// Of the latest message of the primary that has come: the backup was one after that was sent.
    pub stamp: u64,
}

/// Why a replica leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bye {
    /// The guest ended, and all its output is out.
    Ended,
    /// The user wants it.
    Detached,
    /// It cannot go on.
    Failed,
}

/// Bytes of most messages, what they carry left out.
const OVERHEAD: usize = 96;

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAMessage;

impl fmt::Display for NotAMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a message of this protocol")
    }
}

impl core::error::Error for NotAMessage {}

impl Message {
    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let content = match self {
            Self::Log { frame: bytes, .. } | Self::Transfer(bytes) => bytes.len(),
            Self::Diverged { what, evidence, .. } => what.len() + evidence.len(),
            _ => 0,
        };
        let mut bytes = Vec::with_capacity(content + OVERHEAD);
        rmp_serde::encode::write(&mut bytes, self).expect("plain data can be encoded");
        bytes
    }

    /// The message of `bytes`.
    ///
    /// # Errors
    /// The bytes are none, or more than one.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotAMessage> {
        let mut rest = bytes;
        let message = rmp_serde::from_read(&mut rest).map_err(|_| NotAMessage)?;
        if rest.is_empty() { Ok(message) } else { Err(NotAMessage) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let hello = Hello {
            replica: ReplicaId(u128::MAX - 1),
            vm: Some(VmId(7)),
            epoch: Epoch(3),
            standing: Standing::Spare,
        };
        let commit = Commit {
            epoch: Epoch(3),
            icount: 1 << 40,
            halted_ns: Some(5),
            seq: 9,
            outputs: OutputNo(11),
            digest: 1 << 127,
        };
        vec![
            Message::Hello(hello),
            Message::Welcome { vm: VmId(u128::MAX), epoch: Epoch(u64::MAX) },
            Message::Refuse("no".to_string()),
            Message::Transfer(vec![0xFF; 300]),
            Message::Commit(commit),
            Message::Joined,
            Message::Log { frame: vec![1, 2, 3], released: OutputNo(4), wanted: 5, stamp: 6 },
            Message::Ack(Ack { received: 1, executed: 2, icount: 3, waiting_bytes: 4, stamp: 5 }),
            Message::Diverged { icount: 1, what: "cpu".to_string(), evidence: vec![9] },
            Message::Bye(Bye::Ended),
        ]
    }

    #[test]
    fn messages_come_back_and_the_frequent_ones_are_small() {
        for message in samples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message.clone()));
            for len in 0..bytes.len() {
                assert!(Message::decode(&bytes[..len]).is_err(), "cut to {len}: {message:?}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(Message::decode(&longer).is_err());
        }
        let (released, wanted, stamp) = (OutputNo(70_000), 0, 70_000);
        let log = Message::Log { frame: vec![0; 30], released, wanted, stamp };
        assert!(log.encode().len() <= 30 + 20, "{}", log.encode().len());
        let (received, executed) = (70_000, 70_000);
        let ack = Ack { received, executed, icount: 1 << 40, waiting_bytes: 9, stamp };
        assert!(Message::Ack(ack).encode().len() <= 33);
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(which in 0usize..10, at in any::<usize>(), to in any::<u8>()) {
            let mut bytes = samples()[which].encode();
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::decode(&bytes);
        }
    }
}
