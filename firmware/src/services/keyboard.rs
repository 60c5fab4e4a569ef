//! INT 16h and IRQ 1: the keyboard buffer in the BIOS data area.
//!
//! Contract: the buffer's pointers are guest memory and are forced into 40:00-40:FF when used.

use super::keymap::{EXTENDED, KEYS, Key, Lock};
use crate::layout::{BDA, bda};
use crate::pc::{Call, Pc, Status};
use crate::post::chips;

// Shift flags at 40:17.
const RIGHT_SHIFT: u8 = 0x01;
const LEFT_SHIFT: u8 = 0x02;
const CTRL: u8 = 0x04;
const ALT: u8 = 0x08;
const SCROLL_LOCK: u8 = 0x10;
const NUM_LOCK: u8 = 0x20;
const CAPS_LOCK: u8 = 0x40;
const INSERT: u8 = 0x80;
// Flags at 40:18.
const PAUSED: u8 = 0x08;
// Mode at 40:96.
const E1: u8 = 0x01;
const E0: u8 = 0x02;
const RIGHT_CTRL: u8 = 0x04;
const RIGHT_ALT: u8 = 0x08;

/// INT 16h.
pub fn call(call: &mut Call<'_>) -> Status {
    let enhanced = call.ah() >= 0x10;
    match call.ah() {
        0x00 | 0x10 => match take(&mut call.pc, enhanced) {
            Some(key) => call.ax = key,
            None => return Status::Wait,
        },
        0x01 | 0x11 => {
            let key = peek(&mut call.pc, enhanced);
            call.set_zf(key.is_none());
            if let Some(key) = key {
                call.ax = key;
            }
        }
        0x02 => {
            let flags = call.pc.bda8(bda::SHIFT);
            call.set_al(flags);
        }
        0x03 if call.al() == 5 => {
            // Set typematic rate: the keyboard's command F3h.
            let (delay, rate) = call.bh_bl();
            chips::keyboard_data(&mut call.pc, 0xF3);
            chips::keyboard_data(&mut call.pc, (delay & 3) << 5 | rate & 0x1F);
        }
        0x05 => {
            let key = call.cx();
            let full = !put(&mut call.pc, key);
            call.set_al(full.into());
        }
        // Functions supported: AX=0305h, AH=0Ah, enhanced keyboard (RBIL table 00584).
        0x09 => call.set_al(0x34),
        // The way to find out whether the enhanced functions are there.
        0x92 => call.set_ah(0x80),
        0x0A => call.set_bx(0x41AB),
        0x12 => {
            let low = call.pc.bda8(bda::SHIFT);
            let (right, left) = (call.pc.bda8(bda::KEY_MODE), call.pc.bda8(bda::SHIFT + 1));
            // 40:18 bits 7-4 and left Ctrl, Alt; right ones from 40:96.
            let high = left & 0x73 | (right & (RIGHT_CTRL | RIGHT_ALT)) | (left & 0x04) << 5;
            call.ax = u16::from(high) << 8 | u16::from(low);
        }
        _ => {}
    }
    Status::Done
}

/// Start, end, head and tail of the buffer, forced to be usable.
fn pointers(pc: &mut Pc<'_>) -> (u16, u16, u16, u16) {
    let (mut start, mut end) = (pc.bda16(bda::KEY_START), pc.bda16(bda::KEY_END));
    if start >= end || start < 0x1E || end > 0x100 || (end - start) % 2 != 0 {
        (start, end) = (bda::KEY_BUFFER as u16, bda::KEY_BUFFER as u16 + 32);
    }
    let inside = |at: u16| {
        if (start..end).contains(&at) && (at - start).is_multiple_of(2) { at } else { start }
    };
    let (head, tail) = (pc.bda16(bda::KEY_HEAD), pc.bda16(bda::KEY_TAIL));
    (start, end, inside(head), inside(tail))
}

/// Puts a key into the buffer; false when it is full.
pub fn put(pc: &mut Pc<'_>, key: u16) -> bool {
    let (start, end, head, tail) = pointers(pc);
    let next = if tail + 2 >= end { start } else { tail + 2 };
    if next == head {
        return false;
    }
    pc.write16(BDA + u64::from(tail), key);
    pc.set_bda16(bda::KEY_TAIL, next);
    true
}

/// The next key as the plain or the enhanced functions show it; keys that the plain ones do not
/// know are dropped on the way.
fn peek(pc: &mut Pc<'_>, enhanced: bool) -> Option<u16> {
    loop {
        let (start, end, head, tail) = pointers(pc);
        if head == tail {
            return None;
        }
        let key = pc.read16(BDA + u64::from(head));
        if let Some(key) = if enhanced { Some(key) } else { plain(key) } {
            return Some(key);
        }
        pc.set_bda16(bda::KEY_HEAD, if head + 2 >= end { start } else { head + 2 });
    }
}

/// Takes the next key.
fn take(pc: &mut Pc<'_>, enhanced: bool) -> Option<u16> {
    let key = peek(pc, enhanced)?;
    let (start, end, head, _) = pointers(pc);
    pc.set_bda16(bda::KEY_HEAD, if head + 2 >= end { start } else { head + 2 });
    Some(key)
}

/// An enhanced key as an 84-key keyboard would send it; `None`: it has no such key.
fn plain(key: u16) -> Option<u16> {
    let [character, scan] = key.to_le_bytes();
    match (scan, character) {
        (0xE0, 0x0D | 0x0A) => Some(0x1C00 | u16::from(character)),
        (0xE0, _) => Some(0x3500 | u16::from(character)),
        (_, 0xE0) if scan != 0 => Some(key & 0xFF00),
        (0x85.., _) => None,
        _ => Some(key),
    }
}

/// IRQ 1 after INT 15h AH=4Fh: true when the stub must call INT 1Bh.
pub fn interrupt(pc: &mut Pc<'_>, scan: u8) -> bool {
    let mode = pc.bda8(bda::KEY_MODE);
    if scan == 0xE0 || scan == 0xE1 {
        let prefix = if scan == 0xE0 { E0 } else { E1 };
        pc.set_bda8(bda::KEY_MODE, mode | prefix);
        return false;
    }
    if mode & E1 != 0 {
        // Pause is E1 1D 45 E1 9D C5: end of the prefix with 45 or C5.
        if scan & 0x7F == 0x45 {
            pc.set_bda8(bda::KEY_MODE, mode & !E1);
        }
        return false;
    }
    let extended = mode & E0 != 0;
    pc.set_bda8(bda::KEY_MODE, mode & !E0);
    let (code, released) = (scan & 0x7F, scan & 0x80 != 0);
    if modifier(pc, code, extended, released) || released || code == 0 {
        return false;
    }
    if extended && code == 0x46 {
        return control_break(pc);
    }
    pressed(pc, code, extended);
    false
}

/// Ctrl-Break: empties the buffer, puts a zero key into it, sets 40:71.
fn control_break(pc: &mut Pc<'_>) -> bool {
    let (start, ..) = pointers(pc);
    pc.set_bda16(bda::KEY_HEAD, start);
    pc.set_bda16(bda::KEY_TAIL, start);
    put(pc, 0);
    pc.set_bda8(bda::BREAK, 0x80);
    true
}

/// Shift, control, alternate and lock keys; true when `code` is one.
fn modifier(pc: &mut Pc<'_>, code: u8, extended: bool, released: bool) -> bool {
    let mut flags = pc.bda8(bda::SHIFT);
    let mut held = pc.bda8(bda::SHIFT + 1);
    let mut mode = pc.bda8(bda::KEY_MODE);
    let set = |byte: &mut u8, bit: u8| *byte = if released { *byte & !bit } else { *byte | bit };
    match (code, extended) {
        // E0 2A and E0 36 are the fake shifts around grey keys.
        (0x2A | 0x36, true) => return true,
        (0x2A, _) => set(&mut flags, LEFT_SHIFT),
        (0x36, _) => set(&mut flags, RIGHT_SHIFT),
        (0x1D, false) => set(&mut held, 0x01),
        (0x1D, true) => set(&mut mode, RIGHT_CTRL),
        (0x38, false) => set(&mut held, 0x02),
        (0x38, true) => set(&mut mode, RIGHT_ALT),
        (0x3A, _) => toggle(&mut flags, &mut held, CAPS_LOCK, released),
        (0x45, false) if flags & CTRL == 0 => toggle(&mut flags, &mut held, NUM_LOCK, released),
        (0x46, false) => toggle(&mut flags, &mut held, SCROLL_LOCK, released),
        (0x54, false) => set(&mut held, 0x04),
        _ => return false,
    }
    let ctrl = held & 0x01 != 0 || mode & RIGHT_CTRL != 0;
    let alt = held & 0x02 != 0 || mode & RIGHT_ALT != 0;
    if flags & ALT != 0 && !alt {
        finish_alt_keypad(pc);
    }
    flags = flags & !(CTRL | ALT) | if ctrl { CTRL } else { 0 } | if alt { ALT } else { 0 };
    pc.set_bda8(bda::SHIFT, flags);
    pc.set_bda8(bda::SHIFT + 1, held);
    pc.set_bda8(bda::KEY_MODE, mode);
    true
}

/// A lock key: toggles when pressed, not when repeated.
fn toggle(flags: &mut u8, held: &mut u8, bit: u8, released: bool) {
    if released {
        *held &= !bit;
    } else if *held & bit == 0 {
        *held |= bit;
        *flags ^= bit;
    }
}

/// Alt has been released: the number typed on the pad is a character.
fn finish_alt_keypad(pc: &mut Pc<'_>) {
    let number = pc.bda8(bda::ALT_KEYPAD);
    if number != 0 {
        put(pc, number.into());
        pc.set_bda8(bda::ALT_KEYPAD, 0);
    }
}

/// Digits of the numeric pad by scan code.
fn pad_digit(code: u8) -> Option<u8> {
    Some(match code {
        0x47..=0x49 => code - 0x47 + 7,
        0x4B..=0x4D => code - 0x4B + 4,
        0x4F..=0x51 => code - 0x4F + 1,
        0x52 => 0,
        _ => return None,
    })
}

fn pressed(pc: &mut Pc<'_>, code: u8, extended: bool) {
    let flags = pc.bda8(bda::SHIFT);
    let held = pc.bda8(bda::SHIFT + 1);
    if held & PAUSED != 0 {
        pc.set_bda8(bda::SHIFT + 1, held & !PAUSED);
        return;
    }
    if code == 0x52 && flags & (CTRL | ALT | LEFT_SHIFT | RIGHT_SHIFT) == 0 {
        pc.set_bda8(bda::SHIFT, flags ^ INSERT);
    }
    let word = if extended {
        EXTENDED.iter().find(|key| key.0 == code).map(|&(_, plain, ctrl, alt)| {
            if flags & ALT != 0 {
                alt
            } else if flags & CTRL != 0 {
                ctrl
            } else {
                plain
            }
        })
    } else if let Some(digit) = pad_digit(code).filter(|_| flags & ALT != 0) {
        let number = pc.bda8(bda::ALT_KEYPAD).wrapping_mul(10).wrapping_add(digit);
        pc.set_bda8(bda::ALT_KEYPAD, number);
        None
    } else {
        KEYS.get(usize::from(code) - 1).map(|key| choose(key, flags))
    };
    if let Some(word) = word.filter(|&word| word != 0) {
        put(pc, word);
    }
}

/// The word of a key under the shift flags; 0 for none.
fn choose(key: &Key, flags: u8) -> u16 {
    if flags & ALT != 0 {
        return key.alt;
    }
    if flags & CTRL != 0 {
        return key.ctrl;
    }
    let lock = match key.lock {
        Lock::No => false,
        Lock::Caps => flags & CAPS_LOCK != 0,
        Lock::Num => flags & NUM_LOCK != 0,
    };
    let shift = flags & (LEFT_SHIFT | RIGHT_SHIFT) != 0;
    if shift != lock { key.shift } else { key.plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_and_locks_choose_the_word() {
        let a = &KEYS[0x1E - 1];
        assert_eq!(choose(a, 0), 0x1E61);
        assert_eq!(choose(a, LEFT_SHIFT), 0x1E41);
        assert_eq!(choose(a, CAPS_LOCK), 0x1E41);
        assert_eq!(choose(a, CAPS_LOCK | RIGHT_SHIFT), 0x1E61);
        assert_eq!(choose(a, CTRL), 0x1E01);
        assert_eq!(choose(a, ALT), 0x1E00);
        let one = &KEYS[1];
        assert_eq!((choose(one, CAPS_LOCK), choose(one, CTRL)), (0x0231, 0));
        let seven = &KEYS[0x47 - 1];
        assert_eq!((choose(seven, 0), choose(seven, NUM_LOCK)), (0x4700, 0x4737));
    }

    #[test]
    fn every_key_stands_at_its_scan_code() {
        for (index, key) in KEYS.iter().enumerate() {
            let scan = (key.plain >> 8) as usize;
            assert!(key.plain == 0 || scan == index + 1 || scan >= 0x85, "{key:x?}");
        }
    }

    #[test]
    fn plain_functions_hide_the_enhanced_keyboard() {
        assert_eq!(plain(0x48E0), Some(0x4800));
        assert_eq!(plain(0xE00D), Some(0x1C0D));
        assert_eq!(plain(0xE02F), Some(0x352F));
        assert_eq!(plain(0x8500), None);
        assert_eq!(plain(0x1E61), Some(0x1E61));
    }
}
