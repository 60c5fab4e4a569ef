//! Ctrl-A escapes on a terminal, as `qemu -nographic` has them.
//!
//! Contract: Ctrl-A and a letter is a command; Ctrl-A Ctrl-A (or Ctrl-A A) sends one Ctrl-A; all
//! else passes.

/// What the user asks the emulator for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// X: end the emulator.
    Quit,
    /// H or ?: say what there is.
    Help,
    /// P: press the power button.
    PowerButton,
    /// R: press the reset button.
    Reset,
}

/// What Ctrl-A H prints.
pub const HELP: &str = "\r\n\
    Ctrl-A H       this help\r\n\
    Ctrl-A X       quit the emulator (the guest is not asked)\r\n\
    Ctrl-A P       press the power button\r\n\
    Ctrl-A R       press the reset button\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A\r\n";

const CTRL_A: u8 = 1;

/// Takes commands out of what is typed.
#[derive(Clone, Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Splits `typed` into bytes for the guest and commands.
    pub fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Command>) {
        let mut bytes = Vec::with_capacity(typed.len());
        let mut commands = Vec::new();
        for &byte in typed {
            if !std::mem::take(&mut self.escaped) {
                match byte {
                    CTRL_A => self.escaped = true,
                    _ => bytes.push(byte),
                }
                continue;
            }
            match byte.to_ascii_lowercase() {
                b'x' => commands.push(Command::Quit),
                b'h' | b'?' => commands.push(Command::Help),
                b'p' => commands.push(Command::PowerButton),
                b'r' => commands.push(Command::Reset),
                CTRL_A | b'a' => bytes.push(CTRL_A),
                _ => {}
            }
        }
        (bytes, commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(typed: &[&[u8]], bytes: &[u8], commands: &[Command]) {
        let mut filter = EscapeFilter::default();
        let mut seen = (Vec::new(), Vec::new());
        for part in typed {
            let (bytes, commands) = filter.feed(part);
            seen.0.extend(bytes);
            seen.1.extend(commands);
        }
        assert_eq!((&seen.0[..], &seen.1[..]), (bytes, commands));
    }

    #[test]
    fn commands_are_taken_out_and_the_rest_passes() {
        check(&[b"ls\r"], b"ls\r", &[]);
        check(&[b"a\x03b"], b"a\x03b", &[]);
        check(&[b"\x01x"], b"", &[Command::Quit]);
        check(&[b"q\x01", b"Xr"], b"qr", &[Command::Quit]);
        check(&[b"\x01\x01"], b"\x01", &[]);
        check(
            &[b"\x01a\x01?\x01P\x01r"],
            b"\x01",
            &[Command::Help, Command::PowerButton, Command::Reset],
        );
        check(&[b"\x01zx"], b"x", &[]);
    }
}
