//! The screen of a text mode as characters.
//!
//! Contract: works for every value of the registers; sizes come from the CRTC and are bounded.

use super::{Vga, crtc, graphics};
use alloc::string::String;
use alloc::vec::Vec;

/// Most columns and rows that are given.
const COLUMNS: usize = 256;
const ROWS: usize = 128;

/// A character cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Code in the character generator, code page 437 as a rule.
    pub character: u8,
    /// Foreground in bits 3:0, background in bits 6:4, blinking or bright background in bit 7.
    pub attribute: u8,
}

/// What a text mode shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextScreen {
    /// Cells in a row.
    pub columns: usize,
    /// Row by row.
    pub cells: Vec<Cell>,
    /// Column and row of the cursor, if it is on the screen.
    pub cursor: Option<(usize, usize)>,
}

impl TextScreen {
    /// The characters of each row by code page 437, without blanks at the end.
    pub fn lines(&self) -> Vec<String> {
        let text = |row: &[Cell]| {
            let line: String = row.iter().map(|cell| cell.to_char()).collect();
            String::from(line.trim_end())
        };
        self.cells.chunks(self.columns).map(text).collect()
    }
}

/// Code page 437 outside of ASCII: 01h-1Fh, then 7Fh-FFh.
const GRAPHICS: &str = "☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼⌂\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{A0}";

impl Cell {
    /// The character by code page 437; 0 is a blank.
    pub fn to_char(self) -> char {
        let graphic = match self.character {
            0 => return ' ',
            code @ 0x01..=0x1F => code - 1,
            code @ 0x20..=0x7E => return char::from(code),
            code => code - 0x7F + 0x1F,
        };
        GRAPHICS.chars().nth(usize::from(graphic)).unwrap_or(' ')
    }
}

impl Vga {
    fn crtc_word(&self, high: usize) -> usize {
        usize::from(self.crtc[high]) << 8 | usize::from(self.crtc[high + 1])
    }

    /// Offset in a plane of the character at CRTC address `address`.
    fn cell_offset(&self, address: usize) -> usize {
        let address = address & 0xFFFF;
        if self.crtc[crtc::UNDERLINE] & 0x40 != 0 {
            (address << 2 | address >> 14) & 0xFFFF
        } else if self.crtc[crtc::MODE] & 0x40 == 0 {
            let high = if self.crtc[crtc::MODE] & 0x20 != 0 { 15 } else { 13 };
            (address << 1 | address >> high & 1) & 0xFFFF
        } else {
            address
        }
    }

    /// The screen, if a text mode is set.
    pub fn text_screen(&self) -> Option<TextScreen> {
        if self.graphics[graphics::MISCELLANEOUS] & 1 != 0 {
            return None;
        }
        let columns = (usize::from(self.crtc[crtc::HORIZONTAL_END]) + 1).min(COLUMNS);
        let height = usize::from(self.crtc[crtc::MAXIMUM_SCAN_LINE] & 0x1F) + 1;
        let rows = ((self.vertical_end() as usize + 1) / height).clamp(1, ROWS);
        let start = self.crtc_word(crtc::START_HIGH);
        let pitch = 2 * usize::from(self.crtc[crtc::OFFSET]);
        let mut cells = Vec::with_capacity(rows * columns);
        for row in 0..rows {
            for column in 0..columns {
                let at = 4 * self.cell_offset(start + row * pitch + column);
                let (character, attribute) = (self.memory[at], self.memory[at + 1]);
                cells.push(Cell { character, attribute });
            }
        }
        let cursor = self.cursor(start, pitch, columns, rows);
        Some(TextScreen { columns, cells, cursor })
    }

    fn cursor(
        &self,
        start: usize,
        pitch: usize,
        columns: usize,
        rows: usize,
    ) -> Option<(usize, usize)> {
        let (first, last) = (self.crtc[crtc::CURSOR_START], self.crtc[crtc::CURSOR_END]);
        let hidden = first & 0x20 != 0 || first & 0x1F > last & 0x1F;
        let at = self.crtc_word(crtc::CURSOR_HIGH).checked_sub(start)?;
        let (column, row) = (at.checked_rem(pitch)?, at.checked_div(pitch)?);
        (!hidden && column < columns && row < rows).then_some((column, row))
    }
}
