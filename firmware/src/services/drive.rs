//! The record of an IDE drive in the EBDA, and its geometry.
//!
//! Contract: records are read back from guest memory; [`Drive::load`] refuses what makes no sense.

use crate::layout::{EBDA, ebda};
use crate::pc::Pc;

/// Bytes of a record.
const RECORD: u64 = 32;
/// Drives on the two channels.
pub const SLOTS: u8 = 4;

/// Cylinders, heads, sectors per track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u16,
    /// Sectors per track.
    pub sectors: u16,
}

impl Geometry {
    /// The geometry that INT 13h shows for a drive of `total` sectors: the drive's own up to 1,024
    /// cylinders, beyond that LBA-assist translation (Phoenix EDD 3.0, annex; 63 sectors, and the
    /// smallest of 16, 32, 64, 128 and 255 heads that stays under 1,024 cylinders).
    pub fn translated(own: Self, total: u64) -> Self {
        if own.cylinders <= 1024 && (1..=255).contains(&own.heads) && (1..64).contains(&own.sectors)
        {
            let fits = u64::from(own.cylinders) * u64::from(own.heads) * u64::from(own.sectors);
            if own.cylinders > 0 && fits.saturating_add(fits / 8) >= total {
                return own;
            }
        }
        let tracks = total / 63;
        let heads =
            [16u16, 32, 64, 128].into_iter().find(|&heads| tracks / 1024 <= u64::from(heads));
        let heads = heads.unwrap_or(255);
        let cylinders = (tracks / u64::from(heads)).clamp(1, 1024) as u16;
        Self { cylinders, heads, sectors: 63 }
    }
}

/// An ATA drive that POST has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// 0-3: primary master, primary slave, secondary master, secondary slave.
    pub slot: u8,
    /// Whether it takes the 48-bit commands.
    pub lba48: bool,
    /// Its own geometry.
    pub own: Geometry,
    /// The geometry of INT 13h AH=02h and so on.
    pub translated: Geometry,
    /// Size in sectors.
    pub total: u64,
}

impl Drive {
    /// Base port of the command block.
    pub fn command_block(&self) -> u16 {
        command_block(self.slot)
    }

    /// Port of the alternate status and device control registers.
    pub fn control(&self) -> u16 {
        control(self.slot)
    }

    /// ISA interrupt line.
    pub fn irq(&self) -> u8 {
        if self.slot < 2 { 14 } else { 15 }
    }

    /// The drive's answer to IDENTIFY DEVICE (ATA/ATAPI-6, 8.15.8).
    pub fn from_identify(slot: u8, identify: &[u16; 256]) -> Self {
        let own = Geometry { cylinders: identify[1], heads: identify[3], sectors: identify[6] };
        let lba28 = u64::from(identify[60]) | u64::from(identify[61]) << 16;
        let lba48 = identify[83] & 0xC400 == 0x4400;
        let long = (0..4).fold(0, |sum, i| sum | u64::from(identify[100 + i]) << (16 * i));
        let total = if lba48 && long != 0 { long } else { lba28 };
        Self { slot, lba48, own, translated: Geometry::translated(own, total), total }
    }

    /// Writes the record.
    pub fn store(&self, pc: &mut Pc<'_>) {
        let at = EBDA + ebda::DRIVES + u64::from(self.slot) * RECORD;
        pc.write8(at, 1);
        pc.write8(at + 1, self.lba48.into());
        let (own, translated) = (self.own, self.translated);
        let words = [
            own.cylinders,
            own.heads,
            own.sectors,
            translated.cylinders,
            translated.heads,
            translated.sectors,
        ];
        for (index, word) in words.into_iter().enumerate() {
            pc.write16(at + 2 + 2 * index as u64, word);
        }
        pc.write(at + 16, &self.total.to_le_bytes());
    }

    /// Reads the record of `slot`; `None`: no drive, or overwritten with nonsense.
    pub fn load(pc: &mut Pc<'_>, slot: u8) -> Option<Self> {
        if slot >= SLOTS {
            return None;
        }
        let at = EBDA + ebda::DRIVES + u64::from(slot) * RECORD;
        if pc.read8(at) != 1 {
            return None;
        }
        let mut words = [0; 6];
        for (index, word) in words.iter_mut().enumerate() {
            *word = pc.read16(at + 2 + 2 * index as u64);
        }
        let geometry = |w: &[u16]| Geometry { cylinders: w[0], heads: w[1], sectors: w[2] };
        let drive = Self {
            slot,
            lba48: pc.read8(at + 1) != 0,
            own: geometry(&words[..3]),
            translated: geometry(&words[3..]),
            total: pc.read64(at + 16),
        };
        let t = drive.translated;
        let sane = t.cylinders != 0 && (1..=255).contains(&t.heads) && (1..64).contains(&t.sectors);
        (sane && drive.total <= 1 << 48).then_some(drive)
    }

    /// The drive with the BIOS number `number` (80h and up).
    pub fn by_number(pc: &mut Pc<'_>, number: u8) -> Option<Self> {
        let index = number.checked_sub(0x80).filter(|&index| index < SLOTS)?;
        let slot = pc.ebda8(ebda::DRIVE_ORDER + u64::from(index));
        Self::load(pc, slot)
    }
}

/// Base port of the command block of `slot`.
pub fn command_block(slot: u8) -> u16 {
    if slot < 2 { 0x1F0 } else { 0x170 }
}

/// Port of the alternate status and device control registers of `slot`.
pub fn control(slot: u8) -> u16 {
    if slot < 2 { 0x3F6 } else { 0x376 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(own: (u16, u16, u16), total: u64) -> (u16, u16, u16) {
        let own = Geometry { cylinders: own.0, heads: own.1, sectors: own.2 };
        let g = Geometry::translated(own, total);
        (g.cylinders, g.heads, g.sectors)
    }

    #[test]
    fn translation_follows_the_size() {
        assert_eq!(translated((20, 16, 63), 20_160), (20, 16, 63));
        assert_eq!(translated((1024, 16, 63), 1_032_192), (1024, 16, 63));
        assert_eq!(translated((4161, 16, 63), 4_194_304), (520, 128, 63));
        assert_eq!(translated((16383, 16, 63), 40_000_000), (1024, 255, 63));
        assert_eq!(translated((0, 0, 0), 1), (1, 16, 63));
    }
}
