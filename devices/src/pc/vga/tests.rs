//! Registers, memory modes and the text screen of the VGA.

use super::*;

const NOW: VirtualNs = VirtualNs(0);

fn set(vga: &mut Vga, port: u16, index: u8, value: u8) {
    vga.write(port, index);
    vga.write(port + 1, value);
}

fn get(vga: &mut Vga, port: u16, index: u8) -> u8 {
    vga.write(port, index);
    vga.read(NOW, port + 1)
}

/// The registers of BIOS mode 3: 80 x 25 characters of 9 x 16 dots.
fn text_mode() -> Vga {
    const CRTC: [u8; CRTC_REGISTERS] = [
        0x5F, 0x4F, 0x50, 0x82, 0x55, 0x81, 0xBF, 0x1F, 0x00, 0x4F, 0x0D, 0x0E, 0x00, 0x00, 0x00,
        0x00, 0x9C, 0x8E, 0x8F, 0x28, 0x1F, 0x96, 0xB9, 0xA3, 0xFF,
    ];
    let mut vga = Vga::default();
    vga.write(0x3C2, 0x67);
    for (index, value) in [3, 0, 3, 0, 2].into_iter().enumerate() {
        set(&mut vga, 0x3C4, index as u8, value);
    }
    for (index, value) in [0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF].into_iter().enumerate() {
        set(&mut vga, 0x3CE, index as u8, value);
    }
    for (index, value) in CRTC.into_iter().enumerate() {
        set(&mut vga, 0x3D4, index as u8, value);
    }
    vga
}

/// 320 x 200 in 256 colours (mode 13h) or planar, as far as memory goes.
fn graphics_mode(chain_4: bool) -> Vga {
    let mut vga = Vga::default();
    vga.write(0x3C2, 0x63);
    set(&mut vga, 0x3C4, 2, 0x0F);
    set(&mut vga, 0x3C4, 4, if chain_4 { 0x0E } else { 0x06 });
    for (index, value) in [0, 0, 0, 0, 0, 0, 5, 0x0F, 0xFF].into_iter().enumerate() {
        set(&mut vga, 0x3CE, index as u8, value);
    }
    vga
}

#[test]
fn register_sets() {
    let mut vga = Vga::default();
    vga.write(0x3C2, 0x67);
    assert_eq!(vga.read(NOW, 0x3CC), 0x67);
    // (index port, index, written, read)
    for (port, index, written, read) in [
        (0x3C4, 2, 0xFF, 0x0F),
        (0x3C4, 7, 0xFF, 0x00),
        (0x3CE, 8, 0xA5, 0xA5),
        (0x3CE, 5, 0xFF, 0x7B),
        (0x3CE, 15, 0xFF, 0x00),
        (0x3D4, 0x0F, 0x5A, 0x5A),
        (0x3D4, 0x30, 0x5A, 0x00),
    ] {
        set(&mut vga, port, index, written);
        assert_eq!(get(&mut vga, port, index), read, "{port:X} {index:X}");
    }
    assert_eq!(vga.read(NOW, 0x3B5), 0xFF, "colour: nothing at 3Bx");
    set(&mut vga, 0x3D4, 0x11, 0x80);
    set(&mut vga, 0x3D4, 0x01, 0x22);
    set(&mut vga, 0x3D4, 0x07, 0xFF);
    assert_eq!((get(&mut vga, 0x3D4, 1), get(&mut vga, 0x3D4, 7)), (0, 0x10));
    set(&mut vga, 0x3D4, 0x11, 0x00);
    set(&mut vga, 0x3D4, 0x01, 0x22);
    assert_eq!(get(&mut vga, 0x3D4, 1), 0x22);
}

#[test]
fn attribute_flip_flop_and_dac() {
    let mut vga = text_mode();
    vga.read(NOW, 0x3DA);
    for value in [0x01, 0x3F, 0x10, 0x0C, 0x20] {
        vga.write(0x3C0, value);
    }
    assert_eq!(vga.read(NOW, 0x3C0), 0x20);
    vga.read(NOW, 0x3DA);
    vga.write(0x3C0, 0x21);
    assert_eq!(vga.read(NOW, 0x3C1), 0x3F);
    vga.write(0x3C0, 0x07);
    assert_eq!(vga.read(NOW, 0x3C1), 0x3F, "the palette is on the screen");
    vga.write(0x3C0, 0x30);
    assert_eq!(vga.read(NOW, 0x3C1), 0x0C);
    vga.write(0x3C8, 254);
    for value in 0..9 {
        vga.write(0x3C9, value | 0x40);
    }
    assert_eq!((vga.read(NOW, 0x3C7), vga.read(NOW, 0x3C8)), (0, 1));
    vga.write(0x3C7, 255);
    let read: alloc::vec::Vec<u8> = (0..6).map(|_| vga.read(NOW, 0x3C9)).collect();
    assert_eq!(read, [3, 4, 5, 6, 7, 8]);
    assert_eq!(vga.read(NOW, 0x3C7), 3);
}

#[test]
fn text_screen_follows_memory_start_and_cursor() {
    let mut vga = text_mode();
    for (n, byte) in b"H\x07i\x1F".iter().enumerate() {
        vga.write_memory(0xB_8000 + 162 + n as u64, *byte);
    }
    assert_eq!(vga.read_memory(0xB_80A2), b'H');
    assert_eq!(vga.read_memory(0xB_80A5), 0x1F);
    assert_eq!(vga.read_memory(0xA_0000), 0xFF, "outside of the map");
    set(&mut vga, 0x3D4, 0x0F, 83);
    let screen = vga.text_screen().expect("text");
    assert_eq!((screen.columns, screen.cells.len(), screen.cursor), (80, 2000, Some((3, 1))));
    assert_eq!(screen.lines()[1], " Hi");
    assert_eq!(screen.cells[82], Cell { character: b'i', attribute: 0x1F });
    set(&mut vga, 0x3D4, 0x0D, 80);
    let screen = vga.text_screen().expect("text");
    assert_eq!((screen.lines()[0].as_str(), screen.cursor), (" Hi", Some((3, 0))));
    set(&mut vga, 0x3D4, 0x0A, 0x2D);
    assert_eq!(vga.text_screen().expect("text").cursor, None);
    set(&mut vga, 0x3CE, 6, 5);
    assert_eq!(vga.text_screen(), None);
}

#[test]
fn mode_13h_is_linear() {
    let mut vga = graphics_mode(true);
    for at in 0..64_000 {
        vga.write_memory(0xA_0000 + at, (at * 7) as u8);
    }
    assert!((0..64_000).all(|at| vga.read_memory(0xA_0000 + at) == (at * 7) as u8));
    // The same memory seen planar.
    set(&mut vga, 0x3C4, 4, 0x06);
    set(&mut vga, 0x3CE, 4, 2);
    assert_eq!(vga.read_memory(0xA_0000 + 400), (402_u64 * 7) as u8);
}

#[test]
fn planar_write_modes() {
    // (graphics registers, latches, value, planes afterwards)
    for (registers, latch, value, expected) in [
        (&[][..], [1, 2, 3, 4], 0x5A, [0x5A; 4]),
        (&[(3, 0x04)], [0; 4], 0x5A, [0xA5; 4]),
        (&[(0, 0x05), (1, 0x0F)], [0; 4], 0x12, [0xFF, 0, 0xFF, 0]),
        (&[(0, 0x05), (1, 0x03)], [0; 4], 0x12, [0xFF, 0, 0x12, 0x12]),
        (&[(8, 0x0F)], [0xA0, 0xB0, 0xC0, 0xD0], 0x35, [0xA5, 0xB5, 0xC5, 0xD5]),
        (&[(3, 0x08)], [0xF0, 0x0F, 0xFF, 0], 0x3C, [0x30, 0x0C, 0x3C, 0]),
        (&[(3, 0x10)], [0xF0, 0x0F, 0xFF, 0], 0x3C, [0xFC, 0x3F, 0xFF, 0x3C]),
        (&[(3, 0x18)], [0xF0, 0x0F, 0xFF, 0], 0x3C, [0xCC, 0x33, 0xC3, 0x3C]),
        (&[(5, 1)], [1, 2, 3, 4], 0x5A, [1, 2, 3, 4]),
        (&[(5, 2), (8, 0x81)], [0xFF, 0, 0xFF, 0], 0x0C, [0x7E, 0, 0xFF, 0x81]),
        (&[(5, 3), (0, 0x09), (8, 0x3C)], [0, 0, 0xFF, 0xFF], 0xF0, [0x30, 0, 0xCF, 0xFF]),
    ] {
        let mut vga = graphics_mode(false);
        for &(index, value) in registers {
            set(&mut vga, 0x3CE, index, value);
        }
        vga.memory[40..44].copy_from_slice(&latch);
        vga.read_memory(0xA_000A);
        vga.write_memory(0xA_000B, value);
        assert_eq!(vga.memory[44..48], expected, "{registers:X?}");
        set(&mut vga, 0x3C4, 2, 0x02);
        set(&mut vga, 0x3CE, 5, 0);
        set(&mut vga, 0x3CE, 8, 0xFF);
        set(&mut vga, 0x3CE, 3, 0);
        set(&mut vga, 0x3CE, 1, 0);
        vga.write_memory(0xA_000B, 0x77);
        assert_eq!(vga.memory[44..48], [expected[0], 0x77, expected[2], expected[3]]);
    }
}

#[test]
fn read_mode_1_compares_colours() {
    let mut vga = graphics_mode(false);
    vga.memory[0..4].copy_from_slice(&[0b1100, 0b1010, 0, 0xFF]);
    for (color, care, expected) in [
        (0b1011, 0b1111, 0b0000_1000),
        (0b1011, 0b0011, 0b0000_1000),
        (0b0001, 0b0011, 0b0000_0100),
        (0b0000, 0b0011, 0b1111_0001),
        (0b0000, 0b1000, 0),
        (0b0000, 0b0000, 0xFF),
    ] {
        set(&mut vga, 0x3CE, 5, 0x08);
        set(&mut vga, 0x3CE, 2, color);
        set(&mut vga, 0x3CE, 7, care);
        assert_eq!(vga.read_memory(0xA_0000), expected, "{color:b} {care:b}");
    }
}

#[test]
fn retrace_comes_seventy_times_a_second() {
    let mut vga = text_mode();
    let (mut retraces, mut before) = (0, 0);
    for at in 0..100_000 {
        let status = vga.read(VirtualNs(at * 10_000), 0x3DA);
        assert!(status & 8 == 0 || status & 1 != 0);
        retraces += u32::from(before & 8 == 0 && status & 8 != 0);
        before = status;
    }
    assert_eq!(retraces, 70);
}

#[test]
fn code_page_437() {
    let char_of = |character| Cell { character, attribute: 7 }.to_char();
    for (code, character) in [
        (0x00, ' '),
        (0x01, '☺'),
        (0x1F, '▼'),
        (0x41, 'A'),
        (0x7F, '⌂'),
        (0x80, 'Ç'),
        (0x9F, 'ƒ'),
        (0xA0, 'á'),
        (0xB3, '│'),
        (0xC4, '─'),
        (0xDA, '┌'),
        (0xDB, '█'),
        (0xE1, 'ß'),
        (0xF8, '°'),
        (0xFE, '■'),
        (0xFF, '\u{A0}'),
    ] {
        assert_eq!(char_of(code), character, "{code:02X}");
    }
}
