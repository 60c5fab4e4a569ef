//! The DSDT: the PCI root, interrupt links over PIRQRC, ISA devices, and S5.
//!
//! Interrupt routing is the same with the 8259s and with the I/O APIC, since the links' lines reach
//! both under the same numbers; so one _PRT names the link devices for both models.

use super::Facts;
use super::mp::{LINK_CHOICES, link_of};
use crate::post::pci::{MEMORY_END, PMBASE, SCI};
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal,
    Field, FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Method,
    Name, ONE, OpRegion, OpRegionSpace, Or, Package, PackageBuilder, Path, ResourceTemplate,
    Return, Scope, Store, ZERO,
};
use acpi_tables::{Aml, AmlSink};
use alloc::vec;
use alloc::vec::Vec;
use devices::ram::HOLE;

/// AML that is already encoded.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

/// Small resource: edge-triggered ISA interrupts, active high (ACPI 6.5, 6.4.2.1).
struct Irq(u8);

impl Aml for Irq {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x22);
        sink.word(1 << self.0);
    }
}

/// Large resource: level-triggered, active high, shared, one of several (ACPI 6.5, 6.4.3.6).
struct Choices(&'static [u8]);

impl Aml for Choices {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.byte(0x89);
        sink.word(2 + 4 * self.0.len() as u16);
        sink.byte(0x09);
        sink.byte(self.0.len() as u8);
        for &line in self.0 {
            sink.dword(line.into());
        }
    }
}

fn encode(items: &[&dyn Aml]) -> Raw {
    let mut bytes = Vec::new();
    for item in items {
        item.to_aml_bytes(&mut bytes);
    }
    Raw(bytes)
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(path.into(), value)
}

/// The body of the DSDT.
pub fn build(facts: &Facts) -> Vec<u8> {
    let root = root_bridge(facts);
    let links = encode(&[
        &link("LNKA", 0),
        &link("LNKB", 1),
        &link("LNKC", 2),
        &link("LNKD", 3),
        &sci_link(),
    ]);
    let cpu = Device::new(
        "CPU0".into(),
        vec![&name("_HID", &"ACPI0007"), &name("_UID", &ZERO)]
            .into_iter()
            .map(|item: &Name| item as &dyn Aml)
            .collect(),
    )
    .encoded();
    let scope = Scope::new("_SB_".into(), vec![&cpu, &root, &links]).encoded();
    let zero_package = Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]);
    encode(&[&scope, &name("_S5_", &zero_package)]).0
}

/// Encodes a term whose children borrow temporaries.
trait Encoded {
    fn encoded(&self) -> Raw;
}

impl<T: Aml> Encoded for T {
    fn encoded(&self) -> Raw {
        encode(&[self])
    }
}

fn root_bridge(facts: &Facts) -> Raw {
    use AddressSpaceCacheable::{Cacheable, NotCacheable};
    let hole = (HOLE as u32).min(MEMORY_END);
    let resources = ResourceTemplate::new(vec![
        &AddressSpace::new_bus_number(0u16, 0xFFu16),
        &IO::new(0xCF8, 0xCF8, 1, 8),
        &AddressSpace::new_io(0x0000u16, 0x0CF7u16, None),
        &AddressSpace::new_io(0x0D00u16, 0xFFFFu16, None),
        &AddressSpace::new_memory(Cacheable, true, 0x000A_0000u32, 0x000B_FFFFu32, None),
        &AddressSpace::new_memory(NotCacheable, true, hole, MEMORY_END - 1, None),
    ])
    .encoded();
    Device::new(
        "PCI0".into(),
        vec![
            &name("_HID", &EISAName::new("PNP0A03")),
            &name("_ADR", &ZERO),
            &name("_UID", &ONE),
            &name("_CRS", &resources),
            &name("_PRT", &routing()),
            &isa_bridge(facts),
        ],
    )
    .encoded()
}

/// _PRT: every pin of every device to its link; the bridge's own INTA# is the SCI.
fn routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    let links = ["LNKA", "LNKB", "LNKC", "LNKD"];
    for device in 1..32u8 {
        for pin in 0..4u8 {
            let link = links[link_of(device, pin)];
            let link = if (device, pin) == (1, 0) { "LNKS" } else { link };
            let address = u32::from(device) << 16 | 0xFFFF;
            table.add_element(&Package::new(vec![&address, &pin, &Path::new(link), &ZERO]));
        }
    }
    table
}

fn isa_bridge(facts: &Facts) -> Raw {
    let region = OpRegion::new("P40C".into(), OpRegionSpace::PCIConfig, &0x60u8, &4u8);
    let registers = Field::new(
        "P40C".into(),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        [*b"PRQ0", *b"PRQ1", *b"PRQ2", *b"PRQ3"]
            .into_iter()
            .map(|name| FieldEntry::Named(name, 8))
            .collect(),
    );
    let mut devices = vec![
        device("PIC_", "PNP0000", 0, &[(0x20, 2), (0xA0, 2), (0x4D0, 2)], Some(2)),
        device("TMR_", "PNP0100", 0, &[(0x40, 4)], Some(0)),
        device("SPKR", "PNP0800", 0, &[(0x61, 1)], None),
        device("FPU_", "PNP0C04", 0, &[(0xF0, 1)], Some(13)),
        device("RTC_", "PNP0B00", 0, &[(0x70, 8)], Some(8)),
        device("KBD_", "PNP0303", 0, &[(0x60, 1), (0x64, 1)], Some(1)),
        device("MOU_", "PNP0F13", 0, &[], Some(12)),
        // The power-management and SMBus registers, ELCR and reset are nobody else's.
        device("PMIO", "PNP0C02", 1, &[(PMBASE, 0x40), (PMBASE + 0x100, 0x10), (0xB2, 2)], None),
    ];
    for &(index, port) in &facts.serial {
        let path = ["COM1", "COM2", "COM3", "COM4"][usize::from(index & 3)];
        let irq = if index & 1 == 0 { 4 } else { 3 };
        devices.push(device(path, "PNP0501", index + 1, &[(port, 8)], Some(irq)));
    }
    let mut children: Vec<&dyn Aml> = Vec::new();
    let address = name("_ADR", &0x0001_0000u32);
    children.extend([&address as &dyn Aml, &region, &registers]);
    children.extend(devices.iter().map(|device| device as &dyn Aml));
    Device::new("ISA_".into(), children).encoded()
}

/// An ISA device with fixed resources.
fn device(path: &str, id: &str, uid: u8, ports: &[(u16, u8)], irq: Option<u8>) -> Raw {
    let ports: Vec<IO> =
        ports.iter().map(|&(port, length)| IO::new(port, port, 1, length)).collect();
    let irq = irq.map(Irq);
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    resources.extend(irq.iter().map(|irq| irq as &dyn Aml));
    Device::new(
        path.into(),
        vec![
            &name("_HID", &EISAName::new(id)),
            &name("_UID", &uid),
            &name("_CRS", &ResourceTemplate::new(resources)),
        ],
    )
    .encoded()
}

/// A link device over one PIRQRC register: bit 7 disables, bits 3-0 are the line.
fn link(path: &str, index: u8) -> Raw {
    let register = Path::new(match index {
        0 => "\\_SB_.PCI0.ISA_.PRQ0",
        1 => "\\_SB_.PCI0.ISA_.PRQ1",
        2 => "\\_SB_.PCI0.ISA_.PRQ2",
        _ => "\\_SB_.PCI0.ISA_.PRQ3",
    });
    let disabled = 0x80u8;
    let masked = And::new(&ZERO, &register, &disabled);
    let is_disabled = Equal::new(&masked, &disabled);
    let (absent, present) = (0x09u8, 0x0Bu8);
    let (return_absent, return_present) = (Return::new(&absent), Return::new(&present));
    let status = Method::new(
        "_STA".into(),
        0,
        false,
        vec![&If::new(&is_disabled, vec![&return_absent]), &Else::new(vec![&return_present])],
    )
    .encoded();
    let disable =
        Method::new("_DIS".into(), 0, false, vec![&Or::new(&register, &register, &disabled)])
            .encoded();
    let interrupt = Interrupt::new(true, false, false, true, 0);
    let template = ResourceTemplate::new(vec![&interrupt]);
    // The line's number stands at byte 5 of the descriptor.
    let (buffer, line, at) = (Path::new("PRR0"), Path::new("PRRI"), 5u8);
    let line_mask = 0x0Fu8;
    let current = Method::new(
        "_CRS".into(),
        0,
        true,
        vec![
            &name("PRR0", &template),
            &CreateDWordField::new(&line, &buffer, &at),
            &And::new(&line, &register, &line_mask),
            &Return::new(&buffer),
        ],
    )
    .encoded();
    let set = Method::new(
        "_SRS".into(),
        1,
        true,
        vec![&CreateDWordField::new(&line, &Arg(0), &at), &Store::new(&register, &line)],
    )
    .encoded();
    Device::new(
        path.into(),
        vec![
            &name("_HID", &EISAName::new("PNP0C0F")),
            &name("_UID", &index),
            &name("_PRS", &ResourceTemplate::new(vec![&Choices(&LINK_CHOICES)])),
            &status,
            &disable,
            &current,
            &set,
        ],
    )
    .encoded()
}

/// The link of the power-management function: wired to the SCI.
fn sci_link() -> Raw {
    const LINES: [u8; 1] = [SCI];
    let resources = ResourceTemplate::new(vec![&Choices(&LINES)]).encoded();
    Device::new(
        "LNKS".into(),
        vec![
            &name("_HID", &EISAName::new("PNP0C0F")),
            &name("_UID", &4u8),
            &name("_PRS", &resources),
            &name("_STA", &0x0Bu8),
            &Method::new("_DIS".into(), 0, false, vec![]),
            &name("_CRS", &resources),
            &Method::new("_SRS".into(), 1, false, vec![]),
        ],
    )
    .encoded()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn serial_ports_appear_only_when_present() {
        let mut facts = super::super::facts();
        let count = |facts: &Facts| {
            let aml = build(facts);
            aml.windows(4).filter(|w| w.starts_with(b"COM")).count()
        };
        assert_eq!(count(&facts), 2);
        facts.serial.clear();
        assert_eq!(count(&facts), 0);
    }

    /// Disassembled and compiled again, the AML says the same, wherever ACPICA's compiler exists.
    #[test]
    fn the_acpi_compiler_accepts_every_table() {
        use std::process::Command;
        if Command::new("iasl").arg("-v").output().is_err() {
            let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
            assert!(!required, "iasl (acpica-tools) is not installed");
            std::eprintln!("left out: no iasl here");
            return;
        }
        let dir = std::env::temp_dir().join(std::format!("dsdt-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let (_, tables) = super::super::acpi::build(&super::super::facts(), 0xBFFF_0000);
        let mut at = 64;
        let mut checked = 0;
        while at + 36 < tables.len() {
            let length = u32::from_le_bytes(tables[at + 4..at + 8].try_into().expect("four"));
            let table = &tables[at..at + length as usize];
            let file = dir.join(std::format!("table{checked}.aml"));
            std::fs::write(&file, table).expect("written");
            let output = Command::new("iasl").arg("-d").arg(&file).output().expect("runs");
            assert!(output.status.success(), "{output:?}");
            let source = file.with_extension("dsl");
            let output = Command::new("iasl").arg(&source).output().expect("runs");
            let text = std::string::String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains(" 0 Errors"), "{text}");
            at = (at + length as usize).next_multiple_of(64);
            checked += 1;
        }
        std::fs::remove_dir_all(&dir).expect("removed");
        assert_eq!(checked, 5);
    }

    #[test]
    fn links_have_every_method_that_the_kernel_calls() {
        let aml = build(&super::super::facts());
        for wanted in [b"_PRT", b"_PRS", b"_CRS", b"_SRS", b"_DIS", b"_STA", b"_S5_"] {
            assert!(aml.windows(4).any(|w| w == wanted));
        }
    }
}
