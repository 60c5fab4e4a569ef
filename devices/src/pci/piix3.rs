//! Intel 82371SB (PIIX3): the configuration registers of its ISA bridge and IDE functions, and the
//! power management function of the 82371AB (PIIX4) that stands beside them.
//!
//! Contract: register numbers and power-on values as in the datasheets (order 290550 for PIIX3,
//! 290562 for PIIX4). The chips behind these registers are elsewhere; the functions here say how
//! the registers gate and place them.

use super::ConfigSpace;

/// First of PIRQRCA-PIRQRCD.
pub const PIRQRC: u8 = 0x60;
/// IDETIM of the primary channel; that of the secondary follows.
const IDETIM: u8 = 0x40;
/// PMBASE: where the power management I/O space begins.
const PMBASE: u8 = 0x40;
/// PMREGMISC: bit 0 enables that space.
const PMREGMISC: u8 = 0x80;
/// Bytes of the power management I/O space.
const PM_SIZE: u16 = 0x40;

/// Function 0: PCI to ISA bridge.
pub fn isa_bridge() -> ConfigSpace {
    let mut config = ConfigSpace::new(0x8086, 0x7000, 0x06_0100, 0x00)
        .multi_function()
        .command(0x0007, 0x0108)
        .status(0x0200)
        .register(0x4C, 0x4D, 0xFF) // IORT
        .register(0x4E, 0x03, 0xFF) // XBCS
        .register(0x4F, 0x00, 0x01)
        .register(0x69, 0x02, 0xFE) // TOM
        .register(0x6A, 0x00, 0x04) // MSTAT
        .clear_by_one(0x6A, 0x80)
        .register(0x70, 0x80, 0xCF) // MBIRQ0
        .register(0x76, 0x0C, 0x8F) // MBDMA
        .register(0x77, 0x0C, 0x8F)
        .register(0x78, 0x02, 0xFF) // PCSC
        .register(0x79, 0x00, 0xFF)
        .register(0x80, 0x00, 0x7F) // APICBASE
        .register(0x82, 0x00, 0x0F) // DLC
        .register(0xA0, 0x08, 0x1F) // SMICNTL
        .register(0xA8, 0x0F, 0xFF); // FTMR
    for pirq in 0..4 {
        config = config.register(PIRQRC + pirq, 0x80, 0x8F);
    }
    for register in (0xA2..0xA8).chain(0xAA..0xB0) {
        config = config.register(register, 0x00, 0xFF); // SMIEN, SEE, SMIREQ, CTLTMR, CTHTMR
    }
    config
}

/// The ISA interrupt to which PIRQ `n` (0 = A) is routed, if it is (section 2.2.7).
pub fn pirq_route(isa_bridge: &ConfigSpace, n: usize) -> Option<u8> {
    let route = isa_bridge.byte(PIRQRC + (n & 3) as u8);
    let irq = route & 0x0F;
    let allowed = matches!(irq, 3..=7 | 9..=12 | 14 | 15);
    (route & 0x80 == 0 && allowed).then_some(irq)
}

/// Function 1: the IDE interface; base address register 4 is BMIBA.
pub fn ide() -> ConfigSpace {
    let mut config = ConfigSpace::new(0x8086, 0x7010, 0x01_0180, 0x00)
        .command(0x0000, 0x0005)
        .status(0x0280)
        .register(0x0D, 0x00, 0xF0) // MLT
        .io_bar(4, 16);
    for register in IDETIM..IDETIM + 4 {
        config = config.register(register, 0x00, if register & 1 == 0 { 0xFF } else { 0xF3 });
    }
    config.register(0x44, 0x00, 0xFF) // SIDETIM
}

/// Whether `channel`'s legacy ports are decoded: I/O space and IDETIM's enable bit (section
/// 2.3.11).
#[inline]
pub fn ide_decoded(ide: &ConfigSpace, channel: usize) -> bool {
    ide.io_enabled() && ide.byte(IDETIM + 1 + 2 * (channel & 1) as u8) & 0x80 != 0
}

/// Function 3: the power management registers' place (82371AB sections 7.1 and 7.2). Its interrupt
/// is IRQ 9, not routed through PIRQRC.
pub fn power_management() -> ConfigSpace {
    let mut config = ConfigSpace::new(0x8086, 0x7113, 0x06_8000, 0x03)
        .command(0x0000, 0x0001)
        .status(0x0280)
        .read_only(0x3D, &[1])
        .register(0x3C, 0x00, 0xFF)
        .register(PMBASE, 0x01, 0xC0)
        .register(PMBASE + 1, 0x00, 0xFF)
        .register(PMREGMISC, 0x00, 0x01)
        .register(0x90, 0x01, 0xF0) // SMBBA
        .register(0x91, 0x00, 0xFF)
        .register(0xD2, 0x00, 0x0F); // SMBHSTCFG
    for register in (0x44..0x48).chain(0x4C..0x4E).chain(0x50..0x80) {
        config = config.register(register, 0x00, 0xFF); // CNTA, CNTB, GPICTL, DEVRESA-J, DEVACTA-B
    }
    config
}

/// Offset of `port` in the power management I/O space, if it is enabled and holds it.
#[inline]
pub fn power_management_offset(config: &ConfigSpace, port: u16) -> Option<u16> {
    if config.byte(PMREGMISC) & 1 == 0 {
        return None;
    }
    let base = u16::from_le_bytes([config.byte(PMBASE) & 0xC0, config.byte(PMBASE + 1)]);
    (base != 0 && port & !(PM_SIZE - 1) == base).then(|| port - base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_management_window_moves() {
        let mut config = power_management();
        config.write(PMBASE, 4, 0xB000);
        assert_eq!(config.read(PMBASE, 4), 0xB001);
        assert_eq!(power_management_offset(&config, 0xB008), None, "PMIOSE clear");
        config.write(PMREGMISC, 1, 1);
        assert_eq!(power_management_offset(&config, 0xB008), Some(8));
        assert_eq!(power_management_offset(&config, 0xB03F), Some(0x3F));
        assert_eq!(power_management_offset(&config, 0xB040), None);
        config.write(PMBASE, 2, 0x0600);
        assert_eq!(power_management_offset(&config, 0xB008), None);
        assert_eq!(power_management_offset(&config, 0x0604), Some(4));
    }

    #[test]
    fn ide_channels_are_gated() {
        let mut config = ide();
        config.write(0x43, 1, 0x80);
        assert!(!ide_decoded(&config, 1), "I/O space disabled");
        config.write(4, 1, 1);
        assert!(ide_decoded(&config, 1) && !ide_decoded(&config, 0));
        config.write(0x20, 4, u32::MAX);
        assert_eq!(config.read(0x20, 4), 0xFFFF_FFF1);
    }
}
