//! The VGA's text mode, 80x25, which the loader asked the BIOS for.

use crate::cpu::{in8, out8};

/// Characters in a row.
pub const COLUMNS: usize = 80;
/// Rows on the screen.
pub const ROWS: usize = 25;
/// Light grey on black.
pub const NORMAL: u8 = 0x07;
/// White on blue.
pub const TITLE: u8 = 0x1F;
/// White on red.
pub const ALARM: u8 = 0x4F;

const TEXT: *mut u16 = 0xB8000 as *mut u16;
const CRTC_INDEX: u16 = 0x3D4;
const CRTC_DATA: u16 = 0x3D5;
const CURSOR_START: u8 = 0x0A;

/// Clears the screen and hides the cursor.
pub fn init() {
    for row in 0..ROWS {
        write_row(row, NORMAL, "");
    }
    out8(CRTC_INDEX, CURSOR_START);
    out8(CRTC_DATA, in8(CRTC_DATA) | 0x20);
}

/// Writes `text` at the start of `row` and blanks the rest; characters outside ASCII show as `?`.
pub fn write_row(row: usize, attribute: u8, text: &str) {
    assert!(row < ROWS, "no such row");
    let mut characters = text.chars();
    for column in 0..COLUMNS {
        let character = match characters.next() {
            Some(character @ ' '..='~') => character as u8,
            Some(_) => b'?',
            None => b' ',
        };
        let cell = u16::from(attribute) << 8 | u16::from(character);
        // SAFETY: inside the 4,000 bytes of the text page, which nothing else in this program uses.
        unsafe { TEXT.add(row * COLUMNS + column).write_volatile(cell) };
    }
}
