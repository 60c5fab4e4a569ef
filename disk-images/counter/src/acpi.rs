//! ACPI fixed hardware: power button, power-off, and where the power-management timer is (ACPI 6.5,
//! 4.8 and 5.2).
//!
//! No AML is executed: the sleep type of S5 is read from the bytes of `\_S5` in the DSDT.

use crate::cpu::{in16, out8, out16};

const PM1_POWER_BUTTON: u16 = 1 << 8;
const PM1_SCI_ENABLED: u16 = 1;
const PM1_SLEEP_ENABLE: u16 = 1 << 13;
const PM1_SLEEP_TYPE_SHIFT: u16 = 10;
const PM1_SLEEP_TYPE_MASK: u16 = 7 << PM1_SLEEP_TYPE_SHIFT;
const MAX_TABLE_BYTES: u32 = 1 << 20;

/// The fixed hardware that the FADT describes.
pub struct Acpi {
    event_block: u16,
    event_enable: u16,
    control_block: u16,
    timer_block: u16,
    sci_line: u8,
    sleep_type_s5: u16,
}

/// Bytes of a firmware table.
#[derive(Clone, Copy)]
struct Table(&'static [u8]);

impl Table {
    fn u8(self, offset: usize) -> u8 {
        self.0.get(offset).copied().unwrap_or(0)
    }

    fn u16(self, offset: usize) -> u16 {
        u16::from(self.u8(offset)) | u16::from(self.u8(offset + 1)) << 8
    }

    fn u32(self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    fn has_valid_checksum(self) -> bool {
        self.0.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }
}

/// `len` bytes of physical memory that firmware filled and nothing writes.
fn firmware_bytes(address: u32, len: u32) -> Table {
    assert!(
        address >= 0x400 && address.checked_add(len).is_some(),
        "a firmware table at {address:#x} cannot be"
    );
    // SAFETY: the low 4 GiB are mapped, and this program's own memory is never passed here: tables
    // lie in BIOS areas or in memory that the BIOS reserved.
    Table(unsafe { core::slice::from_raw_parts(address as usize as *const u8, len as usize) })
}

/// The table with a standard header at `address` (ACPI 6.5, 5.2.6).
fn table(address: u32) -> Option<Table> {
    let len = firmware_bytes(address, 36).u32(4);
    let table = (36..=MAX_TABLE_BYTES).contains(&len).then(|| firmware_bytes(address, len))?;
    table.has_valid_checksum().then_some(table)
}

/// The RSDT's address, from the root pointer in the extended BIOS data area or below 1 MiB (ACPI
/// 6.5, 5.2.5.1).
fn root_table_address() -> Option<u32> {
    let ebda = u32::from(firmware_bytes(0x40E, 2).u16(0)) << 4;
    let ebda = if (0x80000..0xA0000).contains(&ebda) { ebda } else { 0x9FC00 };
    let candidates = (ebda..ebda + 1024).step_by(16).chain((0xE0000..0x100000).step_by(16));
    candidates
        .map(|address| firmware_bytes(address, 20))
        .find(|pointer| pointer.0.starts_with(b"RSD PTR ") && pointer.has_valid_checksum())
        .map(|pointer| pointer.u32(16))
}

fn fadt() -> Option<Table> {
    let root = table(root_table_address()?)?;
    let entries = (36..root.0.len() - 3).step_by(4).map(|offset| root.u32(offset));
    entries.filter_map(table).find(|table| table.0.starts_with(b"FACP"))
}

/// The first element of the package `\_S5` (ACPI 6.5, 7.4.2), the sleep type to write to PM1a_CNT.
fn sleep_type_s5(dsdt: Table) -> Option<u16> {
    let name = dsdt.0.windows(5).position(|window| window == b"_S5_\x12")?;
    let package_length = name + 5;
    let elements = package_length + 1 + usize::from(dsdt.u8(package_length) >> 6);
    match dsdt.u8(elements + 1) {
        0x0A => Some(u16::from(dsdt.u8(elements + 2))), // BytePrefix
        value @ 0..=1 => Some(u16::from(value)),        // ZeroOp, OneOp
        _ => None,
    }
}

impl Acpi {
    /// Reads the tables, takes the hardware over from the BIOS and enables the power button.
    pub fn new() -> Self {
        let fadt = fadt().expect("the BIOS must provide an ACPI FADT");
        let dsdt = table(fadt.u32(40)).expect("the BIOS must provide an ACPI DSDT");
        let event_block = fadt.u32(56) as u16;
        let acpi = Acpi {
            event_block,
            event_enable: event_block + u16::from(fadt.u8(88)) / 2,
            control_block: fadt.u32(64) as u16,
            timer_block: fadt.u32(76) as u16,
            sci_line: fadt.u8(46) & 15,
            sleep_type_s5: sleep_type_s5(dsdt).expect("the DSDT must tell the sleep type of S5"),
        };
        let (command_port, enable) = (fadt.u32(48) as u16, fadt.u8(52));
        if command_port != 0 && in16(acpi.control_block) & PM1_SCI_ENABLED == 0 {
            out8(command_port, enable);
        }
        out16(acpi.event_block, in16(acpi.event_block)); // clear what came before
        out16(acpi.event_enable, PM1_POWER_BUTTON);
        acpi
    }

    /// The interrupt line of ACPI events.
    pub fn sci_line(&self) -> u8 {
        self.sci_line
    }

    /// The port of the power-management timer.
    pub fn timer_port(&self) -> u16 {
        self.timer_block
    }

    /// Acknowledges the events that came and tells whether the power button was one.
    pub fn take_power_button(&self) -> bool {
        let events = in16(self.event_block);
        out16(self.event_block, events);
        events & PM1_POWER_BUTTON != 0
    }

    /// Switches the machine off (state S5).
    pub fn power_off(&self) {
        let control = in16(self.control_block) & !PM1_SLEEP_TYPE_MASK;
        let sleep = self.sleep_type_s5 << PM1_SLEEP_TYPE_SHIFT & PM1_SLEEP_TYPE_MASK;
        out16(self.control_block, control | sleep | PM1_SLEEP_ENABLE);
    }
}
