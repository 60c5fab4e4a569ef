//! Two cascaded 8259A interrupt controllers with the edge/level registers of the PIIX.
//!
//! Contract: inputs are levels set by [`Pic8259::set_line`]; the output to the CPU is
//! [`Pic8259::intr`]. As on the 8259A, an edge-triggered request that is withdrawn before it is
//! acknowledged is forgotten. LTIM of ICW1 has no effect: the PIIX replaces it by ELCR (82371AB
//! 4.2.2).

use serde::{Deserialize, Serialize};

/// Where the initialization sequence stands: which ICW the next write to the odd port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    Done,
    Icw2,
    Icw3,
    Icw4,
}

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    init: Init,
    single: bool,
    has_icw4: bool,
    /// ICW2: bits 7:3 of the vectors.
    base: u8,
    auto_eoi: bool,
    special_fully_nested: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    poll: bool,
    read_isr: bool,
    imr: u8,
    irr: u8,
    isr: u8,
    /// Levels at the inputs.
    lines: u8,
    /// ELCR: inputs that are level-triggered.
    level: u8,
    /// The input with the lowest priority; the next one (cyclically) has the highest.
    lowest: u8,
}

/// Inputs of the master and the slave that ELCR may set to level (82371AB 4.2.6).
const ELCR_MASK: [u8; 2] = [0xF8, 0xDE];

impl Chip {
    fn new() -> Self {
        Self {
            init: Init::Done,
            single: false,
            has_icw4: false,
            base: 0,
            auto_eoi: false,
            special_fully_nested: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            poll: false,
            read_isr: false,
            imr: 0xFF,
            irr: 0,
            isr: 0,
            lines: 0,
            level: 0,
            lowest: 7,
        }
    }

    /// How far `mask`'s most urgent input is from the most urgent of all; 8 for none.
    fn rank(&self, mask: u8) -> u8 {
        mask.rotate_right(u32::from(self.lowest + 1) & 7).trailing_zeros() as u8
    }

    fn input_at(&self, rank: u8) -> u8 {
        (self.lowest + 1 + rank) & 7
    }

    /// The input whose request is to be served, if any. `cascade` marks the input with a slave.
    fn request(&self, cascade: u8) -> Option<u8> {
        let wanted = self.rank(self.irr & !self.imr);
        if wanted == 8 {
            return None;
        }
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if self.special_fully_nested {
            // The slave itself knows which of its requests may interrupt which (8259A, Special
            // Fully Nested Mode).
            blocking &= !cascade;
        }
        (wanted < self.rank(blocking)).then(|| self.input_at(wanted))
    }

    fn set_line(&mut self, input: u8, high: bool) {
        let bit = 1 << input;
        if !high {
            self.irr &= !bit;
            self.lines &= !bit;
        } else if self.lines & bit == 0 {
            self.irr |= bit;
            self.lines |= bit;
        }
    }

    /// The acknowledge cycle for `input`.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1 << input;
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    fn write_even(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.write_icw1(value);
        } else if value & 0x08 != 0 {
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
            self.poll = value & 0x04 != 0;
            if value & 0x02 != 0 {
                self.read_isr = value & 0x01 != 0;
            }
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_icw1(&mut self, value: u8) {
        let (lines, level) = (self.lines, self.level);
        *self = Self::new();
        self.lines = lines;
        self.level = level;
        self.imr = 0;
        self.irr = lines & level;
        self.init = Init::Icw2;
        self.single = value & 0x02 != 0;
        self.has_icw4 = value & 0x01 != 0;
    }

    fn write_ocw2(&mut self, value: u8) {
        let input = value & 7;
        let bit = match value >> 5 {
            0b001 | 0b101 => {
                let mut candidates = self.isr;
                if self.special_mask {
                    candidates &= !self.imr;
                }
                let rank = self.rank(candidates);
                if rank == 8 {
                    return;
                }
                self.input_at(rank)
            }
            _ => input,
        };
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 | 0b011 => self.isr &= !(1 << bit),
            0b101 | 0b111 => {
                self.isr &= !(1 << bit);
                self.lowest = bit;
            }
            0b110 => self.lowest = input,
            _ => {}
        }
    }

    fn write_odd(&mut self, value: u8) {
        let after_icw3 = if self.has_icw4 { Init::Icw4 } else { Init::Done };
        self.init = match self.init {
            Init::Done => {
                self.imr = value;
                Init::Done
            }
            Init::Icw2 => {
                self.base = value & 0xF8;
                if self.single { after_icw3 } else { Init::Icw3 }
            }
            // Who is a slave of whom is wired on the board.
            Init::Icw3 => after_icw3,
            Init::Icw4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                Init::Done
            }
        };
    }

    fn read(&mut self, odd: bool, cascade: u8) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.request(cascade) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (odd, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    fn set_level(&mut self, level: u8) {
        self.level = level;
        self.irr = (self.irr & !level) | (self.lines & level);
    }
}

/// The pair: master at ports 20h/21h, slave on its input 2 at A0h/A1h, ELCR at 4D0h/4D1h.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic8259 {
    master: Chip,
    slave: Chip,
    intr: bool,
}

const CASCADE: u8 = 2;

impl Default for Pic8259 {
    fn default() -> Self {
        Self { master: Chip::new(), slave: Chip::new(), intr: false }
    }
}

impl Pic8259 {
    fn update(&mut self) {
        self.master.set_line(CASCADE, self.slave.request(0).is_some());
        self.intr = self.master.request(1 << CASCADE).is_some();
    }

    /// Sets the level of ISA interrupt line `irq` (0-15; 2 is the cascade and ignored).
    pub fn set_line(&mut self, irq: u8, high: bool) {
        match irq {
            0..8 if irq != CASCADE => self.master.set_line(irq, high),
            8..16 => self.slave.set_line(irq - 8, high),
            _ => return,
        }
        self.update();
    }

    /// The INT output to the CPU.
    #[inline(always)]
    pub fn intr(&self) -> bool {
        self.intr
    }

    /// Whether a rising edge on master input `irq` (0-7) can be seen at once by the CPU.
    #[inline]
    pub fn unmasked(&self, irq: u8) -> bool {
        self.master.imr & (1 << irq) == 0
    }

    /// Whether master input `irq` (0-7) has a request latched.
    pub fn requested(&self, irq: u8) -> bool {
        self.master.irr & (1 << irq) != 0
    }

    /// The interrupt-acknowledge cycle: the vector, or `None` when nothing is requested. A request
    /// that the slave has withdrawn gives the slave's vector 7 (8259A, Default IR7).
    pub fn acknowledge(&mut self) -> Option<u8> {
        let input = self.master.request(1 << CASCADE)?;
        self.master.acknowledge(input);
        let vector = if input == CASCADE {
            let vector = match self.slave.request(0) {
                Some(input) => {
                    self.slave.acknowledge(input);
                    self.slave.base | input
                }
                None => self.slave.base | 7,
            };
            // INT falls during the acknowledge cycle, so that a next request is a new edge.
            self.master.set_line(CASCADE, false);
            vector
        } else {
            self.master.base | input
        };
        self.update();
        Some(vector)
    }

    /// Reads port 20h, 21h, A0h, A1h, 4D0h or 4D1h.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 => self.master.read(port & 1 != 0, 1 << CASCADE),
            0xA0 | 0xA1 => self.slave.read(port & 1 != 0, 0),
            0x4D0 => self.master.level,
            0x4D1 => self.slave.level,
            _ => 0xFF,
        };
        self.update();
        value
    }

    /// Writes the same ports.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.master.write_even(value),
            0x21 => self.master.write_odd(value),
            0xA0 => self.slave.write_even(value),
            0xA1 => self.slave.write_odd(value),
            0x4D0 => self.master.set_level(value & ELCR_MASK[0]),
            0x4D1 => self.slave.set_level(value & ELCR_MASK[1]),
            _ => {}
        }
        self.update();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base vectors 20h and 28h, everything unmasked.
    fn pair(icw4: u8) -> Pic8259 {
        let mut pic = Pic8259::default();
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, icw4), (0x21, 0)] {
            pic.write(port, value);
        }
        for (port, value) in [(0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, icw4 & 3), (0xA1, 0)] {
            pic.write(port, value);
        }
        pic
    }

    fn pulse(pic: &mut Pic8259, irq: u8) {
        pic.set_line(irq, false);
        pic.set_line(irq, true);
    }

    #[test]
    fn fixed_priority_nests() {
        let mut pic = pair(1);
        pulse(&mut pic, 4);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x21));
        assert!(!pic.intr(), "4 waits for 1");
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), Some(0x20));
        pic.write(0x20, 0x20);
        assert!(!pic.intr());
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x24));
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x10);
        pic.write(0x20, 0x64);
        assert_eq!(pic.read(0x20), 0);
        pic.write(0x20, 0x0A);
        assert_eq!(pic.read(0x20), 0, "edges are gone from IRR");
    }

    #[test]
    fn slave_goes_through_input_2() {
        let mut pic = pair(1);
        pulse(&mut pic, 14);
        pulse(&mut pic, 8);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x28));
        assert!(!pic.intr());
        pic.write(0xA0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), Some(0x2E));
        pic.write(0xA0, 0x66);
        pic.write(0x20, 0x62);
        assert_eq!(pic.acknowledge(), Some(0x23));
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        for (icw4, nests) in [(0x01, false), (0x11, true)] {
            let mut pic = pair(icw4);
            pulse(&mut pic, 12);
            assert_eq!(pic.acknowledge(), Some(0x2C));
            pulse(&mut pic, 9);
            assert_eq!(pic.intr(), nests);
        }
    }

    #[test]
    fn automatic_eoi_leaves_nothing_in_service() {
        let mut pic = pair(3);
        for (irq, vector) in [(6, 0x26), (6, 0x26), (11, 0x2B), (10, 0x2A)] {
            pulse(&mut pic, irq);
            assert_eq!(pic.acknowledge(), Some(vector));
        }
        pulse(&mut pic, 10);
        pulse(&mut pic, 11);
        assert_eq!(pic.acknowledge(), Some(0x2A));
        assert_eq!(pic.acknowledge(), Some(0x2B), "the slave's INT pulses between");
        assert_eq!(pic.acknowledge(), None);
    }

    #[test]
    fn rotation() {
        // (OCW2 after serving input 3, requests then served in this order)
        for (ocw2, order) in
            [(0xA0, [4, 5, 0, 3]), (0xE5, [0, 3, 4, 5]), (0xC4, [5, 0, 3, 4]), (0x20, [0, 3, 4, 5])]
        {
            let mut pic = pair(1);
            pulse(&mut pic, 3);
            assert_eq!(pic.acknowledge(), Some(0x23));
            pic.write(0x20, ocw2);
            pic.write(0x20, 0x63);
            for irq in [0, 3, 4, 5] {
                pulse(&mut pic, irq);
            }
            for irq in order {
                assert_eq!(pic.acknowledge(), Some(0x20 | irq), "OCW2 {ocw2:02X}");
                pic.write(0x20, 0x60 | irq);
            }
        }
        let mut pic = pair(3);
        pic.write(0x20, 0x80);
        pulse(&mut pic, 0);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x20));
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), Some(0x21), "0 is last after its automatic EOI");
        pic.write(0x20, 0x00);
        assert_eq!(pic.acknowledge(), Some(0x20));
    }

    #[test]
    fn special_mask_mode_admits_lower_priorities() {
        let mut pic = pair(1);
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x21));
        pulse(&mut pic, 5);
        pic.write(0x21, 0x02);
        assert!(!pic.intr());
        pic.write(0x20, 0x68);
        assert_eq!(pic.acknowledge(), Some(0x25));
        pic.write(0x20, 0x20);
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x02, "EOI passes over the masked input");
        pic.write(0x20, 0x48);
        pulse(&mut pic, 6);
        assert!(!pic.intr());
    }

    #[test]
    fn poll_acknowledges() {
        let mut pic = pair(1);
        pic.write(0x20, 0x0C);
        assert_eq!(pic.read(0x20), 0);
        pulse(&mut pic, 5);
        pic.write(0x20, 0x0C);
        assert_eq!(pic.read(0x20), 0x85);
        pic.write(0x20, 0x0B);
        assert_eq!(pic.read(0x20), 0x20);
        assert!(!pic.intr());
    }

    #[test]
    fn level_inputs_request_until_they_fall() {
        let mut pic = pair(1);
        pic.write(0x4D0, 0xFF);
        pic.write(0x4D1, 0xFF);
        assert_eq!((pic.read(0x4D0), pic.read(0x4D1)), (0xF8, 0xDE));
        pic.set_line(10, true);
        for _ in 0..2 {
            assert_eq!(pic.acknowledge(), Some(0x2A));
            pic.write(0xA0, 0x20);
            pic.write(0x20, 0x20);
        }
        pic.set_line(10, false);
        assert!(!pic.intr());
        pulse(&mut pic, 1);
        assert_eq!(pic.acknowledge(), Some(0x21));
        pic.write(0x20, 0x20);
        assert!(!pic.intr(), "edge input: once");
    }

    #[test]
    fn masks_and_withdrawn_requests() {
        let mut pic = pair(1);
        pic.write(0x21, 0x08);
        pulse(&mut pic, 3);
        assert!(!pic.intr() && pic.requested(3) && !pic.unmasked(3));
        pic.write(0x21, 0);
        assert!(pic.intr());
        pic.set_line(3, false);
        assert!(!pic.intr());
        pulse(&mut pic, 3);
        pic.write(0x20, 0x11);
        pic.write(0x21, 0x40);
        pic.write(0x21, 4);
        pic.write(0x21, 1);
        assert!(!pic.intr(), "ICW1 forgets edges");
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), Some(0x43));
    }
}
