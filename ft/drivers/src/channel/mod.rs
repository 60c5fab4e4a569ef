//! The logging channel: messages in order between the two processes of a pair.
//!
//! Contract:
//! - A [`Channel`] listens, calls, or both; whichever side is started first waits for the other
//!   one. Every connection that passes the handshake (secret, versions, equal machines;
//!   `handshake`) gets a number that is never used again: [`ChannelEvent::Up`], then its messages,
//!   then exactly one [`ChannelEvent::Down`]. Between the same two runs of the program there is one
//!   connection at a time: when a new one comes up the old one goes down first.
//! - What fails before `Up` is a line for the user, [`ChannelEvent::Trouble`], and disturbs
//!   nothing: the channel goes on listening and calling. The same line is not repeated within a
//!   minute.
//! - Messages are opaque, at most [`MESSAGE_MAX`] bytes, encrypted and authenticated (Noise), and
//!   arrive whole, once and in order, or not at all, with all that follows, if the connection is
//!   lost.
//! - While its user is alive ([`Channel::alive`]) and says nothing, a connection repeats the sign
//!   of life that its user left with it, so that a user who is held up for a moment is not taken
//!   for dead. A user that stays away for longer is silent.
//! - [`Channel::send`] never waits. What it queues is bounded by its caller, who asks
//!   [`Channel::queued_bytes`]; at [`QUEUE_MAX`] the connection is given up. What was received
//!   waits in the [`Inbox`], bounded too: a side that does not take its messages stops the peer
//!   through TCP.
//! - Without a key or a pairing code only this computer is reached ([`Secret::Local`]).

mod dial;
mod frame;
mod greeting;
mod handshake;
mod inbox;
mod life;
mod link;
mod listen;
mod pairing;
mod record;
mod registry;
mod secret;
#[cfg(test)]
mod tests;

pub use frame::{FrameError, MESSAGE_MAX};
pub use greeting::{Formats, GREETING_MAX, Greeting};
pub use handshake::{HandshakeError, Kind};
pub use inbox::{BYTES_MAX, Inbox};
pub use link::QUEUE_MAX;
pub use pairing::{ATTEMPTS_MAX, Code};
pub use secret::{KEY_BYTES, Key, Secret};

use backends::socket::Address;
use backends::wake::Waker;
use registry::Registry;
use std::sync::Arc;
use std::time::Duration;

/// Version of everything on the wire from the first byte to the messages' headers.
pub const WIRE_VERSION: u16 = 1;
/// A handshake that is not done by then is given up.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Where to listen, whom to call, and what to prove.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// Wait for peers here.
    pub listen: Option<Address>,
    /// Call this peer, again and again while no connection is up.
    pub peer: Option<Address>,
    /// What both sides must have.
    pub secret: Secret,
    /// What this side is.
    pub greeting: Greeting,
}

/// What happened on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// A peer is there: it has the secret and an equal machine.
    Up {
        /// The connection.
        conn: u64,
        /// Its address, for the user.
        peer: String,
        /// What it said of itself.
        greeting: Box<Greeting>,
    },
    /// A message.
    Message {
        /// From where.
        conn: u64,
        /// As it was sent.
        bytes: Vec<u8>,
    },
    /// A connection has ended; nothing follows from it.
    Down {
        /// Which.
        conn: u64,
        /// One line for the user.
        why: String,
    },
    /// One line for the user: somebody was turned away, or the peer is waited for.
    Trouble(String),
}

/// One side of the logging channel. Dropping it ends all connections at once.
#[derive(Debug)]
pub struct Channel {
    registry: Arc<Registry>,
    port: Option<u16>,
}

impl Channel {
    /// Begins to listen and to call; events go to the inbox, which rings `waker`.
    ///
    /// # Errors
    /// The line for the user: an address cannot be used, or not without a key.
    pub fn open(mut config: ChannelConfig, waker: Waker) -> Result<(Self, Inbox), String> {
        for address in config.listen.iter().chain(&config.peer) {
            config.secret.check(address)?;
        }
        let host = |e: std::io::Error| format!("the logging channel: {e}");
        config.greeting.instance = u64::from_ne_bytes(secret::random().map_err(host)?);
        assert!(config.greeting.encode().len() <= GREETING_MAX, "a configuration of bounded size");
        let (outbox, inbox) = inbox::inbox(waker);
        let registry = Arc::new(Registry::new(config.greeting, config.secret, outbox));
        let mut channel = Self { registry, port: None };
        if let Some(address) = config.listen {
            channel.port = listen::start(&channel.registry, &address)
                .map_err(|e| format!("cannot listen on {address}: {e}"))?;
        }
        if let Some(address) = config.peer {
            dial::start(&channel.registry, address).map_err(host)?;
        }
        Ok((channel, inbox))
    }

    /// The TCP port that is listened on: the one that the host has chosen, for port 0.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Queues a message; never waits. `false`: the connection is not up (any more), and its `Down`
    /// tells why.
    ///
    /// # Panics
    /// The message is longer than [`MESSAGE_MAX`].
    pub fn send(&self, conn: u64, bytes: Vec<u8>) -> bool {
        self.send_with_sign(conn, bytes, None)
    }

    /// The same; `sign` may be repeated from here on when nothing else is sent.
    ///
    /// # Panics
    /// The message is longer than [`MESSAGE_MAX`].
    pub fn send_with_sign(&self, conn: u64, bytes: Vec<u8>, sign: Option<Vec<u8>>) -> bool {
        assert!(bytes.len() <= MESSAGE_MAX, "a message of {} bytes", bytes.len());
        self.registry.link(conn).is_some_and(|link| link.send(bytes, sign))
    }

    /// From here on signs of life are repeated after a silence of `beat`, for as long as
    /// [`Channel::alive`] was called within `grace`.
    pub fn keep_alive(&self, beat: Duration, grace: Duration) {
        self.registry.life.keep(beat, grace);
    }

    /// The channel's user is alive.
    pub fn alive(&self) {
        self.registry.life.beat();
    }

    /// Bytes that were queued and are not with the host's kernel yet; 0 if the connection is not
    /// up.
    #[must_use]
    pub fn queued_bytes(&self, conn: u64) -> u64 {
        self.registry.link(conn).map_or(0, |link| link.queued_bytes())
    }

    /// Ends a connection: what is queued still goes out, for at most a second, and nothing more
    /// comes from it but its `Down`.
    pub fn close(&self, conn: u64) {
        if let Some(link) = self.registry.link(conn) {
            link.close();
        }
    }

    /// Ends all connections as [`Channel::close`] does and waits until they have: for at most a
    /// little more than a second.
    pub fn finish(self) {
        self.registry.finish();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.registry.stop();
    }
}
