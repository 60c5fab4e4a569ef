//! Pairing: from a short code that one side shows and the other side's user types to a key.
//!
//! Contract: SPAKE2 (RFC 9382's construction over Ed25519) turns the code into a key that a
//! listener on the line cannot find; who does not know the code has one guess per connection, and
//! [`ATTEMPTS_MAX`] in all. The Noise handshake that follows confirms the key. The code is good for
//! one pairing.

use super::secret::{KEY_BYTES, Key, random};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use std::fmt;
use std::io;
use std::str::FromStr;

/// Wrong codes until pairing is closed: of 10^8 codes, 5 guesses.
pub const ATTEMPTS_MAX: u32 = 5;
/// Digits of a code.
const DIGITS: usize = 8;
/// Bytes of a SPAKE2 message.
pub(super) const SPAKE_BYTES: usize = 33;

/// A one-time pairing code: eight digits, shown as `1234-5678`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    /// A new random code.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn generate() -> io::Result<Self> {
        let codes = 10u32.pow(DIGITS as u32);
        loop {
            let number = u32::from_ne_bytes(random()?);
            // Every code equally often.
            if number < u32::MAX / codes * codes {
                return Ok(Self(number % codes));
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:04}", self.0 / 10_000, self.0 % 10_000)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

impl FromStr for Code {
    type Err = String;

    /// Eight digits; hyphens and spaces between them do not matter.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
        let good = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| good);
        number.map(Self).ok_or_else(|| "a pairing code has eight digits, as 1234-5678".into())
    }
}

/// One side of one attempt.
pub(super) struct Attempt(Spake2<Ed25519Group>);

/// What an attempt gives: a key for this handshake, and one to keep.
pub(super) struct Paired {
    pub(super) handshake: Key,
    pub(super) kept: Key,
}

impl Attempt {
    /// Begins, and gives the message for the other side.
    pub(super) fn start(code: Code, initiator: bool) -> (Self, Vec<u8>) {
        let password = Password::new(format!("{:08}", code.0).as_bytes());
        let calls = Identity::new(b"ftemu, the side that calls");
        let called = Identity::new(b"ftemu, the side that is called");
        let (state, message) = match initiator {
            true => Spake2::<Ed25519Group>::start_a(&password, &calls, &called),
            false => Spake2::<Ed25519Group>::start_b(&password, &calls, &called),
        };
        (Self(state), message)
    }

    /// Ends with the other side's message; `None` if it is none. Whether both have the same code
    /// shows later.
    pub(super) fn finish(self, message: &[u8]) -> Option<Paired> {
        let shared = self.0.finish(message).ok()?;
        let derive = |purpose: &str| -> Key {
            let mut hash = Sha256::new();
            hash.update(purpose.as_bytes());
            hash.update(&shared);
            let key: [u8; KEY_BYTES] = hash.finalize().into();
            Key(key)
        };
        let handshake = derive("ftemu pairing: this handshake\n");
        Some(Paired { handshake, kept: derive("ftemu pairing: the key to keep\n") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_code_gives_the_same_keys_and_another_code_others() {
        let code = Code::generate().expect("random");
        let other = Code((code.0 + 1) % 100_000_000);
        for (theirs, same) in [(code, true), (other, false)] {
            let (a, to_b) = Attempt::start(code, true);
            let (b, to_a) = Attempt::start(theirs, false);
            assert_eq!((to_a.len(), to_b.len()), (SPAKE_BYTES, SPAKE_BYTES));
            let (a, b) = (a.finish(&to_a).expect("sound"), b.finish(&to_b).expect("sound"));
            assert_eq!(a.handshake == b.handshake, same);
            assert_eq!(a.kept == b.kept, same);
            assert!(a.kept != a.handshake);
        }
    }

    #[test]
    fn a_message_sent_back_is_refused() {
        let (a, message) = Attempt::start(Code(1), true);
        assert!(a.finish(&message).is_none());
    }

    #[test]
    fn a_code_survives_being_typed() {
        for (text, number) in
            [("0000-0001", 1), ("12345678", 12_345_678), ("98 76 54 32", 98_765_432)]
        {
            let code: Code = text.parse().expect("a code");
            assert_eq!(code, Code(number));
            assert_eq!(code.to_string().parse(), Ok(code));
        }
        for wrong in ["", "1234567", "123456789", "1234-567a", "+1234567", "１２３４５６７８"]
        {
            assert!(wrong.parse::<Code>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn hostile_messages_are_no_panic(message: Vec<u8>) {
            let (a, _) = Attempt::start(Code(1), true);
            let _ = a.finish(&message);
        }
    }
}
