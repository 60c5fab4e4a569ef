//! Register offsets and bits of the 82540EM, and the registers that only store.
//!
//! Contract: names and numbers as in the PCI/PCI-X Family of Gigabit Ethernet Controllers Software
//! Developer's Manual (order 317453), chapter 13.

pub const CTRL: u32 = 0x0000;
pub const STATUS: u32 = 0x0008;
pub const EECD: u32 = 0x0010;
pub const EERD: u32 = 0x0014;
pub const MDIC: u32 = 0x0020;
pub const ICR: u32 = 0x00C0;
pub const ITR: u32 = 0x00C4;
pub const ICS: u32 = 0x00C8;
pub const IMS: u32 = 0x00D0;
pub const IMC: u32 = 0x00D8;
pub const RCTL: u32 = 0x0100;
pub const TCTL: u32 = 0x0400;
pub const PBA: u32 = 0x1000;
pub const RDBAL: u32 = 0x2800;
pub const RDBAH: u32 = 0x2804;
pub const RDLEN: u32 = 0x2808;
pub const RDH: u32 = 0x2810;
pub const RDT: u32 = 0x2818;
pub const RDTR: u32 = 0x2820;
pub const TDBAL: u32 = 0x3800;
pub const TDBAH: u32 = 0x3804;
pub const TDLEN: u32 = 0x3808;
pub const TDH: u32 = 0x3810;
pub const TDT: u32 = 0x3818;
pub const STATISTICS: u32 = 0x4000;
pub const STATISTICS_END: u32 = 0x4100;
pub const MTA: u32 = 0x5200;
pub const MTA_END: u32 = 0x5400;
pub const RA: u32 = 0x5400;
pub const RA_END: u32 = 0x5480;
pub const VFTA: u32 = 0x5600;
pub const VFTA_END: u32 = 0x5800;

/// Device control, section 13.4.1.
pub mod ctrl {
    pub const FD: u32 = 1 << 0;
    pub const SLU: u32 = 1 << 6;
    pub const SPEED: u32 = 3 << 8;
    pub const FRCSPD: u32 = 1 << 11;
    pub const RST: u32 = 1 << 26;
    pub const VME: u32 = 1 << 30;
    pub const PHY_RST: u32 = 1 << 31;
    /// Bits that keep what is written.
    pub const STORED: u32 = 0x7BFC_1BE9;
}

/// Device status, section 13.4.2.
pub mod status {
    pub const FD: u32 = 1 << 0;
    pub const LU: u32 = 1 << 1;
    pub const SPEED_SHIFT: u32 = 6;
    pub const SPEED_1000: u32 = 2 << SPEED_SHIFT;
    pub const ASDV_1000: u32 = 2 << 8;
}

/// Receive control, section 13.4.22.
pub mod rctl {
    pub const EN: u32 = 1 << 1;
    pub const SBP: u32 = 1 << 2;
    pub const UPE: u32 = 1 << 3;
    pub const MPE: u32 = 1 << 4;
    pub const LPE: u32 = 1 << 5;
    pub const LBM: u32 = 3 << 6;
    pub const RDMTS_SHIFT: u32 = 8;
    pub const MO_SHIFT: u32 = 12;
    pub const BAM: u32 = 1 << 15;
    pub const BSIZE_SHIFT: u32 = 16;
    pub const VFE: u32 = 1 << 18;
    pub const CFIEN: u32 = 1 << 19;
    pub const CFI: u32 = 1 << 20;
    pub const DPF: u32 = 1 << 22;
    pub const PMCF: u32 = 1 << 23;
    pub const BSEX: u32 = 1 << 25;
    pub const SECRC: u32 = 1 << 26;
    /// Bits that keep what is written.
    pub const STORED: u32 = 0x06DF_B3FE;
}

/// Transmit control, section 13.4.33.
pub mod tctl {
    pub const EN: u32 = 1 << 1;
    pub const PSP: u32 = 1 << 3;
    /// Bits that keep what is written.
    pub const STORED: u32 = 0x01FF_FFFA;
}

/// Interrupt causes, section 13.4.17.
pub mod cause {
    pub const TXDW: u32 = 1 << 0;
    pub const TXQE: u32 = 1 << 1;
    pub const LSC: u32 = 1 << 2;
    pub const RXDMT0: u32 = 1 << 4;
    pub const RXO: u32 = 1 << 6;
    pub const RXT0: u32 = 1 << 7;
    pub const MDAC: u32 = 1 << 9;
    pub const TXD_LOW: u32 = 1 << 15;
    pub const SRPD: u32 = 1 << 16;
    /// All that exist.
    pub const ALL: u32 = 0x0001_F6DF;
}

/// A register without behaviour of its own.
pub struct Plain {
    pub offset: u32,
    /// Bits that keep what is written.
    pub mask: u32,
    pub power_on: u32,
}

const fn plain(offset: u32, mask: u32, power_on: u32) -> Plain {
    Plain { offset, mask, power_on }
}

/// How many there are.
pub const PLAIN_COUNT: usize = 51;

/// The registers that only store.
pub const PLAIN: [Plain; PLAIN_COUNT] = [
    plain(0x0018, 0x00FF_FFF0, 0),           // CTRL_EXT
    plain(0x001C, 0xFFFF_FFFF, 0),           // FLA
    plain(0x0028, 0xFFFF_FFFF, 0x00C2_8001), // FCAL
    plain(0x002C, 0x0000_FFFF, 0x0000_0100), // FCAH
    plain(0x0030, 0x0000_FFFF, 0x0000_8808), // FCT
    plain(0x0038, 0x0000_FFFF, 0x0000_8100), // VET
    plain(0x0170, 0x0000_FFFF, 0),           // FCTTV
    plain(0x0178, 0xC000_FFFF, 0),           // TXCW
    plain(0x0180, 0x0000_0000, 0),           // RXCW
    plain(0x0410, 0x3FFF_FFFF, 0x0060_2006), // TIPG
    plain(0x0458, 0x0000_FFFF, 0),           // AIFS
    plain(0x0E00, 0xCFCF_CFCF, 0x0706_8302), // LEDCTL
    plain(0x2160, 0x8000_FFF8, 0),           // FCRTL
    plain(0x2168, 0x0000_FFF8, 0),           // FCRTH
    plain(0x2410, 0x0000_1FFF, 0),           // RDFH
    plain(0x2418, 0x0000_1FFF, 0),           // RDFT
    plain(0x2420, 0x0000_1FFF, 0),           // RDFHS
    plain(0x2428, 0x0000_1FFF, 0),           // RDFTS
    plain(0x2430, 0x0000_1FFF, 0),           // RDFPC
    plain(0x2828, 0x013F_3F3F, 0x0101_0000), // RXDCTL
    plain(0x282C, 0x0000_FFFF, 0),           // RADV
    plain(0x2C00, 0x0000_0FFF, 0),           // RSRPD
    plain(0x3000, 0x0000_0001, 0),           // TXDMAC
    plain(0x3410, 0x0000_07FF, 0x0000_0600), // TDFH
    plain(0x3418, 0x0000_07FF, 0x0000_0600), // TDFT
    plain(0x3420, 0x0000_07FF, 0x0000_0600), // TDFHS
    plain(0x3428, 0x0000_07FF, 0x0000_0600), // TDFTS
    plain(0x3430, 0x0000_1FFF, 0),           // TDFPC
    plain(0x3820, 0x0000_FFFF, 0),           // TIDV
    plain(0x3828, 0xFF3F_3F3F, 0),           // TXDCTL
    plain(0x382C, 0x0000_FFFF, 0),           // TADV
    plain(0x3830, 0xFFFF_FFFF, 0x0100_0400), // TSPMT
    plain(0x5000, 0x0000_07FF, 0),           // RXCSUM
    plain(0x5800, 0x0000_000F, 0),           // WUC
    plain(0x5808, 0x000F_00FF, 0),           // WUFC
    plain(0x5810, 0x0000_0000, 0),           // WUS
    plain(0x5820, 0x0000_0000, 0),           // MANC
    plain(0x5838, 0x0001_000F, 0),           // IPAV
    plain(0x5840, 0xFFFF_FFFF, 0),           // IP4AT
    plain(0x5848, 0xFFFF_FFFF, 0),
    plain(0x5850, 0xFFFF_FFFF, 0),
    plain(0x5858, 0xFFFF_FFFF, 0),
    plain(0x5880, 0xFFFF_FFFF, 0), // IP6AT
    plain(0x5884, 0xFFFF_FFFF, 0),
    plain(0x5888, 0xFFFF_FFFF, 0),
    plain(0x588C, 0xFFFF_FFFF, 0),
    plain(0x5900, 0x0000_0000, 0), // WUPL
    plain(0x5F00, 0x0000_07FF, 0), // FFLT
    plain(0x5F08, 0x0000_07FF, 0),
    plain(0x5F10, 0x0000_07FF, 0),
    plain(0x5F18, 0x0000_07FF, 0),
];

/// The index of a register in [`PLAIN`]; for constants.
pub const fn plain_index(offset: u32) -> usize {
    let mut n = 0;
    while PLAIN[n].offset != offset {
        n += 1;
    }
    n
}

pub const FCAL: usize = plain_index(0x0028);
pub const FCAH: usize = plain_index(0x002C);
pub const FCT: usize = plain_index(0x0030);
pub const VET: usize = plain_index(0x0038);
pub const RADV: usize = plain_index(0x282C);
pub const RSRPD: usize = plain_index(0x2C00);
pub const TIDV: usize = plain_index(0x3820);
pub const TXDCTL: usize = plain_index(0x3828);
pub const TADV: usize = plain_index(0x382C);
pub const RXCSUM: usize = plain_index(0x5000);

/// The place of a register that also stands where the 82542 had it (section 13.3).
pub const fn canonical(offset: u32) -> u32 {
    match offset {
        0x0040..=0x00BF => offset - 0x0040 + RA,
        0x0108 => RDTR,
        0x0110..=0x0117 => offset - 0x0110 + RDBAL,
        0x0118 => RDLEN,
        0x0120 => RDH,
        0x0128 => RDT,
        0x0200..=0x03FF => offset - 0x0200 + MTA,
        0x0420..=0x0427 => offset - 0x0420 + TDBAL,
        0x0428 => TDLEN,
        0x0430 => TDH,
        0x0438 => TDT,
        0x0440 => 0x3820,
        0x0600..=0x07FF => offset - 0x0600 + VFTA,
        _ => offset,
    }
}
