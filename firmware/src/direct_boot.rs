//! Direct boot of a Linux bzImage: checks it, places it in RAM, and enters its 16-bit setup code.
//!
//! Contract: everything is placed before the first instruction; a bad kernel is a typed error.
//! Linux Documentation/arch/x86/boot.rst.

use crate::layout::{ACPI_MIN_RAM, ACPI_RESERVED};
use crate::pc::{Pc, iret_to};
use crate::{DirectBoot, Registers};
use core::fmt;
use devices::ram::{HOLE, Ram};

/// Where the setup code stands, and its segment.
const SETUP: u64 = 0x1_0000;
const SETUP_SEGMENT: u16 = 0x1000;
/// Where the command line stands.
const COMMAND_LINE: u64 = 0x2_0000;
/// Longest command line that fits below the EBDA's neighbours.
const COMMAND_LINE_MAX: usize = 0xFFFF;
/// Where the protected-mode kernel stands.
const KERNEL: u64 = 0x10_0000;
/// End of the setup code's heap and stack in its segment.
const HEAP_END: u16 = 0xE000;
const PAGE: u64 = 4096;

/// Why a kernel cannot be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The kernel is not a bzImage: too short, or without the boot signature or "HdrS".
    NotABzImage,
    /// The image speaks a boot protocol older than 2.02, or is a zImage.
    TooOld,
    /// The image is shorter than its header says.
    Truncated,
    /// The setup code does not fit into its segment.
    SetupTooLarge,
    /// The kernel and its initial RAM disk need this many bytes of RAM below 3 GiB.
    NotEnoughMemory(u64),
    /// The initial RAM disk does not fit below the address that the kernel allows.
    InitrdTooLarge,
    /// The command line has more bytes than the kernel takes (this many), or a NUL byte.
    BadCommandLine(u32),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABzImage => f.write_str("the kernel is not a Linux bzImage"),
            Self::TooOld => f.write_str("the kernel is a zImage or older than boot protocol 2.02"),
            Self::Truncated => f.write_str("the kernel image is truncated"),
            Self::SetupTooLarge => f.write_str("the kernel's setup code is too large"),
            Self::NotEnoughMemory(need) => {
                let mib = need.div_ceil(1 << 20);
                write!(f, "the kernel and its initrd need {mib} MiB of memory")
            }
            Self::InitrdTooLarge => {
                f.write_str("the initrd does not fit below the address that the kernel allows")
            }
            Self::BadCommandLine(max) => {
                write!(f, "the kernel command line must be under {max} bytes without NUL")
            }
        }
    }
}

impl core::error::Error for BootError {}

/// Fields of the setup header.
struct Header<'a> {
    image: &'a [u8],
}

impl<'a> Header<'a> {
    fn parse(image: &'a [u8]) -> Result<Self, BootError> {
        let header = Self { image };
        if image.len() < 0x268 || header.word(0x1FE) != 0xAA55 || &image[0x202..0x206] != b"HdrS" {
            return Err(BootError::NotABzImage);
        }
        if header.word(0x206) < 0x202 || image[0x211] & 1 == 0 {
            return Err(BootError::TooOld);
        }
        if header.setup_size() > usize::from(HEAP_END) - 0x1000 {
            return Err(BootError::SetupTooLarge);
        }
        // syssize counts the kernel in paragraphs.
        let system = u64::from(header.long(0x1F4)) * 16;
        let present = image.len().saturating_sub(header.setup_size()) as u64;
        if present == 0 || present + 15 < system {
            return Err(BootError::Truncated);
        }
        Ok(header)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.image[at], self.image[at + 1]])
    }

    fn long(&self, at: usize) -> u32 {
        u32::from(self.word(at)) | u32::from(self.word(at + 2)) << 16
    }

    fn version(&self) -> u16 {
        self.word(0x206)
    }

    /// Boot sector and setup sectors (0 means 4).
    fn setup_size(&self) -> usize {
        let sectors = self.image[0x1F1];
        (usize::from(if sectors == 0 { 4 } else { sectors }) + 1) * 512
    }

    /// Highest address for the last byte of the initrd.
    fn initrd_max(&self) -> u64 {
        if self.version() >= 0x203 { self.long(0x22C).into() } else { 0x37FF_FFFF }
    }

    fn command_line_max(&self) -> usize {
        let max = if self.version() >= 0x206 { self.long(0x238) as usize } else { 255 };
        max.min(COMMAND_LINE_MAX)
    }

    /// End of the memory that the kernel uses before it knows the memory map.
    fn run_end(&self) -> u64 {
        let loaded = KERNEL + (self.image.len() - self.setup_size()) as u64;
        if self.version() < 0x20A {
            return loaded;
        }
        let preferred = u64::from(self.long(0x258)) | u64::from(self.long(0x25C)) << 32;
        let start = preferred.max(KERNEL);
        loaded.max(start.saturating_add(self.long(0x260).into()))
    }
}

/// Places kernel, initrd and command line.
pub fn load(ram: &mut Ram, boot: &DirectBoot) -> Result<(), BootError> {
    let header = Header::parse(&boot.kernel)?;
    let max = header.command_line_max();
    if boot.append.len() > max || boot.append.contains(&0) {
        return Err(BootError::BadCommandLine(max as u32));
    }
    let reserved = if ram.size() >= ACPI_MIN_RAM { ACPI_RESERVED } else { 0 };
    let top = ram.size().min(HOLE) - reserved;
    let run_end = header.run_end();
    let initrd_len = boot.initrd.len() as u64;
    let need = run_end.saturating_add(initrd_len.next_multiple_of(PAGE));
    if need > top {
        return Err(BootError::NotEnoughMemory(need.saturating_add(reserved)));
    }
    let limit = top.min(header.initrd_max().saturating_add(1));
    let initrd = limit.saturating_sub(initrd_len) & !(PAGE - 1);
    if initrd_len != 0 && (initrd_len > limit || initrd < run_end) {
        return Err(BootError::InitrdTooLarge);
    }
    let (setup, kernel) = boot.kernel.split_at(header.setup_size());
    let mut setup = setup.to_vec();
    setup[0x210] = 0xFF; // type_of_loader: undefined
    setup[0x211] |= 0x80; // loadflags: CAN_USE_HEAP
    let initrd = if initrd_len == 0 { 0 } else { initrd };
    for (at, value) in [
        (0x214, KERNEL as u32),
        (0x218, initrd as u32),
        (0x21C, initrd_len as u32),
        (0x228, COMMAND_LINE as u32),
    ] {
        setup[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    setup[0x224..0x226].copy_from_slice(&(HEAP_END - 0x200).to_le_bytes());
    ram.dma_write(SETUP, &setup);
    ram.dma_write(KERNEL, kernel);
    ram.dma_write(initrd, &boot.initrd);
    ram.dma_write(COMMAND_LINE, &boot.append);
    ram.dma_write(COMMAND_LINE + boot.append.len() as u64, &[0]);
    Ok(())
}

/// Leaves for the setup code: CS one sector above the other segments, interrupts off.
pub fn enter(pc: &mut Pc<'_>, registers: &mut Registers) {
    registers.gpr = [0; 8];
    for segment in [0, 3, 4, 5] {
        registers.segments[segment] = SETUP_SEGMENT;
    }
    let stack = (SETUP_SEGMENT, HEAP_END);
    iret_to(pc, registers, stack, (SETUP_SEGMENT + 0x20, 0), 0x0002);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// A bzImage of protocol 2.15 with one setup sector and `payload` bytes.
    fn image(payload: usize) -> Vec<u8> {
        let mut image = vec![0; 1024 + payload];
        image[0x1F1] = 1;
        image[0x1F4..0x1F8].copy_from_slice(&((payload / 16) as u32).to_le_bytes());
        image[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20Fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x22C..0x230].copy_from_slice(&0x7FFF_FFFFu32.to_le_bytes());
        image[0x238..0x23C].copy_from_slice(&2047u32.to_le_bytes());
        image[0x258..0x25C].copy_from_slice(&0x20_0000u32.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
        for (index, byte) in image[1024..].iter_mut().enumerate() {
            *byte = index as u8;
        }
        image
    }

    fn boot(change: impl FnOnce(&mut DirectBoot)) -> (Ram, Result<(), BootError>) {
        let initrd = vec![0xA5; 5000];
        let mut boot = DirectBoot { kernel: image(4096), initrd, append: b"console".to_vec() };
        change(&mut boot);
        let mut ram = Ram::new(8 << 20, &crate::rom());
        let result = load(&mut ram, &boot);
        (ram, result)
    }

    fn long(ram: &Ram, at: u64) -> u32 {
        let mut bytes = [0; 4];
        ram.dma_read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn places_everything_and_fills_the_header() {
        let (ram, result) = boot(|_| {});
        assert_eq!(result, Ok(()));
        let initrd = u64::from(long(&ram, SETUP + 0x218));
        assert_eq!(initrd, ((8 << 20) - 0x1_0000 - 5000) & !0xFFF);
        assert_eq!(long(&ram, SETUP + 0x21C), 5000);
        assert_eq!(long(&ram, initrd), 0xA5A5_A5A5);
        assert_eq!(long(&ram, SETUP + 0x228), COMMAND_LINE as u32);
        assert_eq!(long(&ram, COMMAND_LINE), u32::from_le_bytes(*b"cons"));
        assert_eq!(long(&ram, KERNEL + 4), 0x0706_0504);
        assert_eq!(long(&ram, SETUP + 0x210) & 0xFFFF, 0x81FF);
    }

    #[test]
    fn no_header_panics_or_writes_beyond_ram() {
        let mut seed = 1u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 24
        };
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..300 {
            let changes: Vec<(usize, u8)> = (0..random() % 6)
                .map(|_| (0x1F1 + random() as usize % 0x77, random() as u8))
                .collect();
            let (_, result) = boot(|b| changes.iter().for_each(|&(at, byte)| b.kernel[at] = byte));
            if result.is_ok() { accepted += 1 } else { refused += 1 }
        }
        assert!(accepted > 20 && refused > 20, "{accepted} {refused}");
    }

    #[test]
    fn refuses_what_cannot_boot() {
        let refused = |change: fn(&mut DirectBoot)| boot(change).1.expect_err("refused");
        assert_eq!(refused(|b| b.kernel.truncate(600)), BootError::NotABzImage);
        assert_eq!(refused(|b| b.kernel = vec![]), BootError::NotABzImage);
        assert_eq!(refused(|b| b.kernel[0x202] = 0), BootError::NotABzImage);
        assert_eq!(refused(|b| b.kernel[0x207] = 1), BootError::TooOld);
        assert_eq!(refused(|b| b.kernel[0x211] = 0), BootError::TooOld);
        assert_eq!(refused(|b| b.kernel.truncate(4000)), BootError::Truncated);
        assert_eq!(refused(|b| b.kernel[0x1F1] = 255), BootError::SetupTooLarge);
        assert_eq!(refused(|b| b.append = vec![b'x'; 2048]), BootError::BadCommandLine(2047));
        assert_eq!(refused(|b| b.append = b"a\0b".to_vec()), BootError::BadCommandLine(2047));
        assert!(matches!(
            refused(|b| b.initrd = vec![0; 6 << 20]),
            BootError::NotEnoughMemory(n) if n > 8 << 20
        ));
        let low = |b: &mut DirectBoot| b.kernel[0x22C..0x230].copy_from_slice(&[0, 0, 0x30, 0]);
        assert_eq!(refused(low), BootError::InitrdTooLarge);
        let huge = |b: &mut DirectBoot| b.kernel[0x1F4..0x1F8].fill(0xFF);
        assert_eq!(refused(huge), BootError::Truncated);
    }
}
