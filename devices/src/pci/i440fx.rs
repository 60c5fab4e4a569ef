//! Intel 82441FX (PMC): the host bridge's configuration registers.
//!
//! Contract: register numbers and power-on values as in the 82441FX datasheet (order 290549),
//! section 3.2. The programmable attribute map's write enables reach [`Ram`](crate::ram::Ram)
//! through [`shadow_writable`]; its read enables are storage only, since the BIOS is always
//! shadowed (nothing here relies on reading through to an empty bus). So is the SMRAM register:
//! there is no system management mode.

use super::ConfigSpace;

/// First of PAM0-PAM6.
pub const PAM: u8 = 0x59;
/// Past the last PAM register.
pub const PAM_END: u8 = 0x60;

/// Write enable in a PAM nibble.
const WE: u8 = 2;

/// The function after power-on.
pub fn host_bridge() -> ConfigSpace {
    let mut config = ConfigSpace::new(0x8086, 0x1237, 0x06_0000, 0x02)
        .command(0x0006, 0x0140)
        .status(0x0280)
        .register(0x0D, 0, 0xF8) // MLT
        .register(0x50, 0x00, 0xFF) // PMCCFG
        .register(0x51, 0x00, 0xC7)
        .register(0x52, 0x00, 0x80) // DETURBO
        .register(0x53, 0x80, 0xFB) // DBC
        .register(0x54, 0x00, 0xFF) // AXC
        .register(0x55, 0x00, 0xFF) // DRT
        .register(0x56, 0x00, 0xFF)
        .register(0x57, 0x01, 0xF7) // DRAMC
        .register(0x58, 0x00, 0xFF) // DRAMT
        .register(0x68, 0x00, 0xC0) // FDHC
        .register(0x70, 0x00, 0xF8) // MTT
        .register(0x71, 0x10, 0xF8) // CLT
        .register(0x72, 0x02, 0x7F) // SMRAM
        .register(0x90, 0x00, 0xFF) // ERRCMD
        .register(0x91, 0x00, 0x00) // ERRSTS
        .clear_by_one(0x91, 0x11)
        .register(0x93, 0x00, 0x0B); // TRC
    config = config.register(PAM, 0x00, 0x30);
    for register in PAM + 1..PAM_END {
        config = config.register(register, 0x00, 0x33);
    }
    for row in 0x60..0x68 {
        config = config.register(row, 0x01, 0xFF); // DRB
    }
    config
}

/// The 16-KiB steps from C0000h that accept writes, a bit each (section 3.2.18).
pub fn shadow_writable(config: &ConfigSpace) -> u16 {
    let mut steps = 0;
    if config.byte(PAM) >> 4 & WE != 0 {
        steps |= 0xF000;
    }
    for n in 0..6u8 {
        let attributes = config.byte(PAM + 1 + n);
        if attributes & WE != 0 {
            steps |= 1 << (2 * n);
        }
        if attributes >> 4 & WE != 0 {
            steps |= 2 << (2 * n);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pam_nibbles_map_to_steps() {
        let mut config = host_bridge();
        assert_eq!(shadow_writable(&config), 0);
        for (register, value, steps) in [
            (0x59, 0x30, 0xF000),
            (0x59, 0x10, 0),
            (0x5A, 0x02, 0x0001),
            (0x5A, 0x20, 0x0002),
            (0x5D, 0x33, 0x00C0),
            (0x5F, 0x30, 0x0800),
        ] {
            config.write(register, 1, value);
            assert_eq!(shadow_writable(&config), steps, "{register:x}={value:x}");
            config.write(register, 1, 0);
        }
        config.write(0x58, 4, 0x3333_3000);
        config.write(0x5C, 4, 0x3333_3333);
        assert_eq!(shadow_writable(&config), 0xFFFF);
    }
}
