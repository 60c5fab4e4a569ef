//! The address space in which every case runs, the same on the host and in the guest.
//!
//! Contract: all addresses lie below 2 GiB, so that 32-bit code reaches them; what is not listed
//! here is not mapped.

use crate::values::Rng;
use std::sync::OnceLock;

/// Bytes in a page.
pub const PAGE: u64 = 0x1000;
/// First byte of the code: two pages that can be read and executed, but not written.
pub const CODE: u64 = 0x1000_0000;
/// Bytes of code.
pub const CODE_SIZE: u64 = 2 * PAGE;
/// A page that can only be read, just below [`DATA`].
pub const READ_ONLY: u64 = 0x2000_0000;
/// First byte of the data window: two pages that can be read and written, but not executed.
pub const DATA: u64 = READ_ONLY + PAGE;
/// Bytes in the data window.
pub const DATA_SIZE: u64 = 2 * PAGE;
/// End of the data window; nothing is mapped here.
pub const DATA_END: u64 = DATA + DATA_SIZE;

/// 64-bit user code segment, as Linux numbers it.
pub const USER_CS64: u16 = 0x33;
/// 32-bit user code segment.
pub const USER_CS32: u16 = 0x23;
/// Flat user data segment.
pub const USER_DS: u16 = 0x2B;
/// 16-bit code segment with base [`CODE`] (LDT).
pub const LDT_CS16: u16 = LDT_CODE16 << 3 | 7;
/// 64-KiB data segment with base [`READ_ONLY`] (LDT).
pub const LDT_DS16: u16 = LDT_DATA16 << 3 | 7;

const LDT_DATA16: u16 = 0;
const LDT_CODE16: u16 = 4;

/// A segment of the local descriptor table, in the words of Linux's `modify_ldt`.
#[derive(Clone, Copy, Debug)]
pub struct LdtSegment {
    /// Linear address of offset 0.
    pub base: u32,
    /// Highest valid offset in bytes (or pages, if `pages`), lowest invalid one for expand-down
    /// segments.
    pub limit: u32,
    /// D/B.
    pub big: bool,
    /// 0 data, 1 expand-down data, 2 code.
    pub contents: u8,
    /// No write to data; no read from code.
    pub restricted: bool,
    /// G.
    pub pages: bool,
    /// P.
    pub present: bool,
}

impl LdtSegment {
    /// The descriptor (SDM 3A figure 3-8): DPL 3, accessed.
    pub fn descriptor(&self) -> u64 {
        let (base, limit) = (u64::from(self.base), u64::from(self.limit));
        let kind = 1 | u64::from(!self.restricted) << 1 | u64::from(self.contents) << 2;
        let attributes = kind | 1 << 4 | 3 << 5 | u64::from(self.present) << 7;
        let flags = u64::from(self.big) << 2 | u64::from(self.pages) << 3;
        (limit & 0xFFFF)
            | (base & 0xFF_FFFF) << 16
            | attributes << 40
            | (limit >> 16 & 0xF) << 48
            | flags << 52
            | (base >> 24) << 56
    }
}

/// The local descriptor table of every case.
pub const LDT: [LdtSegment; 8] = [
    segment(READ_ONLY, 0xFFFF, false, 0, false),
    segment(DATA, 0x1FFF, true, 0, false),
    LdtSegment { pages: true, ..segment(DATA, 1, true, 0, true) },
    segment(DATA, 0x0FFF, true, 1, false),
    segment(CODE, 0xFFFF, false, 2, false),
    LdtSegment { present: false, ..segment(DATA, 0xFFFF, true, 0, false) },
    segment(CODE, 0x1FFF, true, 2, true),
    segment(DATA, 0x0FFF, false, 1, false),
];

const fn segment(base: u64, limit: u32, big: bool, contents: u8, restricted: bool) -> LdtSegment {
    LdtSegment { base: base as u32, limit, big, contents, restricted, pages: false, present: true }
}

/// Bytes in [`pool`].
pub const POOL_SIZE: usize = 1 << 16;

/// What memory is filled with: edge values of all kinds. The window of a case is a slice of it.
pub fn pool() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut rng = Rng::new(0x706F_6F6C);
        let mut pool = Vec::with_capacity(POOL_SIZE);
        while pool.len() < POOL_SIZE {
            pool.extend_from_slice(&rng.vector().to_le_bytes());
        }
        pool
    })
}
