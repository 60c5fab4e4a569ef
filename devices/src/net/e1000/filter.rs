//! Receive address filtering.
//!
//! Contract: software developer's manual section 3.2.3: exact addresses (RAL/RAH), the multicast
//! hash table, broadcast, the promiscuous modes, and the VLAN table after them.

use super::registers::{VET, ctrl, rctl};
use super::{E1000, registers};

/// RAH: the address is valid.
const ADDRESS_VALID: u32 = 1 << 31;
/// RAH: compare with the source address.
const SELECT_SOURCE: u32 = 1;

/// How a frame passed the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Exactly,
    /// By hash: software must look (status bit PIF).
    Inexactly,
}

impl E1000 {
    /// Whether the frame (at least 14 bytes) passes, and how.
    pub(super) fn filter(&self, frame: &[u8]) -> Option<Passed> {
        let passed = self.filter_address(frame)?;
        let tagged = self.vlan_tag(frame);
        match tagged {
            Some(tag) if self.rctl & rctl::VFE != 0 => {
                let id = tag as usize & 0xFFF;
                let listed = self.vfta[id >> 5] >> (id & 31) & 1 != 0;
                let cfi = tag >> 12 & 1 != 0;
                let cfi_fits = self.rctl & rctl::CFIEN == 0 || cfi == (self.rctl & rctl::CFI != 0);
                (listed && cfi_fits).then_some(passed)
            }
            _ => Some(passed),
        }
    }

    /// The tag of a VLAN frame, while VLANs are looked at at all.
    pub(super) fn vlan_tag(&self, frame: &[u8]) -> Option<u16> {
        let used = self.ctrl & ctrl::VME != 0 || self.rctl & rctl::VFE != 0;
        let &[a, b, c, d] = frame.get(12..16)? else { return None };
        let is_vlan = u32::from(u16::from_be_bytes([a, b])) == self.plain[VET];
        (used && is_vlan).then(|| u16::from_be_bytes([c, d]))
    }

    fn filter_address(&self, frame: &[u8]) -> Option<Passed> {
        let destination = frame.get(..6)?;
        if self.exact_match(frame) {
            return Some(Passed::Exactly);
        }
        if destination[0] & 1 == 0 {
            return (self.rctl & rctl::UPE != 0).then_some(Passed::Exactly);
        }
        let broadcast = destination == [0xFF; 6];
        if self.rctl & rctl::MPE != 0 || broadcast && self.rctl & rctl::BAM != 0 {
            return Some(Passed::Exactly);
        }
        let bits = u16::from_le_bytes([destination[4], destination[5]]);
        let shift = [4, 3, 2, 0][(self.rctl >> rctl::MO_SHIFT & 3) as usize];
        let hash = usize::from(bits >> shift & 0xFFF);
        (self.mta[hash >> 5] >> (hash & 31) & 1 != 0).then_some(Passed::Inexactly)
    }

    fn exact_match(&self, frame: &[u8]) -> bool {
        self.ra.chunks_exact(2).any(|pair| {
            let (low, high) = (pair[0], pair[1]);
            let at = if high >> 16 & 3 == SELECT_SOURCE { 6 } else { 0 };
            high & ADDRESS_VALID != 0
                && frame[at..at + 4] == low.to_le_bytes()
                && frame[at + 4..at + 6] == (high as u16).to_le_bytes()
        })
    }

    /// Whether the frame is a pause frame of flow control (section 3.7.1).
    pub(super) fn is_pause(&self, frame: &[u8]) -> bool {
        let low = self.plain[registers::FCAL].to_le_bytes();
        let high = self.plain[registers::FCAH].to_le_bytes();
        let kind = u32::from(u16::from_be_bytes([frame[12], frame[13]]));
        frame[..4] == low && frame[4..6] == high[..2] && kind == self.plain[registers::FCT]
    }
}
