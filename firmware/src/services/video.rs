//! INT 10h: the text console of the VGA.
//!
//! Contract: text modes 0-3 only; a graphics mode is not entered. What the BIOS prints also goes to
//! the debug console, port E9h. IBM PS/2 BIOS interface reference, INT 10h; RBIL.

use crate::layout::{BIOS_SEGMENT, bda};
use crate::pc::{Call, Pc};
use crate::rom::entry;
use alloc::vec;
use alloc::vec::Vec;

/// Text memory of the colour modes.
const TEXT: u64 = 0xB_8000;
/// Bytes of text memory.
const TEXT_SIZE: u64 = 0x8000;
/// Debug console.
const DEBUG: u16 = 0xE9;
const WHITE: u8 = 0x07;

/// INT 10h.
pub fn call(call: &mut Call<'_>) {
    match call.ah() {
        0x00 => {
            let mode = call.al();
            set_mode(&mut call.pc, mode & 0x7F, mode & 0x80 == 0);
            call.set_al(if mode & 0x7F > 5 { 0x20 } else { 0x30 });
        }
        0x01 => {
            let shape = call.cx();
            set_cursor_shape(&mut call.pc, shape);
        }
        0x02 => {
            let ((page, _), position) = (call.bh_bl(), call.dx());
            set_cursor(&mut call.pc, page, position);
        }
        0x03 => {
            let (page, _) = call.bh_bl();
            let position = call.pc.bda16(bda::CURSOR + 2 * u64::from(page & 7));
            call.set_dx(position);
            let shape = call.pc.bda16(bda::CURSOR_SHAPE);
            call.set_cx(shape);
        }
        0x05 => {
            let page = call.al();
            set_page(&mut call.pc, page);
        }
        0x06 | 0x07 => scroll_window(call),
        0x08 => read_character(call),
        0x09 | 0x0A => write_character(call),
        0x0E => {
            let (character, (_, colour)) = (call.al(), call.bh_bl());
            let page = call.pc.bda8(bda::ACTIVE_PAGE);
            let _ = colour;
            teletype(&mut call.pc, page, character, None);
        }
        0x0F => {
            let mode = call.pc.bda8(bda::VIDEO_MODE);
            let columns = call.pc.bda8(bda::COLUMNS);
            let page = call.pc.bda8(bda::ACTIVE_PAGE);
            call.ax = u16::from(columns) << 8 | u16::from(mode);
            let bx = call.bx() & 0xFF | u16::from(page) << 8;
            call.set_bx(bx);
        }
        0x10 => palette(call),
        0x11 => font(call),
        0x12 => alternate_select(call),
        0x13 => write_string(call),
        0x1A => display_combination(call),
        0x1B => state_information(call),
        // VESA and the rest: AL is not 4Fh, so not supported.
        _ => {}
    }
}

/// Columns of the current mode.
fn columns(pc: &mut Pc<'_>) -> u16 {
    pc.bda16(bda::COLUMNS).clamp(1, 132)
}

/// Rows of the current mode.
fn rows(pc: &mut Pc<'_>) -> u16 {
    (u16::from(pc.bda8(bda::ROWS)) + 1).clamp(1, 60)
}

/// Physical address of a character cell.
fn cell(pc: &mut Pc<'_>, page: u8, row: u16, column: u16) -> u64 {
    let size = u64::from(pc.bda16(bda::PAGE_SIZE));
    let offset = u64::from(page & 7) * size
        + 2 * (u64::from(row) * u64::from(columns(pc)) + u64::from(column));
    TEXT + offset % TEXT_SIZE
}

/// Indexed VGA registers of the 80x25 text mode (IBM VGA technical reference, mode 3+).
const SEQUENCER: [u8; 5] = [0x03, 0x00, 0x03, 0x00, 0x02];
const CRTC_80: [u8; 25] = [
    0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00, 0x00,
    0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
];
const CRTC_40: [u8; 25] = [
    0x2D, 0x27, 0x28, 0x90, 0x2B, 0xA0, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00, 0x00,
    0x9C, 0x8E, 0x8F, 0x14, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
];
const GRAPHICS: [u8; 9] = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0E, 0x00, 0xFF];
const ATTRIBUTE: [u8; 21] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3A, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F,
    0x0C, 0x00, 0x0F, 0x08, 0x00,
];

/// Programs the VGA for text mode `mode` (0-3; others are left alone).
pub fn set_mode(pc: &mut Pc<'_>, mode: u8, clear: bool) {
    if mode > 3 {
        return;
    }
    let columns: u16 = if mode < 2 { 40 } else { 80 };
    let wide = columns == 80;
    pc.out8(0x3C2, 0x67);
    for (index, mut value) in SEQUENCER.into_iter().enumerate() {
        if index == 1 && !wide {
            value |= 0x08;
        }
        pc.out8(0x3C4, index as u8);
        pc.out8(0x3C5, value);
    }
    pc.out16(0x3D4, 0x0E11); // unlock registers 0-7
    for (index, value) in (if wide { CRTC_80 } else { CRTC_40 }).into_iter().enumerate() {
        pc.out16(0x3D4, u16::from(value) << 8 | index as u16);
    }
    for (index, value) in GRAPHICS.into_iter().enumerate() {
        pc.out16(0x3CE, u16::from(value) << 8 | index as u16);
    }
    pc.in8(0x3DA);
    for (index, value) in ATTRIBUTE.into_iter().enumerate() {
        pc.out8(0x3C0, index as u8);
        pc.out8(0x3C0, value);
    }
    pc.out8(0x3C0, 0x20);
    load_palette(pc);
    init_video_data(pc, mode, columns);
    if clear {
        let blank = [b' ', WHITE].repeat(TEXT_SIZE as usize / 2);
        pc.write(TEXT, &blank);
    }
    set_cursor_shape(pc, 0x0607);
    set_cursor(pc, 0, 0);
}

fn init_video_data(pc: &mut Pc<'_>, mode: u8, columns: u16) {
    pc.set_bda8(bda::VIDEO_MODE, mode);
    pc.set_bda16(bda::COLUMNS, columns);
    pc.set_bda16(bda::PAGE_SIZE, if columns == 80 { 0x1000 } else { 0x0800 });
    pc.set_bda16(bda::PAGE_OFFSET, 0);
    for page in 0..8 {
        pc.set_bda16(bda::CURSOR + 2 * page, 0);
    }
    pc.set_bda8(bda::ACTIVE_PAGE, 0);
    pc.set_bda16(bda::CRTC, 0x3D4);
    pc.set_bda8(bda::MODE_REGISTER, [0x2C, 0x28, 0x2D, 0x29][usize::from(mode & 3)]);
    pc.set_bda8(bda::ROWS, 24);
    pc.set_bda16(bda::CHARACTER_HEIGHT, 16);
    pc.set_bda8(bda::VIDEO_CONTROL, 0x60);
    pc.set_bda8(bda::VIDEO_SWITCHES, 0xF9);
    pc.set_bda8(bda::VIDEO_FLAGS, 0x51);
    pc.set_bda8(bda::DISPLAY_CODE, 0x08);
}

/// The 64 colours of the EGA: two bits each of red, green and blue.
fn load_palette(pc: &mut Pc<'_>) {
    pc.out8(0x3C6, 0xFF);
    pc.out8(0x3C8, 0);
    for colour in 0..64u8 {
        for (low, high) in [(5, 2), (4, 1), (3, 0)] {
            let level = (colour >> high & 1) * 0x2A + (colour >> low & 1) * 0x15;
            pc.out8(0x3C9, level);
        }
    }
}

fn crtc(pc: &mut Pc<'_>, register: u8, value: u8) {
    pc.out16(0x3D4, u16::from(value) << 8 | u16::from(register));
}

fn set_cursor_shape(pc: &mut Pc<'_>, shape: u16) {
    pc.set_bda16(bda::CURSOR_SHAPE, shape);
    let [mut end, mut start] = shape.to_le_bytes();
    // Shapes for 8 scan lines are stretched to 16 ("cursor emulation").
    if start & 0x20 == 0 && end < 8 && start & 0x1F < 8 {
        start = (start & 0x1F) * 2 + 1;
        end = end * 2 + 1;
        if start == 13 && end == 15 {
            end = 14;
        }
    }
    crtc(pc, 0x0A, start);
    crtc(pc, 0x0B, end);
}

fn set_cursor(pc: &mut Pc<'_>, page: u8, position: u16) {
    pc.set_bda16(bda::CURSOR + 2 * u64::from(page & 7), position);
    if page == pc.bda8(bda::ACTIVE_PAGE) {
        let at = (cell(pc, page, position >> 8, position & 0xFF) - TEXT) / 2;
        crtc(pc, 0x0E, (at >> 8) as u8);
        crtc(pc, 0x0F, at as u8);
    }
}

fn set_page(pc: &mut Pc<'_>, page: u8) {
    let page = page & 7;
    let offset = pc.bda16(bda::PAGE_SIZE).wrapping_mul(page.into());
    pc.set_bda16(bda::PAGE_OFFSET, offset);
    pc.set_bda8(bda::ACTIVE_PAGE, page);
    crtc(pc, 0x0C, (offset >> 9) as u8);
    crtc(pc, 0x0D, (offset >> 1) as u8);
    let position = pc.bda16(bda::CURSOR + 2 * u64::from(page));
    set_cursor(pc, page, position);
}

/// A window of the screen, in cells, ends included.
#[derive(Clone, Copy)]
struct Window {
    top: u16,
    left: u16,
    bottom: u16,
    right: u16,
}

fn scroll_window(call: &mut Call<'_>) {
    let ((top, left), (bottom, right)) = (call.ch_cl(), call.dh_dl());
    let (rows, columns) = (rows(&mut call.pc), columns(&mut call.pc));
    let window = Window {
        top: top.into(),
        left: left.into(),
        bottom: u16::from(bottom).min(rows - 1),
        right: u16::from(right).min(columns - 1),
    };
    let page = call.pc.bda8(bda::ACTIVE_PAGE);
    let (attribute, _) = call.bh_bl();
    let (lines, up) = (call.al(), call.ah() == 0x06);
    scroll(&mut call.pc, page, window, lines.into(), up, attribute);
}

/// Moves the window's lines up or down by `lines` (0: all) and blanks what is freed.
fn scroll(pc: &mut Pc<'_>, page: u8, window: Window, lines: u16, up: bool, attribute: u8) {
    if window.top > window.bottom || window.left > window.right {
        return;
    }
    let height = window.bottom - window.top + 1;
    let width = usize::from(window.right - window.left + 1);
    let lines = if lines == 0 { height } else { lines.min(height) };
    let blank = [b' ', attribute].repeat(width);
    let mut line = vec![0; 2 * width];
    for step in 0..height {
        let row = if up { window.top + step } else { window.bottom - step };
        let to = cell(pc, page, row, window.left);
        if step + lines < height {
            let source = if up { row + lines } else { row - lines };
            let from = cell(pc, page, source, window.left);
            pc.read(from, &mut line);
            pc.write(to, &line);
        } else {
            pc.write(to, &blank);
        }
    }
}

fn cursor_cell(pc: &mut Pc<'_>, page: u8) -> u64 {
    let position = pc.bda16(bda::CURSOR + 2 * u64::from(page & 7));
    cell(pc, page, position >> 8, position & 0xFF)
}

fn read_character(call: &mut Call<'_>) {
    let (page, _) = call.bh_bl();
    let at = cursor_cell(&mut call.pc, page);
    call.ax = call.pc.read16(at);
}

/// AH=09h and 0Ah: CX copies of a character at the cursor, which stays.
fn write_character(call: &mut Call<'_>) {
    let (page, attribute) = call.bh_bl();
    let mut at = cursor_cell(&mut call.pc, page);
    let count = call.cx().min((TEXT_SIZE / 2) as u16);
    let character = call.al();
    let with_attribute = call.ah() == 0x09;
    for _ in 0..count {
        call.pc.write8(at, character);
        if with_attribute {
            call.pc.write8(at + 1, attribute);
        }
        at = TEXT + (at - TEXT + 2) % TEXT_SIZE;
    }
    if count == 1 && character >= b' ' {
        call.pc.out8(DEBUG, character);
    }
}

/// Writes a character at the cursor of `page` and moves on; `attribute`: `None` keeps the cell's.
fn teletype(pc: &mut Pc<'_>, page: u8, character: u8, attribute: Option<u8>) {
    pc.out8(DEBUG, character);
    let (rows, columns) = (rows(pc), columns(pc));
    let position = pc.bda16(bda::CURSOR + 2 * u64::from(page & 7));
    let (mut row, mut column) = (position >> 8, position & 0xFF);
    match character {
        0x07 => return,
        0x08 => column = column.saturating_sub(1),
        b'\n' => row += 1,
        b'\r' => column = 0,
        _ => {
            let at = cell(pc, page, row, column);
            pc.write8(at, character);
            if let Some(attribute) = attribute {
                pc.write8(at + 1, attribute);
            }
            column += 1;
        }
    }
    if column >= columns {
        column = 0;
        row += 1;
    }
    if row >= rows {
        let at = cell(pc, page, rows - 1, 0);
        let attribute = pc.read8(at + 1);
        let window = Window { top: 0, left: 0, bottom: rows - 1, right: columns - 1 };
        scroll(pc, page, window, 1, true, attribute);
        row = rows - 1;
    }
    set_cursor(pc, page, row << 8 | column);
}

/// Prints on the active page.
pub fn print(pc: &mut Pc<'_>, text: &[u8]) {
    let page = pc.bda8(bda::ACTIVE_PAGE);
    for &character in text {
        teletype(pc, page, character, None);
    }
}

/// Prints a decimal number.
pub fn print_number(pc: &mut Pc<'_>, mut number: u64) {
    let mut digits = Vec::new();
    loop {
        digits.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits.reverse();
    print(pc, &digits);
}

/// AH=13h: AL bit 0 moves the cursor, bit 1 says that attributes follow each character.
fn write_string(call: &mut Call<'_>) {
    let (page, attribute) = call.bh_bl();
    let (mode, mut offset) = (call.al(), call.bp());
    let saved = call.pc.bda16(bda::CURSOR + 2 * u64::from(page & 7));
    let position = call.dx();
    set_cursor(&mut call.pc, page, position);
    for _ in 0..call.cx() {
        let at = call.es_at(offset);
        let character = call.pc.read8(at);
        offset = offset.wrapping_add(1);
        let mut colour = attribute;
        if mode & 2 != 0 {
            let at = call.es_at(offset);
            colour = call.pc.read8(at);
            offset = offset.wrapping_add(1);
        }
        teletype(&mut call.pc, page, character, Some(colour));
    }
    if mode & 1 == 0 {
        set_cursor(&mut call.pc, page, saved);
    }
}

/// AH=10h: palette registers.
fn palette(call: &mut Call<'_>) {
    let (value, index) = call.bh_bl();
    match call.al() {
        0x00 if index < 0x15 => attribute_register(&mut call.pc, index, value),
        0x01 => attribute_register(&mut call.pc, 0x11, value),
        0x02 => {
            for index in 0..17u16 {
                let at = call.es_at(call.dx().wrapping_add(index));
                let value = call.pc.read8(at);
                let register = if index == 16 { 0x11 } else { index as u8 };
                attribute_register(&mut call.pc, register, value);
            }
        }
        0x03 => {
            let mode = read_attribute(&mut call.pc, 0x10) & !0x08 | (index & 1) << 3;
            attribute_register(&mut call.pc, 0x10, mode);
        }
        0x07 => {
            let value = read_attribute(&mut call.pc, index & 0x1F);
            let bx = u16::from(value) << 8 | u16::from(index);
            call.set_bx(bx);
        }
        0x08 => {
            let value = read_attribute(&mut call.pc, 0x11);
            let bx = u16::from(value) << 8 | u16::from(index);
            call.set_bx(bx);
        }
        0x10 => {
            let ((green, blue), (red, _)) = (call.ch_cl(), call.dh_dl());
            call.pc.out8(0x3C8, index);
            for level in [red, green, blue] {
                call.pc.out8(0x3C9, level);
            }
        }
        0x12 => dac_block(call, true),
        0x15 => {
            call.pc.out8(0x3C7, index);
            let (red, green, blue) = (call.pc.in8(0x3C9), call.pc.in8(0x3C9), call.pc.in8(0x3C9));
            let dx = call.dx() & 0xFF | u16::from(red) << 8;
            call.set_dx(dx);
            call.set_cx(u16::from(green) << 8 | u16::from(blue));
        }
        0x17 => dac_block(call, false),
        _ => {}
    }
}

/// AL=12h and 17h: CX colours from BX on, at ES:DX.
fn dac_block(call: &mut Call<'_>, set: bool) {
    let first = call.bx() as u8;
    call.pc.out8(if set { 0x3C8 } else { 0x3C7 }, first);
    for index in 0..call.cx().min(256) * 3 {
        let at = call.es_at(call.dx().wrapping_add(index));
        if set {
            let level = call.pc.read8(at);
            call.pc.out8(0x3C9, level);
        } else {
            let level = call.pc.in8(0x3C9);
            call.pc.write8(at, level);
        }
    }
}

fn attribute_register(pc: &mut Pc<'_>, index: u8, value: u8) {
    pc.in8(0x3DA);
    pc.out8(0x3C0, index);
    pc.out8(0x3C0, value);
    pc.in8(0x3DA);
    pc.out8(0x3C0, 0x20);
}

fn read_attribute(pc: &mut Pc<'_>, index: u8) -> u8 {
    pc.in8(0x3DA);
    pc.out8(0x3C0, index);
    let value = pc.in8(0x3C1);
    pc.in8(0x3DA);
    pc.out8(0x3C0, 0x20);
    value
}

/// AH=11h: only the questions; the text is drawn with the host's font.
fn font(call: &mut Call<'_>) {
    if call.al() != 0x30 {
        return;
    }
    let rows = call.pc.bda8(bda::ROWS);
    let height = call.pc.bda16(bda::CHARACTER_HEIGHT);
    call.set_cx(height);
    let dx = call.dx() & 0xFF00 | u16::from(rows);
    call.set_dx(dx);
    call.set_es(BIOS_SEGMENT);
    call.set_bp(entry::FONT);
}

/// AH=12h: BL=10h returns what a colour VGA with 256 KiB says; the switches are taken.
fn alternate_select(call: &mut Call<'_>) {
    match call.bx() as u8 {
        0x10 => {
            call.set_bx(0x0003);
            call.set_cx(0x0009);
        }
        0x30..=0x36 => call.set_al(0x12),
        _ => {}
    }
}

fn display_combination(call: &mut Call<'_>) {
    if call.al() == 0 {
        let code = call.pc.bda8(bda::DISPLAY_CODE);
        call.set_bx(code.into());
    } else {
        let code = call.bx() as u8;
        call.pc.set_bda8(bda::DISPLAY_CODE, code);
    }
    call.set_al(0x1A);
}

/// AH=1Bh: functionality and state (IBM PS/2 BIOS, dynamic state table).
fn state_information(call: &mut Call<'_>) {
    let mut table = [0u8; 64];
    call.pc.read(crate::layout::BDA + bda::VIDEO_MODE, &mut table[4..0x22]);
    table[0..2].copy_from_slice(&entry::VIDEO_TABLE.to_le_bytes());
    table[2..4].copy_from_slice(&BIOS_SEGMENT.to_le_bytes());
    table[0x22] = call.pc.bda8(bda::ROWS) + 1;
    table[0x23] = 16;
    table[0x25] = call.pc.bda8(bda::DISPLAY_CODE);
    table[0x27] = 16;
    table[0x29] = 8;
    table[0x2A] = 2;
    table[0x31] = 3;
    let at = call.es_at(call.di());
    call.pc.write(at, &table);
    call.set_al(0x1B);
}
