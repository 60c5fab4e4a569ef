//! Mistakes made on purpose: the proof that the checkers can see.
//!
//! Contract: those of the protocol are planted in `ft` (feature `planted`), those of a driver or an
//! arbiter here.

use ft::replica::Planted;
use std::fmt;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// In the protocol.
    Protocol(Planted),
    /// Around it.
    Driver(DriverMistake),
}

/// Mistakes of a driver or an arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverMistake {
    /// Joining leaves out a dirty page of RAM, and the digest is not compared.
    DroppedPage,
    /// An input is logged after the machine has run on with it.
    InjectedBeforeLogged,
    /// One output more than allowed leaves.
    OneTooMany,
    /// A backup does not keep the outputs that it makes.
    OutputsNotKept,
    /// Pending disk writes are not issued again at going live.
    WritesNotReissued,
    /// A disk error is seen by the primary's machine alone.
    ErrorNotLogged,
    /// The machine sees the host's clock.
    HostClockSeen,
    /// The backup runs on where the log ends.
    PastTheFrontier,
    /// The arbiter lets everybody win.
    ArbiterYesToAll,
    /// A backup forgets outputs that have not left the primary.
    ForgetsTooMuch,
    /// A replica that starts again goes live in its recorded epoch without asking: the record is
    /// trusted.
    StartsUnasked,
    /// A replica that starts again gives its epoch back, whether it was live in it or not.
    GivesBackUnlooked,
}

impl DriverMistake {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::DroppedPage,
        Self::InjectedBeforeLogged,
        Self::OneTooMany,
        Self::OutputsNotKept,
        Self::WritesNotReissued,
        Self::ErrorNotLogged,
        Self::HostClockSeen,
        Self::PastTheFrontier,
        Self::ArbiterYesToAll,
        Self::ForgetsTooMuch,
        Self::StartsUnasked,
        Self::GivesBackUnlooked,
    ];
}

impl Mistake {
    /// All of both kinds.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let protocol = Planted::ALL.into_iter().map(Self::Protocol);
        protocol.chain(DriverMistake::ALL.into_iter().map(Self::Driver)).collect()
    }

    /// The mistake of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|mistake| mistake.to_string() == name)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(planted) => write!(f, "{planted:?}"),
            Self::Driver(mistake) => write!(f, "{mistake:?}"),
        }
    }
}
