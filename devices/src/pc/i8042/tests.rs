//! Controller, keyboard and mouse through ports 60h and 64h.

use super::*;
use alloc::vec::Vec;

struct Host(I8042);

impl Host {
    /// Both ports on, no translation.
    fn new() -> Self {
        let mut host = Self(I8042::default());
        host.command(0x60);
        host.data(0x03);
        host
    }

    fn command(&mut self, value: u8) {
        self.0.write(0x64, value);
        self.0.load();
    }

    fn data(&mut self, value: u8) {
        self.0.write(0x60, value);
        self.0.load();
    }

    fn mouse(&mut self, value: u8) {
        self.command(0xD4);
        self.data(value);
    }

    /// All bytes that come, and whether they are the mouse's.
    fn drain(&mut self) -> Vec<(u8, bool)> {
        let mut got = Vec::new();
        while self.0.read(0x64) & 1 != 0 {
            let from_mouse = self.0.read(0x64) & 0x20 != 0;
            assert_eq!(self.0.mouse_irq(), from_mouse);
            assert_eq!(self.0.keyboard_irq(), !from_mouse);
            got.push((self.0.read(0x60), from_mouse));
            self.0.load();
        }
        got
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.drain().into_iter().map(|(byte, _)| byte).collect()
    }
}

#[test]
fn controller_commands() {
    // (command, parameter, bytes that come)
    for (command, parameter, expected) in [
        (0xAA, None, &[0x55][..]),
        (0xAB, None, &[0x00]),
        (0xA9, None, &[0x00]),
        (0xA4, None, &[0xF1]),
        (0x20, None, &[0x03]),
        (0x21, None, &[0x00]),
        (0xC0, None, &[0xF0]),
        (0xD0, None, &[0xC3]),
        (0xE0, None, &[0x03]),
        (0xD2, Some(0x1C), &[0x1C]),
        (0xD3, Some(0x5A), &[0x5A]),
        (0xA0, None, &[]),
    ] {
        let mut host = Host::new();
        host.command(command);
        assert!(host.0.read(0x64) & 0x08 != 0);
        if let Some(parameter) = parameter {
            host.data(parameter);
        }
        assert_eq!(host.bytes(), expected, "{command:02X}");
        assert_eq!(host.0.read(0x64) & 0x01, 0);
    }
    let mut host = Host::new();
    host.command(0xD3);
    host.data(0x5A);
    assert_eq!(host.drain(), [(0x5A, true)]);
    host.command(0xAA);
    assert_eq!(host.0.read(0x64), 0x1D, "system flag, command, output full");
}

#[test]
fn a20_and_reset() {
    let mut host = Host::new();
    assert!(host.0.a20());
    for (value, a20) in [(0xDD, false), (0xDF, true)] {
        host.command(value);
        assert_eq!(host.0.a20(), a20);
    }
    host.command(0xD1);
    host.data(0x01);
    assert!(!host.0.a20() && !host.0.take_reset());
    host.command(0xFF);
    assert!(!host.0.take_reset());
    host.command(0xFE);
    assert!(host.0.take_reset() && !host.0.take_reset());
    host.command(0xD1);
    host.data(0x02);
    assert!(host.0.a20() && host.0.take_reset());
}

#[test]
fn keyboard_commands() {
    // (bytes to the keyboard, bytes that come)
    for (sent, expected) in [
        (&[0xFF][..], &[0xFA, 0xAA][..]),
        (&[0xF2], &[0xFA, 0xAB, 0x83]),
        (&[0xEE], &[0xEE]),
        (&[0xED, 0x07], &[0xFA, 0xFA]),
        (&[0xF3, 0x20], &[0xFA, 0xFA]),
        (&[0xF0, 0x00], &[0xFA, 0xFA, 0x02]),
        (&[0xF0, 0x01, 0xF0, 0x00], &[0xFA, 0xFA, 0xFA, 0xFA, 0x01]),
        (&[0xF0, 0x03], &[0xFA, 0xFE]),
        (&[0xEE, 0xFE], &[0xEE, 0xEE]),
        (&[0x12], &[0xFE]),
        (&[0xED, 0xF4], &[0xFA, 0xFA]),
    ] {
        let mut host = Host::new();
        let mut got = Vec::new();
        for &byte in sent {
            host.data(byte);
            got.extend(host.bytes());
        }
        assert_eq!(got, expected, "{sent:02X?}");
    }
}

#[test]
fn keys_are_translated() {
    // (set 2, set 1): a, right control, pause, F7, F11
    for (set_2, set_1) in [
        (&[0x1C, 0xF0, 0x1C][..], &[0x1E, 0x9E][..]),
        (&[0xE0, 0x14, 0xE0, 0xF0, 0x14], &[0xE0, 0x1D, 0xE0, 0x9D]),
        (&[0xE1, 0x14, 0x77, 0xE1, 0xF0, 0x14, 0xF0, 0x77], &[0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]),
        (&[0x83, 0xF0, 0x83], &[0x41, 0xC1]),
        (&[0x78, 0xF0, 0x78], &[0x57, 0xD7]),
    ] {
        for (ccb, set, expected) in [(0x03, 2, set_2), (0x43, 2, set_1), (0x03, 1, set_1)] {
            let mut host = Host::new();
            host.data(0xF0);
            host.data(set);
            host.command(0x60);
            host.data(ccb);
            host.bytes();
            host.0.keys(set_2);
            host.0.load();
            assert_eq!(host.bytes(), expected, "{ccb:02X} {set}");
        }
    }
    let mut host = Host::new();
    host.command(0x60);
    host.data(0x43);
    host.data(0xF2);
    assert_eq!(host.bytes(), [0xFA, 0xAB, 0x41]);
    host.data(0xF5);
    host.bytes();
    host.0.keys(&[0x1C]);
    host.0.load();
    assert_eq!(host.bytes(), [], "scanning is off");
    host.data(0xF4);
    host.bytes();
    host.command(0xAD);
    host.0.keys(&[0x1C]);
    host.0.load();
    assert_eq!(host.bytes(), [], "the port is off");
    host.command(0xAE);
    assert_eq!(host.bytes(), [0x1E]);
}

#[test]
fn mouse_commands() {
    for (sent, expected) in [
        (&[0xFF][..], &[0xFA, 0xAA, 0x00][..]),
        (&[0xF2], &[0xFA, 0x00]),
        (&[0xE9], &[0xFA, 0x00, 0x02, 100]),
        (
            &[0xE8, 3, 0xF3, 200, 0xE7, 0xF4, 0xE9],
            &[0xFA, 0xFA, 0xFA, 0xFA, 0xFA, 0xFA, 0xFA, 0x30, 3, 200],
        ),
        (&[0xEE, 0x12, 0xF2, 0xEC, 0xF2], &[0xFA, 0x12, 0xF2, 0xFA, 0xFA, 0x00]),
        (&[0xF0, 0xEB], &[0xFA, 0xFA, 0x08, 0, 0]),
        (&[0x12], &[0xFE]),
    ] {
        let mut host = Host::new();
        let mut got = Vec::new();
        for &byte in sent {
            host.mouse(byte);
            got.extend(host.drain());
        }
        assert!(got.iter().all(|&(_, from_mouse)| from_mouse));
        let got: Vec<u8> = got.into_iter().map(|(byte, _)| byte).collect();
        assert_eq!(got, expected, "{sent:02X?}");
    }
}

#[test]
fn mouse_packets() {
    let mut host = Host::new();
    host.0.pointer(5, 5, 0);
    host.0.load();
    assert_eq!(host.bytes(), []);
    host.mouse(0xF4);
    assert_eq!(host.bytes(), [0xFA]);
    for (dx, dy, buttons, expected) in [
        (5, -3, 1, &[0x29, 5, 0xFD][..]),
        (0, 0, 1, &[]),
        (0, 0, 6, &[0x0E, 0, 0]),
        (-300, 0, 0, &[0x18, 1, 0, 0x18, 0xD3, 0]),
    ] {
        host.0.pointer(dx, dy, buttons);
        host.0.load();
        assert_eq!(host.bytes(), expected, "{dx} {dy} {buttons}");
    }
    host.mouse(0xE7);
    host.bytes();
    host.0.pointer(4, -200, 0);
    host.0.load();
    assert_eq!(host.bytes(), [0xA8, 6, 0x70]);
}

#[test]
fn buffers_are_bounded() {
    let mut host = Host::new();
    host.command(0xAD);
    for _ in 0..100 {
        host.0.keys(&[0x1C; 100]);
        host.0.pointer(i16::MAX, i16::MIN, 7);
    }
    host.command(0xAE);
    let got = host.bytes();
    assert_eq!((got.len(), got.last()), (1024, Some(&0)));
}
