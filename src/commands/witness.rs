//! `ftemu witness`: says which replica won which epoch, for pairs on other computers.

use crate::cli::WitnessFlags;
use crate::failure::Failure;
use drivers::arbiter::witness::{Witness, WitnessError};
use drivers::channel::Key;
use std::io::Write;
use std::net::TcpListener;

/// Serves until it is killed.
pub fn run(flags: &WitnessFlags) -> Result<u8, Failure> {
    let key = match &flags.key {
        None => None,
        Some(path) => Some(Key::read(path).map_err(|e| Failure::file(path, e))?),
    };
    let witness = Witness::open(&flags.state, key.as_ref().map(|key| &key.0))
        .map_err(|e| Failure::file(&flags.state, e))?;
    let address = &flags.listen;
    let unusable = |e| Failure::Input(format!("{address}: {e}"));
    let listener = TcpListener::bind(address).map_err(unusable)?;
    let bound = listener.local_addr().map_err(unusable)?;
    if key.is_none() && !bound.ip().is_loopback() {
        log::warn!("without --key, everybody who reaches {bound} may claim");
    }
    // Nobody need read it.
    let _ = writeln!(std::io::stdout(), "witness at {bound}");
    match witness.serve(&listener) {
        WitnessError::Io(e) => Err(Failure::Host(format!("{}: {e}", flags.state.display()))),
        e => Err(Failure::file(&flags.state, e)),
    }
}
