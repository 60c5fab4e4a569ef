//! A machine's state in a form that can be compared with another's, to name what differs.
//!
//! Contract: page hashes instead of pages, all else as it is. From bytes of another machine comes a
//! typed error or a fingerprint of bounded size, never a panic.

use crate::cpu::flags::Flags;
use crate::cpu::{Cpu, Fpu, Segment};
use crate::machine::ConfigError;
use crate::snapshot::{Processor, decode, encode, seal, unseal};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use devices::ram::{PAGE, physical};
use serde::{Deserialize, Serialize};

/// What begins a fingerprint's bytes.
const MAGIC: &[u8; 8] = b"ftemuFPR";
/// Pages that are counted one by one in a description; of the others there is the number.
const REGISTERS_NAMED: usize = 4;

/// The state at a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Retired instructions.
    pub icount: u64,
    /// A hash of every page of RAM.
    pub pages: Vec<u64>,
    /// CPU and clock, encoded.
    pub cpu: Vec<u8>,
    /// Name and encoded state of each chip.
    pub sections: Vec<(String, Vec<u8>)>,
}

/// The same as bytes: equal hashes of neighbouring pages are counted.
#[derive(Serialize, Deserialize)]
struct Wire {
    icount: u64,
    runs: Vec<(u32, u64)>,
    cpu: Vec<u8>,
    sections: Vec<(String, Vec<u8>)>,
}

impl Fingerprint {
    /// As bytes: about nine for each page in use.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut runs: Vec<(u32, u64)> = Vec::new();
        for &hash in &self.pages {
            match runs.last_mut() {
                Some((count, same)) if *same == hash => *count += 1,
                _ => runs.push((1, hash)),
            }
        }
        let (cpu, sections) = (self.cpu.clone(), self.sections.clone());
        seal(MAGIC, &encode(&Wire { icount: self.icount, runs, cpu, sections }))
    }

    /// The inverse, for a machine with `pages` pages.
    ///
    /// # Errors
    /// Bytes that are not such a fingerprint.
    pub fn from_bytes(bytes: &[u8], pages: u32) -> Result<Self, ConfigError> {
        let wire: Wire = decode(unseal(MAGIC, bytes)?)?;
        let total: u64 = wire.runs.iter().map(|&(count, _)| u64::from(count)).sum();
        if total != u64::from(pages) {
            return Err(ConfigError(format!("fingerprint: {total} pages instead of {pages}")));
        }
        let mut hashes = Vec::with_capacity(pages as usize);
        for (count, hash) in wire.runs {
            hashes.resize(hashes.len() + count as usize, hash);
        }
        let Wire { icount, cpu, sections, .. } = wire;
        Ok(Self { icount, pages: hashes, cpu, sections })
    }
}

/// Names what differs between the states of two machines that should be the same: registers, then
/// the first difference of each chip, then the first page. `here` and `there` are what the text
/// calls them.
#[must_use]
pub fn first_difference(here: &Fingerprint, there: &Fingerprint) -> Option<String> {
    let mut found = Vec::new();
    if here.icount != there.icount {
        found.push(format!("icount: {} here, {} there", here.icount, there.icount));
    }
    if here.cpu != there.cpu {
        found.push(registers_differ(&here.cpu, &there.cpu));
    }
    found.extend(chips_differ(&here.sections, &there.sections));
    found.extend(pages_differ(&here.pages, &there.pages));
    if found.is_empty() { None } else { Some(found.join("; ")) }
}

fn registers_differ(here: &[u8], there: &[u8]) -> String {
    let (Ok(a), Ok(b)) = (decode::<Processor>(here), decode::<Processor>(there)) else {
        return String::from("the CPU, of which one side's state cannot be decoded");
    };
    let pairs = registers(&a).into_iter().zip(registers(&b));
    let mut differing = pairs.filter(|(a, b)| a.1 != b.1);
    let named = differing.by_ref().take(REGISTERS_NAMED);
    let mut text = named
        .map(|((name, a), (_, b))| format!("register {name}: {a:#x} here, {b:#x} there"))
        .collect::<Vec<_>>()
        .join("; ");
    let more = differing.count();
    if more > 0 {
        text.push_str(&format!(" (and {more} more)"));
    }
    if !text.is_empty() {
        return text;
    }
    if a.clock != b.clock {
        return String::from("the clock");
    }
    if a.cpu.random != b.cpu.random {
        return String::from("the random number generator");
    }
    let at = here.iter().zip(there).take_while(|(a, b)| a == b).count();
    format!("the CPU, at byte {at} of its state")
}

fn chips_differ(here: &[(String, Vec<u8>)], there: &[(String, Vec<u8>)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, a) in here {
        let Some((_, b)) = there.iter().find(|(other, _)| other == name) else {
            found.push(format!("device {name}: here only"));
            continue;
        };
        if a != b {
            let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            let byte = |bytes: &[u8]| bytes.get(at).map_or("none".into(), |b| format!("{b:#04x}"));
            let (x, y, len) = (byte(a), byte(b), a.len());
            found.push(format!("device {name}: byte {at} of {len}: {x} here, {y} there"));
        }
    }
    let missing = there.iter().filter(|(name, _)| here.iter().all(|(other, _)| other != name));
    found.extend(missing.map(|(name, _)| format!("device {name}: there only")));
    found
}

fn pages_differ(here: &[u64], there: &[u64]) -> Option<String> {
    if here.len() != there.len() {
        return Some(format!("RAM: {} pages here, {} there", here.len(), there.len()));
    }
    let mut differing = (0..here.len()).filter(|&page| here[page] != there[page]);
    let first = differing.next()?;
    let at = physical((first * PAGE) as u64);
    let mut text = format!("page {first:#x} (physical {at:#x})");
    let more = differing.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    Some(text)
}

/// Every register by name.
fn registers(state: &Processor) -> Vec<(String, u128)> {
    const GENERAL: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
    let Cpu { regs, rip, flags, segs, ldtr, tr, gdtr, idtr, cpl, .. } = &*state.cpu;
    let mut list = List(Vec::new());
    list.add("rip", *rip);
    list.add("rflags", Flags::get(flags));
    for (name, value) in GENERAL.iter().zip(regs) {
        list.add(name, *value);
    }
    for (name, segment) in SEGMENTS.iter().zip(segs) {
        list.segment(name, segment);
    }
    list.segment("ldtr", ldtr);
    list.segment("tr", tr);
    list.add("gdtr.base", gdtr.base);
    list.add("gdtr.limit", gdtr.limit);
    list.add("idtr.base", idtr.base);
    list.add("idtr.limit", idtr.limit);
    list.add("cpl", *cpl);
    list.system(&state.cpu);
    list.fpu(&state.cpu.fpu);
    list.numbered("xmm", &state.cpu.xmm);
    list.add("mxcsr", state.cpu.mxcsr);
    list.add("icount", state.icount);
    list.add("pam", state.shadow_writable);
    list.0
}

struct List(Vec<(String, u128)>);

impl List {
    fn add(&mut self, name: &str, value: impl Into<u128>) {
        self.0.push((name.to_string(), value.into()));
    }

    fn numbered<T: Copy + Into<u128>>(&mut self, name: &str, values: &[T]) {
        for (n, &value) in values.iter().enumerate() {
            self.0.push((format!("{name}{n}"), value.into()));
        }
    }

    fn segment(&mut self, name: &str, segment: &Segment) {
        self.add(name, segment.selector);
        self.add(&format!("{name}.base"), segment.base);
        self.add(&format!("{name}.limit"), segment.limit);
        self.add(&format!("{name}.access"), segment.access);
        self.add(&format!("{name}.usable"), segment.usable);
    }

    fn system(&mut self, cpu: &Cpu) {
        self.add("cr0", cpu.cr0);
        self.add("cr2", cpu.cr2);
        self.add("cr3", cpu.cr3);
        self.add("cr4", cpu.cr4);
        self.numbered("pdpte", &cpu.pdptes);
        self.numbered("dr", &cpu.dr);
        self.add("efer", cpu.efer);
        self.add("xcr0", cpu.xcr0);
        let m = &cpu.msrs;
        for (name, value) in [
            ("star", m.star),
            ("lstar", m.lstar),
            ("cstar", m.cstar),
            ("fmask", m.sfmask),
            ("kernel_gs_base", m.kernel_gs_base),
            ("tsc_aux", m.tsc_aux),
            ("tsc_offset", m.tsc_offset),
            ("tsc_adjust", m.tsc_adjust),
            ("sysenter_cs", m.sysenter_cs),
            ("sysenter_esp", m.sysenter_esp),
            ("sysenter_eip", m.sysenter_eip),
            ("spec_ctrl", m.spec_ctrl),
            ("pat", m.pat),
            ("misc_enable", m.misc_enable),
            ("mcg_status", m.mcg_status),
            ("mtrr_def_type", m.mtrr_def_type),
        ] {
            self.add(name, value);
        }
        self.numbered("mtrr_variable", &m.mtrr_variable);
        self.numbered("mtrr_fixed", &m.mtrr_fixed);
        self.add("halted", cpu.halted);
        self.add("shutdown", cpu.shutdown);
        self.add("interrupt shadow", cpu.shadow);
        self.add("debug shadow", cpu.shadow_debug);
        self.add("NMI blocked", cpu.nmi_blocked);
        self.add("pending debug", cpu.pending_debug);
        self.add("resume at", cpu.resume_at);
        self.add("exceptions delivered", cpu.delivered.0);
        self.add("exceptions delivered at", cpu.delivered.1);
    }

    fn fpu(&mut self, fpu: &Fpu) {
        self.numbered("x87 significand ", &fpu.significand);
        self.numbered("x87 exponent ", &fpu.sign_exponent);
        self.add("x87 control", fpu.control);
        self.add("x87 status", fpu.status);
        self.add("x87 valid", fpu.valid);
        self.add("x87 fip", fpu.fip);
        self.add("x87 fcs", fpu.fcs);
        self.add("x87 fdp", fpu.fdp);
        self.add("x87 fds", fpu.fds);
        self.add("x87 fop", fpu.fop);
    }
}
