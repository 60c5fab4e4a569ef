//! The real-time clock (MC146818A): date and time of day.

use crate::cpu::{in8, out8};
use core::fmt;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0A;
const STATUS_B: u8 = 0x0B;
/// The century's place in the CMOS of a PC with the usual FADT.
const CENTURY: u8 = 0x32;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;

/// A date and time; shown as ISO 8601.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DateTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

fn read(register: u8) -> u8 {
    out8(INDEX, register);
    in8(DATA)
}

/// Registers 0, 2, 4, 7, 8, 9 and the century, read outside an update.
fn read_registers() -> [u8; 7] {
    for _ in 0..100_000 {
        if read(STATUS_A) & UPDATE_IN_PROGRESS == 0 {
            break;
        }
    }
    [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, CENTURY].map(read)
}

/// The current date and time: two equal readings in a row, so that no update came between.
pub fn now() -> DateTime {
    let mut registers = read_registers();
    for _ in 0..10 {
        let again = read_registers();
        if again == registers {
            break;
        }
        registers = again;
    }
    decode(registers, read(STATUS_B))
}

fn decode(registers: [u8; 7], status_b: u8) -> DateTime {
    let number = |value: u8| {
        if status_b & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0x0F) }
    };
    let [second, minute, raw_hour, day, month, year, century] = registers;
    let hour = if status_b & HOURS_24 != 0 {
        number(raw_hour)
    } else {
        number(raw_hour & 0x7F) % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 }
    };
    let century = match number(century) {
        century @ 19..=21 => u16::from(century),
        _ => 20,
    };
    DateTime {
        year: century * 100 + u16::from(number(year)),
        month: number(month),
        day: number(day),
        hour,
        minute: number(minute),
        second: number(second),
    }
}
