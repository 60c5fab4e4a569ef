//! Page walks (SDM 3A chapter 4): 32-bit, PAE and 4-level paging.

use crate::core::Core;
use crate::cpu::{cr0, cr4, efer, flags};
use crate::exception::{Exception, Trap};
use crate::mmu::tlb::{LEAF, LEAF_32, ROOT, UPPER};
use devices::ram::{Backing, PAGE};

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// By privilege: user mode (CPL 3, and not an implicit supervisor access).
    pub user: bool,
    /// Implicit supervisor access (descriptor tables, TSS): SMAP is enforced whatever AC says.
    pub implicit: bool,
}

/// A successful walk.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    /// Physical address.
    pub pa: u64,
    /// Whether a write would be allowed and the dirty flag is set already.
    pub writable: bool,
    /// Size of the page.
    pub page_size: u64,
    /// A global page (SDM 3A 4.10.2.4).
    pub global: bool,
}

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// The entry maps a large page.
pub const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;
/// Physical address of the page or structure that an entry leads to.
pub const ADDRESS: u64 = ((1 << crate::cpu::cpuid::PHYSICAL_BITS) - 1) & !0xFFF;
/// Address bits above the physical width, bits 51:40: reserved.
const RESERVED_HIGH: u64 = ((1 << 52) - 1) & !((1 << crate::cpu::cpuid::PHYSICAL_BITS) - 1);

/// Permissions gathered on the way down.
struct Rights {
    write: bool,
    user: bool,
    nx: bool,
}

impl Core {
    /// Translates a linear address, setting accessed and dirty flags.
    ///
    /// # Errors
    /// A page fault with its error code (SDM 3A 4.7).
    pub fn walk(&mut self, la: u64, access: Access) -> Result<Translation, Trap> {
        if self.cpu.cr0 & cr0::PG == 0 {
            let pa = self.gate_a20(la & 0xFFFF_FFFF);
            return Ok(Translation { pa, writable: true, page_size: 4096, global: false });
        }
        match self.find(la, access) {
            Ok(mut found) => {
                found.pa = self.gate_a20(found.pa);
                Ok(found)
            }
            Err(code) => Err(self.raise(Exception::page_fault(la, code))),
        }
    }

    /// `pa` with bit 20 masked when the A20 gate is closed.
    #[inline(always)]
    fn gate_a20(&self, pa: u64) -> u64 {
        pa & self.a20_mask
    }

    fn find(&mut self, la: u64, access: Access) -> Result<Translation, u32> {
        if self.cpu.cr4 & cr4::PAE == 0 {
            return self.find_32(la, access);
        }
        let long = self.cpu.long_mode();
        let mut rights = Rights { write: true, user: true, nx: false };
        let (mut table, mut shift) = if long {
            (self.cpu.cr3 & ADDRESS, 39)
        } else {
            let pdpte = self.cpu.pdptes[(la >> 30) as usize & 3];
            if pdpte & PRESENT == 0 {
                return Err(self.code(access, false, false));
            }
            (pdpte & ADDRESS, 21)
        };
        let cr3 = self.cpu.cr3;
        if long && let Some(upper) = self.tlb.upper(la, cr3) {
            let (write, user, nx) = upper.rights;
            rights = Rights { write, user, nx };
            (table, shift) = (upper.table, 12);
        }
        loop {
            let slot = table + ((la >> shift) & 511) * 8;
            let what = match shift {
                12 => (la & !0x1F_FFFF) | LEAF,
                39 => ROOT,
                _ => UPPER,
            };
            let entry = self.read_entry::<8>(slot, what);
            if entry & PRESENT == 0 {
                return Err(self.code(access, false, false));
            }
            let large = entry & LARGE != 0 && shift > 12;
            if self.reserved(entry, shift, large, long) {
                return Err(self.code(access, true, true));
            }
            rights.write &= entry & WRITE != 0;
            rights.user &= entry & USER != 0;
            rights.nx |= entry & NX != 0;
            if shift == 12 || large {
                return self.finish::<8>(la, access, &rights, (slot, entry, shift));
            }
            if entry & ACCESSED == 0 {
                self.write_table::<8>(slot, entry | ACCESSED);
            }
            table = entry & ADDRESS;
            shift -= 9;
            if long && shift == 12 {
                self.tlb.fill_upper(la, cr3, table, (rights.write, rights.user, rights.nx));
            }
        }
    }

    fn find_32(&mut self, la: u64, access: Access) -> Result<Translation, u32> {
        let mut rights = Rights { write: true, user: true, nx: false };
        let slot = (self.cpu.cr3 & 0xFFFF_F000) + ((la >> 22) & 1023) * 4;
        let entry = self.read_entry::<4>(slot, UPPER);
        if entry & PRESENT == 0 {
            return Err(self.code(access, false, false));
        }
        rights.write &= entry & WRITE != 0;
        rights.user &= entry & USER != 0;
        if entry & LARGE != 0 && self.cpu.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 20:13 hold address bits 39:32; bit 21 is reserved (SDM 3A 4.3)
            if entry & (1 << 21) != 0 {
                return Err(self.code(access, true, true));
            }
            return self.finish::<4>(la, access, &rights, (slot, entry, 22));
        }
        if entry & ACCESSED == 0 {
            self.write_table::<4>(slot, entry | ACCESSED);
        }
        let slot = (entry & 0xFFFF_F000) + ((la >> 12) & 1023) * 4;
        let entry = self.read_entry::<4>(slot, (la & !0x3F_FFFF) | LEAF_32);
        if entry & PRESENT == 0 {
            return Err(self.code(access, false, false));
        }
        rights.write &= entry & WRITE != 0;
        rights.user &= entry & USER != 0;
        self.finish::<4>(la, access, &rights, (slot, entry, 12))
    }

    fn finish<const N: usize>(
        &mut self,
        la: u64,
        access: Access,
        rights: &Rights,
        (slot, entry, shift): (u64, u64, u32),
    ) -> Result<Translation, u32> {
        if !self.permitted(access, rights) {
            return Err(self.code(access, true, false));
        }
        let mut marked = entry | ACCESSED;
        if access.write {
            marked |= DIRTY;
        }
        if marked != entry {
            self.write_table::<N>(slot, marked);
        }
        let page_size = 1u64 << shift;
        let base = if N == 4 && shift == 22 {
            (entry & 0xFFC0_0000) | ((entry >> 13) & 0xFF) << 32
        } else {
            entry & ADDRESS & !(page_size - 1)
        };
        let would_write = Access { write: true, fetch: false, ..access };
        let writable = marked & DIRTY != 0 && self.permitted(would_write, rights);
        let global = entry & GLOBAL != 0 && self.cpu.cr4 & cr4::PGE != 0;
        Ok(Translation { pa: base | (la & (page_size - 1)), writable, page_size, global })
    }

    /// SDM 3A 4.6.1.
    fn permitted(&self, access: Access, rights: &Rights) -> bool {
        let cpu = &self.cpu;
        if access.fetch {
            if rights.nx && cpu.efer & efer::NXE != 0 {
                return false;
            }
            return if access.user {
                rights.user
            } else {
                !(rights.user && cpu.cr4 & cr4::SMEP != 0)
            };
        }
        if access.user {
            return rights.user && (!access.write || rights.write);
        }
        if rights.user && cpu.cr4 & cr4::SMAP != 0 {
            let overridden = cpu.flags.system & flags::AC != 0 && !access.implicit;
            if !overridden {
                return false;
            }
        }
        !access.write || rights.write || cpu.cr0 & cr0::WP == 0
    }

    /// Reserved bits of a PAE or 4-level entry (SDM 3A figure 4-11 and 4.4).
    fn reserved(&self, entry: u64, shift: u32, large: bool, long: bool) -> bool {
        let mut mask = RESERVED_HIGH;
        if self.cpu.efer & efer::NXE == 0 {
            mask |= NX;
        }
        if !long {
            mask |= 0x7FF0_0000_0000_0000; // bits 62:52
        }
        if shift == 39 {
            mask |= LARGE;
        }
        if large {
            mask |= ((1 << shift) - 1) & !0x1FFF; // between PAT (bit 12) and the address
        }
        entry & mask != 0
    }

    /// Error code of a page fault (SDM 3A figure 4-12).
    fn code(&self, access: Access, present: bool, reserved: bool) -> u32 {
        let cpu = &self.cpu;
        let fetch_bit = access.fetch
            && (cpu.cr4 & cr4::SMEP != 0 || (cpu.cr4 & cr4::PAE != 0 && cpu.efer & efer::NXE != 0));
        u32::from(present)
            | u32::from(access.write) << 1
            | u32::from(access.user) << 2
            | u32::from(reserved) << 3
            | u32::from(fetch_bit) << 4
    }

    /// Reads an entry and sees to it that a change of it will be noticed; `what` it translates is
    /// as in [`crate::mmu::tlb::Tlb::knows_table`].
    #[inline(always)]
    fn read_entry<const N: usize>(&mut self, pa: u64, what: u64) -> u64 {
        let backing = self.ram.backing(self.gate_a20(pa));
        if let Backing::Ram(at) = backing
            && !self.tlb.knows_table(at / PAGE, what)
        {
            self.note_table(at, what);
        }
        self.read_table::<N>(backing)
    }

    #[cold]
    fn note_table(&mut self, at: usize, what: u64) {
        if self.ram.mark_table(at) {
            self.tlb.forget_writes_to(at & !(PAGE - 1));
        }
        self.tlb.note_table(at / PAGE, what);
    }

    #[inline(always)]
    fn read_table<const N: usize>(&self, backing: Backing) -> u64 {
        match backing {
            Backing::Ram(at) | Backing::Rom(at) => {
                let entry: &[u8; N] =
                    self.ram.bytes()[at..].first_chunk().expect("entries are aligned");
                let mut bytes = [0; 8];
                bytes[..N].copy_from_slice(entry);
                u64::from_le_bytes(bytes)
            }
            Backing::Mmio => u64::MAX >> (64 - 8 * N),
        }
    }

    fn write_table<const N: usize>(&mut self, pa: u64, entry: u64) {
        if let Backing::Ram(at) = self.ram.backing(self.gate_a20(pa)) {
            self.ram.store_entry(at, &entry.to_le_bytes()[..N]);
        }
    }

    /// Loads the PDPTEs of PAE paging from CR3 (SDM 3A 4.4.1).
    ///
    /// # Errors
    /// #GP(0) if a present one has reserved bits set.
    pub fn load_pdptes(&mut self, cr3: u64) -> Result<(), Trap> {
        let base = cr3 & 0xFFFF_FFE0;
        let entries = core::array::from_fn(|i| {
            self.read_table::<8>(self.ram.backing(self.gate_a20(base + 8 * i as u64)))
        });
        let reserved = !ADDRESS & !(PRESENT | 0xE18);
        if entries.iter().any(|e: &u64| e & PRESENT != 0 && e & reserved != 0) {
            return Err(self.fault(crate::exception::GP));
        }
        self.cpu.pdptes = entries;
        Ok(())
    }
}
