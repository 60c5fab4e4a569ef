//! The power management registers of the 82371AB (PIIX4) function 3, and the APM ports B2h/B3h.
//!
//! Contract: offsets are within the I/O space that PMBASE places; PCI is the board's. There is no
//! system-management mode: a write of [`ACPI_ENABLE`] to B2h sets SCI_EN at once, as firmware's SMI
//! handler would.

use crate::time::VirtualNs;
use serde::{Deserialize, Serialize};

/// Clock of the power management timer.
pub const TIMER_HZ: u64 = 3_579_545;
/// FADT SMI_CMD: the port to which ACPI_ENABLE is written.
pub const SMI_COMMAND_PORT: u16 = 0xB2;
/// FADT ACPI_ENABLE.
pub const ACPI_ENABLE: u8 = 0xF1;
/// FADT ACPI_DISABLE.
pub const ACPI_DISABLE: u8 = 0xF0;
/// SLP_TYP of soft-off (S5), for the DSDT.
pub const SLEEP_TYPE_OFF: u8 = 0;
/// Where firmware is expected to put the registers.
pub const DEFAULT_BASE: u16 = 0xB000;
/// Size of the register space.
pub const SIZE: u16 = 0x40;

/// PMSTS: bits that are cleared by writing one.
const STS_TIMER: u16 = 1 << 0;
const STS_GLOBAL: u16 = 1 << 5;
const STS_POWER_BUTTON: u16 = 1 << 8;
const STS_RTC: u16 = 1 << 10;
const STS_RESUME: u16 = 1 << 15;
/// PMEN: bits that can be written.
const EN_MASK: u16 = STS_TIMER | STS_GLOBAL | STS_POWER_BUTTON | STS_RTC;
const STS_MASK: u16 = EN_MASK | STS_RESUME;
/// PMCNTRL.
const SCI_EN: u16 = 1 << 0;
const CONTROL_MASK: u16 = 0x1C03;
const SUSPEND_ENABLE: u16 = 1 << 13;
/// GPSTS and GPEN: USB, LID, RI, thermal and the like, none of which has a source here.
const GP_MASK: u16 = 0x0F01;
/// The timer has 24 bits; TMROF_STS is set whenever the highest changes (ACPI 4.8.3.3).
const TIMER_MASK: u64 = (1 << 24) - 1;
const TIMER_HALF: u64 = 1 << 23;

/// Offsets of registers.
const PMSTS: u16 = 0x00;
const PMEN: u16 = 0x02;
const PMCNTRL: u16 = 0x04;
const PMTMR: u16 = 0x08;
const GPSTS: u16 = 0x0C;
const GPEN: u16 = 0x0E;
const GLBCTL: u16 = 0x28;
/// From here on the registers only keep what is written.
const STORED: u16 = 0x10;

/// The power management function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    gp_enable: u16,
    /// PMTMR has been looked at for overflow up to this tick.
    timer_seen: u64,
    /// Registers 10h-2Fh: processor, global and device control.
    stored: [u8; 32],
    /// General purpose outputs.
    gpo: [u8; 4],
    apm_command: u8,
    apm_status: u8,
    power_off: bool,
}

impl Default for AcpiPm {
    fn default() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            gp_enable: 0,
            timer_seen: 0,
            stored: [0; 32],
            gpo: [0xFF, 0xBF, 0xFF, 0x7F],
            apm_command: 0,
            apm_status: 0,
            power_off: false,
        }
    }
}

impl AcpiPm {
    /// Hard reset at `now`.
    pub fn reset(&mut self, now: VirtualNs) {
        *self = Self { timer_seen: now.ticks(TIMER_HZ), ..Self::default() };
    }

    fn look_at_timer(&mut self, now: VirtualNs) {
        let tick = now.ticks(TIMER_HZ);
        if tick / TIMER_HALF != self.timer_seen / TIMER_HALF {
            self.status |= STS_TIMER;
        }
        self.timer_seen = tick;
    }

    /// The system control interrupt: level, IRQ 9.
    #[inline]
    pub fn sci(&self) -> bool {
        self.control & SCI_EN != 0 && self.status & self.enable != 0
    }

    /// When the timer's overflow raises SCI.
    #[inline]
    pub fn deadline(&self) -> Option<VirtualNs> {
        let waits = self.control & SCI_EN != 0
            && self.enable & STS_TIMER != 0
            && self.status & STS_TIMER == 0;
        let next = (self.timer_seen / TIMER_HALF + 1) * TIMER_HALF;
        waits.then(|| VirtualNs::of_tick(next, TIMER_HZ))
    }

    /// Notices the overflow that is due; otherwise does nothing.
    pub fn advance(&mut self, now: VirtualNs) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.look_at_timer(now);
        }
    }

    /// Somebody pressed the power button.
    pub fn press_power_button(&mut self) {
        self.status |= STS_POWER_BUTTON;
    }

    /// The RTC asserted IRQ 8.
    pub fn rtc_alarm(&mut self) {
        self.status |= STS_RTC;
    }

    /// Takes the guest's request for soft-off.
    pub fn take_power_off(&mut self) -> bool {
        core::mem::take(&mut self.power_off)
    }

    /// Reads `size` bytes at `offset` of the register space.
    pub fn read(&mut self, now: VirtualNs, offset: u16, size: u8) -> u32 {
        self.look_at_timer(now);
        (0..u16::from(size.min(4))).fold(0, |value, n| {
            value | u32::from(self.read_byte(now, offset.wrapping_add(n))) << (8 * n)
        })
    }

    fn read_byte(&self, now: VirtualNs, offset: u16) -> u8 {
        let half = |value: u16| value.to_le_bytes()[usize::from(offset & 1)];
        match offset & !1 {
            PMSTS => half(self.status),
            PMEN => half(self.enable),
            PMCNTRL => half(self.control),
            0x08 | 0x0A => {
                let timer = (now.ticks(TIMER_HZ) & TIMER_MASK) as u32;
                timer.to_le_bytes()[usize::from(offset - PMTMR)]
            }
            GPEN => half(self.gp_enable),
            STORED..0x30 => match offset {
                // Reading PLVL2 and PLVL3 enters low-power states; there is nothing to stop.
                0x14 | 0x15 => 0,
                _ => self.stored[usize::from(offset - STORED)],
            },
            0x34 | 0x36 => self.gpo[usize::from(offset - 0x34)],
            // GPSTS without sources, GPIREG without inputs, reserved.
            _ => 0,
        }
    }

    /// Writes the low `size` bytes of `value` at `offset`.
    pub fn write(&mut self, now: VirtualNs, offset: u16, size: u8, value: u32) {
        self.look_at_timer(now);
        for n in 0..u16::from(size.min(4)) {
            self.write_byte(offset.wrapping_add(n), (value >> (8 * n)) as u8);
        }
    }

    fn write_byte(&mut self, offset: u16, value: u8) {
        let shift = 8 * (offset & 1);
        let wide = u16::from(value) << shift;
        let lane = 0xFF << shift;
        let merge = |old: u16, mask: u16| old & !(lane & mask) | wide & mask;
        match offset & !1 {
            PMSTS => self.status &= !(wide & STS_MASK),
            PMEN => self.enable = merge(self.enable, EN_MASK),
            PMCNTRL => {
                self.control = merge(self.control, CONTROL_MASK);
                if wide & SUSPEND_ENABLE != 0 {
                    self.suspend();
                }
            }
            GPSTS => {}
            GPEN => self.gp_enable = merge(self.gp_enable, GP_MASK),
            STORED..0x30 => {
                if offset == GLBCTL && value & 0x02 != 0 {
                    // BIOS_RLS raises GBL_STS.
                    self.status |= STS_GLOBAL;
                }
                self.stored[usize::from(offset - STORED)] = value;
            }
            0x34 | 0x36 => self.gpo[usize::from(offset - 0x34)] = value,
            _ => {}
        }
    }

    /// SUS_EN was written: soft-off; from every other state the system resumes at once.
    fn suspend(&mut self) {
        if (self.control >> 10 & 7) as u8 == SLEEP_TYPE_OFF {
            self.power_off = true;
        } else {
            self.status |= STS_RESUME;
        }
    }

    /// Reads port B2h or B3h.
    pub fn read_apm(&self, port: u16) -> u8 {
        if port == SMI_COMMAND_PORT { self.apm_command } else { self.apm_status }
    }

    /// Writes port B2h or B3h.
    pub fn write_apm(&mut self, port: u16, value: u8) {
        if port != SMI_COMMAND_PORT {
            self.apm_status = value;
            return;
        }
        self.apm_command = value;
        match value {
            ACPI_ENABLE => self.control |= SCI_EN,
            ACPI_DISABLE => self.control &= !SCI_EN,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: VirtualNs = VirtualNs(1_000);
    /// Bit 23 of the timer changes.
    const OVERFLOW: VirtualNs = VirtualNs::of_tick(TIMER_HALF, TIMER_HZ);

    #[test]
    fn timer_counts_and_wraps_at_24_bits() {
        let mut pm = AcpiPm::default();
        for (at, value) in [
            (VirtualNs(0), 0),
            (VirtualNs(1_000_000_000), 3_579_545),
            (OVERFLOW, 0x80_0000),
            (VirtualNs::of_tick(0x123_4567, TIMER_HZ), 0x23_4567),
        ] {
            assert_eq!(pm.read(at, 0x08, 4), value);
            assert_eq!(pm.read(at, 0x09, 2), value >> 8 & 0xFFFF);
        }
    }

    #[test]
    fn timer_overflow_raises_sci() {
        let mut pm = AcpiPm::default();
        pm.write(NOW, 2, 2, 1);
        assert_eq!(pm.deadline(), None);
        pm.write_apm(0xB2, ACPI_ENABLE);
        assert_eq!(pm.read(NOW, 4, 2), 1);
        assert_eq!(pm.deadline(), Some(OVERFLOW));
        pm.advance(VirtualNs(OVERFLOW.0 - 1));
        assert!(!pm.sci());
        pm.advance(OVERFLOW);
        assert!(pm.sci());
        pm.write(OVERFLOW, 0, 2, 1);
        assert!(!pm.sci());
        assert_eq!(pm.deadline(), Some(VirtualNs::of_tick(2 * TIMER_HALF, TIMER_HZ)));
        pm.write_apm(0xB2, ACPI_DISABLE);
        assert_eq!(pm.deadline(), None);
        assert_eq!(pm.read(VirtualNs(2 * OVERFLOW.0 + 2), 0, 2), 1, "without SCI as well");
    }

    #[test]
    fn power_button_and_global_release() {
        let mut pm = AcpiPm::default();
        pm.write_apm(0xB2, ACPI_ENABLE);
        pm.press_power_button();
        assert_eq!((pm.read(NOW, 0, 2), pm.sci()), (0x100, false));
        pm.write(NOW, 3, 1, 0xFF);
        assert_eq!((pm.read(NOW, 2, 2), pm.sci()), (0x500, true));
        pm.write(NOW, 0, 1, 0xFF);
        assert!(pm.sci());
        pm.write(NOW, 0, 2, 0x100);
        assert!(!pm.sci());
        pm.write(NOW, 0x28, 4, 2);
        pm.write(NOW, 2, 2, 0x20);
        assert!(pm.sci());
    }

    #[test]
    fn sleeping() {
        // (PMCNTRL, off, PMSTS)
        for (value, off, status) in [(0x2001, true, 0), (0x0001, false, 0), (0x2401, false, 0x8000)]
        {
            let mut pm = AcpiPm::default();
            pm.write(NOW, 4, 2, value);
            assert_eq!(pm.take_power_off(), off, "{value:04X}");
            assert_eq!(pm.read(NOW, 0, 2), status);
            assert_eq!(pm.read(NOW, 4, 2), value & 0x1C03);
        }
    }

    #[test]
    fn other_registers_keep_what_is_written() {
        let mut pm = AcpiPm::default();
        pm.write(NOW, 0x10, 4, 0x1234_5678);
        assert_eq!(pm.read(NOW, 0x10, 4), 0x1234_5678);
        pm.write(NOW, 0x0C, 4, 0xFFFF_FFFF);
        assert_eq!(pm.read(NOW, 0x0C, 4), 0x0F01_0000);
        assert_eq!(pm.read(NOW, 0x14, 2), 0);
        pm.write_apm(0xB3, 0x5A);
        assert_eq!((pm.read_apm(0xB2), pm.read_apm(0xB3)), (0, 0x5A));
    }
}
