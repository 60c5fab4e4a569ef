//! Keys by name: QEMU's names of keys to the bytes that a keyboard sends.
//!
//! Contract: a chord is names with hyphens between them, pressed in order and released in reverse
//! order; chords have white space between them. Codes are those of scan code set 2 (IBM PS/2
//! Technical Reference, Keyboard), with the prefixes E0h of the keys that the 101-key keyboard
//! added, and F0h when a key is released.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Chords at a time: what they send fits into the keyboard's buffer.
const CHORDS_MAX: usize = 64;
/// Keys of a chord.
const CHORD_MAX: usize = 4;
/// Released.
const BREAK: u8 = 0xF0;
/// The key is one that the 101-key keyboard added.
const EXTENDED: u8 = 0xE0;
/// Marks such keys in [`KEYS`].
const E: u16 = 0xE000;

/// Names and codes.
#[rustfmt::skip]
const KEYS: &[(&str, u16)] = &[
    ("a", 0x1C), ("b", 0x32), ("c", 0x21), ("d", 0x23), ("e", 0x24), ("f", 0x2B), ("g", 0x34),
    ("h", 0x33), ("i", 0x43), ("j", 0x3B), ("k", 0x42), ("l", 0x4B), ("m", 0x3A), ("n", 0x31),
    ("o", 0x44), ("p", 0x4D), ("q", 0x15), ("r", 0x2D), ("s", 0x1B), ("t", 0x2C), ("u", 0x3C),
    ("v", 0x2A), ("w", 0x1D), ("x", 0x22), ("y", 0x35), ("z", 0x1A),
    ("0", 0x45), ("1", 0x16), ("2", 0x1E), ("3", 0x26), ("4", 0x25), ("5", 0x2E), ("6", 0x36),
    ("7", 0x3D), ("8", 0x3E), ("9", 0x46),
    ("f1", 0x05), ("f2", 0x06), ("f3", 0x04), ("f4", 0x0C), ("f5", 0x03), ("f6", 0x0B),
    ("f7", 0x83), ("f8", 0x0A), ("f9", 0x01), ("f10", 0x09), ("f11", 0x78), ("f12", 0x07),
    ("esc", 0x76), ("ret", 0x5A), ("spc", 0x29), ("tab", 0x0D), ("backspace", 0x66),
    ("minus", 0x4E), ("equal", 0x55), ("bracket_left", 0x54), ("bracket_right", 0x5B),
    ("backslash", 0x5D), ("semicolon", 0x4C), ("apostrophe", 0x52), ("grave_accent", 0x0E),
    ("comma", 0x41), ("dot", 0x49), ("slash", 0x4A), ("less", 0x61),
    ("shift", 0x12), ("shift_r", 0x59), ("ctrl", 0x14), ("ctrl_r", E | 0x14), ("alt", 0x11),
    ("alt_r", E | 0x11), ("meta_l", E | 0x1F), ("meta_r", E | 0x27), ("menu", E | 0x2F),
    ("caps_lock", 0x58), ("num_lock", 0x77), ("scroll_lock", 0x7E),
    ("insert", E | 0x70), ("delete", E | 0x71), ("home", E | 0x6C), ("end", E | 0x69),
    ("pgup", E | 0x7D), ("pgdn", E | 0x7A), ("up", E | 0x75), ("down", E | 0x72),
    ("left", E | 0x6B), ("right", E | 0x74),
    ("kp_0", 0x70), ("kp_1", 0x69), ("kp_2", 0x72), ("kp_3", 0x7A), ("kp_4", 0x6B),
    ("kp_5", 0x73), ("kp_6", 0x74), ("kp_7", 0x6C), ("kp_8", 0x75), ("kp_9", 0x7D),
    ("kp_decimal", 0x71), ("kp_add", 0x79), ("kp_subtract", 0x7B), ("kp_multiply", 0x7C),
    ("asterisk", 0x7C), ("kp_divide", E | 0x4A), ("kp_enter", E | 0x5A),
    ("print", E | 0x7C), ("sysrq", 0x84),
];

/// Keys to press and release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Keys {
    text: String,
    codes: Vec<u8>,
}

impl Keys {
    /// The keys that `text` names, as in `ctrl-alt-delete` or `l s ret`.
    ///
    /// # Errors
    /// The line for the user: there is no such key, or there are too many.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut codes = Vec::new();
        let mut chords = 0;
        for chord in text.split_whitespace() {
            chords += 1;
            if chords > CHORDS_MAX {
                return Err(format!("at most {CHORDS_MAX} keys at a time"));
            }
            press(chord, &mut codes)?;
        }
        match chords {
            0 => Err("no key".into()),
            _ => Ok(Self { text: text.into(), codes }),
        }
    }

    /// For `Input::Key`: scan codes of set 2.
    #[must_use]
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }
}

fn press(chord: &str, codes: &mut Vec<u8>) -> Result<(), String> {
    let mut pressed = Vec::new();
    for name in chord.split('-') {
        let key = KEYS.iter().find(|(known, _)| *known == name);
        let shown: String = name.chars().take(20).flat_map(char::escape_default).collect();
        let (_, code) = key.ok_or_else(|| format!("there is no key '{shown}'"))?;
        pressed.push(*code);
    }
    if pressed.len() > CHORD_MAX {
        return Err(format!("at most {CHORD_MAX} keys at the same time"));
    }
    let mut send = |code: u16, released: bool| {
        codes.extend((code >= E).then_some(EXTENDED));
        codes.extend(released.then_some(BREAK));
        codes.push(code as u8);
    };
    pressed.iter().for_each(|code| send(*code, false));
    pressed.iter().rev().for_each(|code| send(*code, true));
    Ok(())
}

impl TryFrom<String> for Keys {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Keys> for String {
    fn from(keys: Keys) -> Self {
        keys.text
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, codes: &[u8]) {
        assert_eq!(Keys::parse(text).expect(text).codes(), codes, "{text}");
    }

    #[test]
    fn keys_send_what_the_keyboard_sends() {
        check("a", &[0x1C, 0xF0, 0x1C]);
        check("ret", &[0x5A, 0xF0, 0x5A]);
        check("f7", &[0x83, 0xF0, 0x83]);
        check("delete", &[0xE0, 0x71, 0xE0, 0xF0, 0x71]);
        check(" l  s ", &[0x4B, 0xF0, 0x4B, 0x1B, 0xF0, 0x1B]);
        check(
            "ctrl-alt-delete",
            &[0x14, 0x11, 0xE0, 0x71, 0xE0, 0xF0, 0x71, 0xF0, 0x11, 0xF0, 0x14],
        );
    }

    #[test]
    fn what_is_no_key_is_named() {
        let wrong = |text: &str| Keys::parse(text).expect_err("no keys");
        assert_eq!(wrong(""), "no key");
        assert_eq!(wrong("ctrl-"), "there is no key ''");
        assert_eq!(wrong("entr\x1b"), "there is no key 'entr\\u{1b}'");
        assert_eq!(wrong("a-b-c-d-e"), "at most 4 keys at the same time");
        assert_eq!(wrong(&"a ".repeat(65)), "at most 64 keys at a time");
    }

    #[test]
    fn the_table_names_no_key_twice() {
        let names: std::collections::BTreeSet<_> = KEYS.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), KEYS.len());
    }

    proptest! {
        #[test]
        fn hostile_names_are_no_panic(text: String) {
            if let Ok(keys) = Keys::parse(&text) {
                prop_assert!(keys.codes().len() <= CHORDS_MAX * CHORD_MAX * 5);
            }
        }
    }
}
