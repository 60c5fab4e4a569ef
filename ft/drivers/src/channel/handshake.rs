//! The handshake: from a connected socket to a peer that has the secret and the same machine.
//!
//! Contract, in the order on the wire (the side that called is the initiator):
//! 1. both: a preamble of [`PREAMBLE`] bytes in the clear: magic, wire version, kind of secret;
//! 2. only when pairing: one SPAKE2 message from each side;
//! 3. Noise `NNpsk0_25519_AESGCM_SHA256`, both preambles as its prologue: one message from each
//!    side. The initiator has proved nothing yet, as its first message may be an old one;
//! 4. both, encrypted: the greeting. Now both have proved that they have the secret;
//! 5. the side with the smaller instance, encrypted: one byte, 1 if it takes this connection, 0 if
//!    it has another.
//!
//! Messages of 2 and 3 are `kind: u8, length: u16 BE, bytes`; kind 2 with one byte refuses and says
//! why. A side that finds a fault closes the connection. Whatever the peer sends, at most a few
//! kilobytes are kept before step 4, and everything ends with the deadline.

use super::greeting::{GREETING_MAX, Greeting};
use super::pairing::{Attempt, Code, SPAKE_BYTES};
use super::record::{Opener, ReceiveError, Sealer};
use super::secret::{Key, LOCAL_KEY};
use super::{MESSAGE_MAX, WIRE_VERSION};
use snow::{HandshakeState, StatelessTransportState};
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, RwLock};

/// Noise's name of what is used.
const PATTERN: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// First bytes on every connection.
const MAGIC: [u8; 8] = *b"ftemu-ch";
/// Bytes of the preamble: magic, version u16 LE, kind of secret, 0.
pub const PREAMBLE: usize = 12;
/// Longest message of steps 2 and 3.
const STEP_MAX: usize = 256;
/// Kinds of messages of steps 2 and 3.
const DATA: u8 = 1;
const REFUSAL: u8 = 2;

/// Kinds of secrets, as in the preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None, on one computer.
    Local = 0,
    /// A key.
    Key = 1,
    /// A pairing code.
    Pairing = 2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "no key",
            Self::Key => "a key",
            Self::Pairing => "a pairing code",
        })
    }
}

/// What a peer may be told of a refusal before it has proved anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    WrongKey = 1,
    WrongCode = 2,
    PairingClosed = 3,
}

/// The secret of one handshake.
pub(super) enum Proof<'a> {
    Local,
    Key(Key),
    /// The code, and the right to one attempt with it (`false`: there were too many).
    Pairing(Code, &'a dyn Fn() -> bool),
}

impl Proof<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::Local => Kind::Local,
            Self::Key(_) => Kind::Key,
            Self::Pairing(..) => Kind::Pairing,
        }
    }
}

/// Why a handshake failed; `Display` is the line for the user.
#[derive(Debug)]
pub enum HandshakeError {
    /// Closed before a byte was sent: somebody looked whether the port is open.
    Nobody,
    /// The socket failed, or was closed in between.
    Cut(String),
    /// Too slow.
    Slow,
    /// Not this protocol.
    Foreign,
    /// Another version of it.
    Version(u16),
    /// Another kind of secret.
    Kinds {
        /// The peer's.
        theirs: Kind,
        /// This side's.
        ours: Kind,
    },
    /// Not the same key.
    WrongKey,
    /// Not the same pairing code.
    WrongCode,
    /// Too many wrong codes, on this side or the other.
    PairingClosed,
    /// This protocol, but not as it should be.
    Garbled,
    /// Another machine.
    Differs(String),
    /// This side has called itself.
    Itself,
    /// There is a connection with this peer already.
    Another,
    /// Too many connections.
    Crowded,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("closed before a byte was sent"),
            Self::Cut(why) => write!(f, "ended during the handshake: {why}"),
            Self::Slow => f.write_str("the handshake took too long"),
            Self::Foreign => f.write_str("what is there does not speak ftemu's logging channel"),
            Self::Version(theirs) => write!(
                f,
                "the peer speaks version {theirs} of the logging channel, this side {WIRE_VERSION}"
            ),
            Self::Kinds { theirs, ours } => {
                write!(f, "the peer was started with {theirs}, this side with {ours}")
            }
            Self::WrongKey => f.write_str("the peer has another key"),
            Self::WrongCode => f.write_str("the pairing codes are not the same"),
            Self::PairingClosed => f.write_str("too many wrong pairing codes: start anew"),
            Self::Garbled => f.write_str("the handshake is garbled"),
            Self::Differs(what) => f.write_str(what),
            Self::Itself => f.write_str("that is this machine itself"),
            Self::Another => f.write_str("there is a connection already"),
            Self::Crowded => f.write_str("there are too many connections"),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Slow,
            io::ErrorKind::UnexpectedEof => Self::Cut("closed by the other side".into()),
            _ => Self::Cut(e.to_string()),
        }
    }
}

impl From<ReceiveError> for HandshakeError {
    fn from(e: ReceiveError) -> Self {
        match e {
            ReceiveError::Socket(e) => e.into(),
            ReceiveError::Closed => Self::Cut("closed by the other side".into()),
            ReceiveError::Damaged | ReceiveError::Frame(_) => Self::Garbled,
        }
    }
}

/// A peer that has proved what it must.
pub(super) struct Established {
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) peer: Greeting,
    /// After pairing: the key from here on.
    pub(super) key: Option<Key>,
}

/// Who this side is.
pub(super) struct Side<'a> {
    pub(super) initiator: bool,
    pub(super) greeting: &'a Greeting,
    pub(super) proof: Proof<'a>,
    /// Whether a connection with the peer of this instance is wanted (it then is taken); the peer
    /// has decided so already, or this side decides.
    pub(super) admit: &'a dyn Fn(u64, bool) -> bool,
}

impl Side<'_> {
    /// Does the whole handshake over `wire`, which fails when its time is over.
    pub(super) fn shake<W: Read + Write>(
        &self,
        wire: &mut W,
    ) -> Result<Established, HandshakeError> {
        let prologue = self.preambles(wire)?;
        let (psk, kept, wrong) = match &self.proof {
            Proof::Local => (LOCAL_KEY, None, Refusal::WrongKey),
            Proof::Key(key) => (key.clone(), None, Refusal::WrongKey),
            Proof::Pairing(code, permit) => {
                let paired = self.pair(wire, *code, *permit)?;
                (paired.handshake, Some(paired.kept), Refusal::WrongCode)
            }
        };
        let keys = self.noise(wire, &prologue, &psk, wrong)?;
        let keys = Arc::new(RwLock::new(keys));
        let mut sealer = Sealer::new(Arc::clone(&keys));
        let mut opener = Opener::new(keys, GREETING_MAX);
        sealer.push(&self.greeting.encode(), wire)?;
        sealer.flush(wire)?;
        let peer = opener.next(wire)?;
        let peer = Greeting::decode(&peer).ok_or(HandshakeError::Garbled)?;
        self.compare(&peer)?;
        self.decide(&mut sealer, &mut opener, wire, peer.instance)?;
        opener.set_limit(MESSAGE_MAX);
        Ok(Established { sealer, opener, peer, key: kept })
    }

    /// Step 1; gives Noise's prologue.
    fn preambles<W: Read + Write>(&self, wire: &mut W) -> Result<Vec<u8>, HandshakeError> {
        let kind = self.proof.kind();
        let [low, high] = WIRE_VERSION.to_le_bytes();
        let ours = [&MAGIC[..], &[low, high, kind as u8, 0]].concat();
        let mut theirs = [0; PREAMBLE];
        let first = wire.write_all(&ours).and_then(|()| read_some(wire, &mut theirs));
        let first = match first.map_err(HandshakeError::from) {
            Ok(0) | Err(HandshakeError::Cut(_)) => return Err(HandshakeError::Nobody),
            result => result?,
        };
        // Say so as soon as it shows: what is no peer may never send so many bytes.
        let shown = first.min(MAGIC.len());
        if theirs[..shown] != MAGIC[..shown] {
            return Err(HandshakeError::Foreign);
        }
        wire.read_exact(&mut theirs[first..])?;
        if theirs[..MAGIC.len()] != MAGIC {
            return Err(HandshakeError::Foreign);
        }
        let version = u16::from_le_bytes([theirs[8], theirs[9]]);
        if version != WIRE_VERSION {
            return Err(HandshakeError::Version(version));
        }
        let known = [Kind::Local, Kind::Key, Kind::Pairing];
        let found = known.into_iter().find(|known| *known as u8 == theirs[10]);
        match found {
            None => Err(HandshakeError::Garbled),
            Some(theirs) if theirs != kind => Err(HandshakeError::Kinds { theirs, ours: kind }),
            Some(_) if self.initiator => Ok([&ours[..], &theirs].concat()),
            Some(_) => Ok([&theirs[..], &ours].concat()),
        }
    }

    /// Step 2.
    fn pair<W: Read + Write>(
        &self,
        wire: &mut W,
        code: Code,
        permit: &dyn Fn() -> bool,
    ) -> Result<super::pairing::Paired, HandshakeError> {
        let (attempt, message) = Attempt::start(code, self.initiator);
        send(wire, DATA, &message)?;
        let message = receive(wire)?;
        if message.len() != SPAKE_BYTES {
            return Err(HandshakeError::Garbled);
        }
        // From here on the peer can find out whether a guess of its own is right: once.
        if !permit() {
            send(wire, REFUSAL, &[Refusal::PairingClosed as u8])?;
            return Err(HandshakeError::PairingClosed);
        }
        attempt.finish(&message).ok_or(HandshakeError::Garbled)
    }

    /// Step 3.
    fn noise<W: Read + Write>(
        &self,
        wire: &mut W,
        prologue: &[u8],
        psk: &Key,
        wrong: Refusal,
    ) -> Result<StatelessTransportState, HandshakeError> {
        let mut state = self.noise_state(prologue, psk).expect("the pattern and the key are sound");
        let mut buffer = [0; STEP_MAX];
        let refused = || match wrong {
            Refusal::WrongCode => HandshakeError::WrongCode,
            _ => HandshakeError::WrongKey,
        };
        for ours in [self.initiator, !self.initiator] {
            if ours {
                let length = state.write_message(&[], &mut buffer);
                let length = length.expect("an empty payload fits into a message");
                send(wire, DATA, &buffer[..length])?;
            } else {
                let message = receive(wire)?;
                if state.read_message(&message, &mut buffer) != Ok(0) {
                    send(wire, REFUSAL, &[wrong as u8])?;
                    return Err(refused());
                }
            }
        }
        Ok(state.into_stateless_transport_mode().expect("both messages were exchanged"))
    }

    fn noise_state(&self, prologue: &[u8], psk: &Key) -> Result<HandshakeState, snow::Error> {
        let builder = snow::Builder::new(PATTERN.parse()?).prologue(prologue)?.psk(0, &psk.0)?;
        match self.initiator {
            true => builder.build_initiator(),
            false => builder.build_responder(),
        }
    }

    /// Step 4.
    fn compare(&self, peer: &Greeting) -> Result<(), HandshakeError> {
        if let Some(what) = self.greeting.difference(peer) {
            return Err(HandshakeError::Differs(what));
        }
        match peer.instance == self.greeting.instance {
            true => Err(HandshakeError::Itself),
            false => Ok(()),
        }
    }

    /// Step 5.
    fn decide<W: Read + Write>(
        &self,
        sealer: &mut Sealer,
        opener: &mut Opener,
        wire: &mut W,
        peer: u64,
    ) -> Result<(), HandshakeError> {
        let taken = if self.greeting.instance < peer {
            let taken = (self.admit)(peer, false);
            sealer.push(&[u8::from(taken)], wire)?;
            sealer.flush(wire)?;
            taken
        } else {
            match opener.next(wire)?[..] {
                [0] => false,
                [1] => (self.admit)(peer, true),
                _ => return Err(HandshakeError::Garbled),
            }
        };
        if taken { Ok(()) } else { Err(HandshakeError::Another) }
    }
}

/// As `Read::read`, but not interrupted.
fn read_some(wire: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match wire.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn send(wire: &mut impl Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let [high, low] = (bytes.len() as u16).to_be_bytes();
    wire.write_all(&[&[kind, high, low], bytes].concat())
}

fn receive(wire: &mut impl Read) -> Result<Vec<u8>, HandshakeError> {
    let mut header = [0; 3];
    wire.read_exact(&mut header)?;
    let length = usize::from(u16::from_be_bytes([header[1], header[2]]));
    if length > STEP_MAX {
        return Err(HandshakeError::Garbled);
    }
    let mut bytes = vec![0; length];
    wire.read_exact(&mut bytes)?;
    match (header[0], &bytes[..]) {
        (DATA, _) => Ok(bytes),
        (REFUSAL, [1]) => Err(HandshakeError::WrongKey),
        (REFUSAL, [2]) => Err(HandshakeError::WrongCode),
        (REFUSAL, [3]) => Err(HandshakeError::PairingClosed),
        _ => Err(HandshakeError::Garbled),
    }
}
