//! The M88E1011 PHY inside the 82540EM, behind MDIC.
//!
//! Contract: software developer's manual section 13.4.6 (MDIC) and the PHY register tables
//! of section 13.5. The link partner is a gigabit full-duplex switch with pause; negotiation takes
//! [`NEGOTIATION_NS`] of virtual time after a reset or restart and always succeeds.

use crate::fixed::Fixed;
use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// How long auto-negotiation takes, in virtual nanoseconds.
pub(super) const NEGOTIATION_NS: u64 = 10_000_000;

const MDIC_OP_WRITE: u32 = 1 << 26;
const MDIC_OP_READ: u32 = 2 << 26;
const MDIC_READY: u32 = 1 << 28;
const MDIC_INTERRUPT: u32 = 1 << 29;
const MDIC_ERROR: u32 = 1 << 30;
/// The PHY's address on the management bus.
const ADDRESS: u32 = 1;

const CONTROL: usize = 0;
const STATUS: usize = 1;
const PARTNER: usize = 5;
const EXPANSION: usize = 6;
const GIGABIT_STATUS: usize = 10;
const SPECIFIC_STATUS: usize = 17;
const INTERRUPT_STATUS: usize = 19;

const RESET: u16 = 1 << 15;
const LOOPBACK: u16 = 1 << 14;
const NEGOTIATE: u16 = 1 << 12;
const POWER_DOWN: u16 = 1 << 11;
const RESTART: u16 = 1 << 9;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;

/// Values after reset and writable bits of the registers.
const REGISTERS: [(u16, u16); 32] = {
    let mut table = [(0, 0); 32];
    table[CONTROL] = (0x1140, 0x7DC0);
    table[STATUS] = (0x7949, 0);
    table[2] = (0x0141, 0);
    table[3] = (0x0C20, 0);
    table[4] = (0x0DE1, 0xBFFF);
    table[7] = (0x2001, 0xB7FF);
    table[9] = (0x0E00, 0xFF00);
    table[15] = (0x3000, 0);
    table[16] = (0x0068, 0xFFFF);
    table[18] = (0x0000, 0xFFFF);
    table[20] = (0x0D60, 0xFFFF);
    table[22] = (0x0000, 0x00FF);
    table[24] = (0x4100, 0xFFFF);
    table[25] = (0x0000, 0xFFFF);
    table[29] = (0x0000, 0xFFFF);
    table[30] = (0x0000, 0xFFFF);
    table
};

/// The PHY and MDIC.
#[derive(Serialize, Deserialize)]
pub(super) struct Phy {
    registers: Fixed<u16, 32>,
    mdic: u32,
    link: bool,
    /// The link was down since the status register was last read.
    link_lost: bool,
    /// When the negotiation under way ends.
    pub(super) negotiated_at: Option<VirtualNs>,
}

impl Phy {
    /// The PHY with its link up, as long after power-on.
    pub(super) fn new() -> Self {
        Self {
            registers: Fixed(REGISTERS.map(|(value, _)| value)),
            mdic: MDIC_READY,
            link: true,
            link_lost: false,
            negotiated_at: None,
        }
    }

    /// Whether there is a link.
    pub(super) fn link(&self) -> bool {
        self.link
    }

    /// Whether what is sent comes back.
    pub(super) fn loops_back(&self) -> bool {
        self.registers[CONTROL] & LOOPBACK != 0
    }

    /// Hardware or software reset: all registers to their defaults, and a new negotiation.
    pub(super) fn reset(&mut self, now: VirtualNs) {
        self.registers = Fixed(REGISTERS.map(|(value, _)| value));
        self.negotiate(now);
    }

    fn negotiate(&mut self, now: VirtualNs) {
        self.drop_link();
        self.negotiated_at = Some(now.after(NEGOTIATION_NS));
    }

    fn drop_link(&mut self) {
        self.link = false;
        self.link_lost = true;
        self.negotiated_at = None;
    }

    /// Ends a negotiation that is due.
    pub(super) fn advance(&mut self, now: VirtualNs) {
        if self.negotiated_at.is_some_and(|at| at <= now) {
            self.negotiated_at = None;
            self.link = true;
            // Negotiation completed, link status changed.
            self.registers[INTERRUPT_STATUS] |= 0x0C00;
        }
    }

    pub(super) fn read_mdic(&self) -> u32 {
        self.mdic
    }

    /// Writes MDIC and says whether the access's end causes an interrupt.
    pub(super) fn write_mdic(&mut self, now: VirtualNs, value: u32) -> bool {
        let register = (value >> 16 & 0x1F) as usize;
        let command = value & !(MDIC_READY | MDIC_ERROR);
        self.mdic = command | MDIC_READY;
        if value >> 21 & 0x1F != ADDRESS {
            self.mdic |= MDIC_ERROR;
        } else if value & (MDIC_OP_READ | MDIC_OP_WRITE) == MDIC_OP_READ {
            self.mdic = self.mdic & !0xFFFF | u32::from(self.read(register));
        } else if value & (MDIC_OP_READ | MDIC_OP_WRITE) == MDIC_OP_WRITE {
            self.write(now, register, value as u16);
        } else {
            self.mdic |= MDIC_ERROR;
        }
        value & MDIC_INTERRUPT != 0
    }

    fn read(&mut self, register: usize) -> u16 {
        let stored = self.registers[register % 32];
        match register {
            STATUS => {
                let up = self.link && !core::mem::replace(&mut self.link_lost, !self.link);
                let link = if up { STATUS_LINK } else { 0 };
                stored | link | if self.link { STATUS_NEGOTIATED } else { 0 }
            }
            PARTNER if self.link => 0xCDE1,
            EXPANSION if self.link => 0x000F,
            GIGABIT_STATUS if self.link => 0x7C00,
            // 1000 Mb/s, full duplex, resolved, link, both pauses.
            SPECIFIC_STATUS => {
                if self.link {
                    0xAC0C
                } else {
                    0x8000
                }
            }
            INTERRUPT_STATUS => core::mem::take(&mut self.registers[INTERRUPT_STATUS]),
            _ => stored,
        }
    }

    fn write(&mut self, now: VirtualNs, register: usize, value: u16) {
        if register == CONTROL && value & RESET != 0 {
            return self.reset(now);
        }
        let (_, mask) = REGISTERS[register % 32];
        let before = self.registers[register % 32];
        self.registers[register % 32] = before & !mask | value & mask;
        if register != CONTROL {
            return;
        }
        if value & POWER_DOWN != 0 {
            self.drop_link();
        } else if value & NEGOTIATE != 0 && value & RESTART != 0
            || (before ^ value) & (NEGOTIATE | POWER_DOWN) != 0
        {
            self.negotiate(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(phy: &mut Phy, register: u32) -> u16 {
        phy.write_mdic(VirtualNs(0), MDIC_OP_READ | ADDRESS << 21 | register << 16);
        assert_eq!(phy.read_mdic() & (MDIC_READY | MDIC_ERROR), MDIC_READY);
        phy.read_mdic() as u16
    }

    fn write(phy: &mut Phy, register: u32, value: u16) {
        let mdic = MDIC_OP_WRITE | ADDRESS << 21 | register << 16 | u32::from(value);
        assert!(phy.write_mdic(VirtualNs(5), mdic | MDIC_INTERRUPT));
    }

    #[test]
    fn identity_and_link() {
        let mut phy = Phy::new();
        assert_eq!((read(&mut phy, 2), read(&mut phy, 3)), (0x0141, 0x0C20));
        assert_eq!(read(&mut phy, 1), 0x796D);
        assert_eq!(read(&mut phy, 17) & 0xEC00, 0xAC00);
    }

    #[test]
    fn restart_drops_the_link_and_latches_it() {
        let mut phy = Phy::new();
        write(&mut phy, 0, 0x1340);
        assert!(!phy.link());
        assert_eq!(read(&mut phy, 1) & 0x24, 0);
        assert_eq!(phy.negotiated_at, Some(VirtualNs(5 + NEGOTIATION_NS)));
        phy.advance(VirtualNs(4 + NEGOTIATION_NS));
        assert!(!phy.link());
        phy.advance(VirtualNs(5 + NEGOTIATION_NS));
        assert!(phy.link());
        assert_eq!(read(&mut phy, 1) & 0x24, 0x20, "latched low");
        assert_eq!(read(&mut phy, 1) & 0x24, 0x24);
        assert_eq!(read(&mut phy, 0), 0x1140, "restart clears itself");
        assert_eq!((read(&mut phy, 19), read(&mut phy, 19)), (0x0C00, 0));
    }

    #[test]
    fn nobody_at_other_addresses() {
        let mut phy = Phy::new();
        phy.write_mdic(VirtualNs(0), MDIC_OP_READ | 2 << 21);
        assert_ne!(phy.read_mdic() & MDIC_ERROR, 0);
    }
}
