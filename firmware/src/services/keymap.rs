//! The US keyboard: set-1 scan codes to BIOS key words (scan code in AH, character in AL).
//!
//! IBM Personal System/2 BIOS interface reference, "Keyboard"; RBIL table 00006.

/// What a key yields; `None` where the BIOS puts nothing into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Without a shift key.
    pub plain: u16,
    /// With Shift.
    pub shift: u16,
    /// With Ctrl; 0: nothing.
    pub ctrl: u16,
    /// With Alt; 0: nothing.
    pub alt: u16,
    /// What Caps Lock or Num Lock does to the key.
    pub lock: Lock,
}

/// Which lock swaps plain and shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// None.
    No,
    /// Caps Lock.
    Caps,
    /// Num Lock.
    Num,
}

const fn key(plain: u16, shift: u16, ctrl: u16, alt: u16) -> Key {
    Key { plain, shift, ctrl, alt, lock: Lock::No }
}

/// A letter: Ctrl gives its control character.
const fn letter(scan: u16, lower: u8) -> Key {
    let code = scan << 8;
    Key {
        plain: code | lower as u16,
        shift: code | (lower - 32) as u16,
        ctrl: code | (lower & 0x1F) as u16,
        alt: code,
        lock: Lock::Caps,
    }
}

/// A key of the numeric pad.
const fn pad(scan: u16, digit: u8, ctrl: u16, alt: u16) -> Key {
    Key { plain: scan << 8, shift: scan << 8 | digit as u16, ctrl, alt, lock: Lock::Num }
}

/// A function key.
const fn function(scan: u16, shift: u16, ctrl: u16, alt: u16) -> Key {
    key(scan << 8, shift << 8, ctrl << 8, alt << 8)
}

/// Keys 01h-58h; modifier and lock keys hold zeros.
pub const KEYS: [Key; 0x58] = [
    key(0x011B, 0x011B, 0x011B, 0x0100), // Esc
    key(0x0231, 0x0221, 0, 0x7800),      // 1 !
    key(0x0332, 0x0340, 0x0300, 0x7900), // 2 @
    key(0x0433, 0x0423, 0, 0x7A00),      // 3 #
    key(0x0534, 0x0524, 0, 0x7B00),      // 4 $
    key(0x0635, 0x0625, 0, 0x7C00),      // 5 %
    key(0x0736, 0x075E, 0x071E, 0x7D00), // 6 ^
    key(0x0837, 0x0826, 0, 0x7E00),      // 7 &
    key(0x0938, 0x092A, 0, 0x7F00),      // 8 *
    key(0x0A39, 0x0A28, 0, 0x8000),      // 9 (
    key(0x0B30, 0x0B29, 0, 0x8100),      // 0 )
    key(0x0C2D, 0x0C5F, 0x0C1F, 0x8200), // - _
    key(0x0D3D, 0x0D2B, 0, 0x8300),      // = +
    key(0x0E08, 0x0E08, 0x0E7F, 0x0E00), // Backspace
    key(0x0F09, 0x0F00, 0x9400, 0xA500), // Tab
    letter(0x10, b'q'),
    letter(0x11, b'w'),
    letter(0x12, b'e'),
    letter(0x13, b'r'),
    letter(0x14, b't'),
    letter(0x15, b'y'),
    letter(0x16, b'u'),
    letter(0x17, b'i'),
    letter(0x18, b'o'),
    letter(0x19, b'p'),
    key(0x1A5B, 0x1A7B, 0x1A1B, 0x1A00), // [ {
    key(0x1B5D, 0x1B7D, 0x1B1D, 0x1B00), // ] }
    key(0x1C0D, 0x1C0D, 0x1C0A, 0x1C00), // Enter
    key(0, 0, 0, 0),                     // Ctrl
    letter(0x1E, b'a'),
    letter(0x1F, b's'),
    letter(0x20, b'd'),
    letter(0x21, b'f'),
    letter(0x22, b'g'),
    letter(0x23, b'h'),
    letter(0x24, b'j'),
    letter(0x25, b'k'),
    letter(0x26, b'l'),
    key(0x273B, 0x273A, 0, 0x2700),      // ; :
    key(0x2827, 0x2822, 0, 0x2800),      // ' "
    key(0x2960, 0x297E, 0, 0x2900),      // ` ~
    key(0, 0, 0, 0),                     // left Shift
    key(0x2B5C, 0x2B7C, 0x2B1C, 0x2B00), // \ |
    letter(0x2C, b'z'),
    letter(0x2D, b'x'),
    letter(0x2E, b'c'),
    letter(0x2F, b'v'),
    letter(0x30, b'b'),
    letter(0x31, b'n'),
    letter(0x32, b'm'),
    key(0x332C, 0x333C, 0, 0x3300),      // , <
    key(0x342E, 0x343E, 0, 0x3400),      // . >
    key(0x352F, 0x353F, 0, 0x3500),      // / ?
    key(0, 0, 0, 0),                     // right Shift
    key(0x372A, 0x372A, 0x9600, 0x3700), // keypad *
    key(0, 0, 0, 0),                     // Alt
    key(0x3920, 0x3920, 0x3920, 0x3920), // space
    key(0, 0, 0, 0),                     // Caps Lock
    function(0x3B, 0x54, 0x5E, 0x68),
    function(0x3C, 0x55, 0x5F, 0x69),
    function(0x3D, 0x56, 0x60, 0x6A),
    function(0x3E, 0x57, 0x61, 0x6B),
    function(0x3F, 0x58, 0x62, 0x6C),
    function(0x40, 0x59, 0x63, 0x6D),
    function(0x41, 0x5A, 0x64, 0x6E),
    function(0x42, 0x5B, 0x65, 0x6F),
    function(0x43, 0x5C, 0x66, 0x70),
    function(0x44, 0x5D, 0x67, 0x71),
    key(0, 0, 0, 0), // Num Lock
    key(0, 0, 0, 0), // Scroll Lock
    pad(0x47, b'7', 0x7700, 0),
    pad(0x48, b'8', 0x8D00, 0),
    pad(0x49, b'9', 0x8400, 0),
    key(0x4A2D, 0x4A2D, 0x8E00, 0x4A00), // keypad -
    pad(0x4B, b'4', 0x7300, 0),
    pad(0x4C, b'5', 0x8F00, 0),
    pad(0x4D, b'6', 0x7400, 0),
    key(0x4E2B, 0x4E2B, 0x9000, 0x4E00), // keypad +
    pad(0x4F, b'1', 0x7500, 0),
    pad(0x50, b'2', 0x9100, 0),
    pad(0x51, b'3', 0x7600, 0),
    pad(0x52, b'0', 0x9200, 0),
    pad(0x53, b'.', 0x9300, 0),
    key(0, 0, 0, 0),                  // SysRq
    key(0, 0, 0, 0),                  // none
    key(0x565C, 0x567C, 0, 0),        // 102nd key
    function(0x85, 0x87, 0x89, 0x8B), // F11
    function(0x86, 0x88, 0x8A, 0x8C), // F12
];

/// The grey keys after an E0 prefix: scan code, plain, Ctrl, Alt.
pub const EXTENDED: [(u8, u16, u16, u16); 12] = [
    (0x1C, 0xE00D, 0xE00A, 0xA600), // Enter
    (0x35, 0xE02F, 0x9500, 0xA400), // /
    (0x47, 0x47E0, 0x77E0, 0x9700), // Home
    (0x48, 0x48E0, 0x8DE0, 0x9800), // Up
    (0x49, 0x49E0, 0x84E0, 0x9900), // Page Up
    (0x4B, 0x4BE0, 0x73E0, 0x9B00), // Left
    (0x4D, 0x4DE0, 0x74E0, 0x9D00), // Right
    (0x4F, 0x4FE0, 0x75E0, 0x9F00), // End
    (0x50, 0x50E0, 0x91E0, 0xA000), // Down
    (0x51, 0x51E0, 0x76E0, 0xA100), // Page Down
    (0x52, 0x52E0, 0x92E0, 0xA200), // Insert
    (0x53, 0x53E0, 0x93E0, 0xA300), // Delete
];
