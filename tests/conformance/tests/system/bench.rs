//! A bare machine in a given mode, whose handlers halt: runs a few bytes of code and tells how they
//! ended.
//!
//! Memory: page tables at 0x1000, GDT at 0x8000, LDT at 0x8400, TSSs at 0x8800, IDT at 0x9000, one
//! HLT for each vector at 0xA000 (16 bytes apart), stacks that grow down from 0xD000 (ring 0) and
//! 0xF000 (interrupt stack), code at [`CODE`]; free memory from 0x10_0000. All of it is mapped
//! where it lies in physical memory.

use conformance::guest::bare_board;
use devices::time::Icount;
use emulator::cpu::{self, Cpu, Segment, TableRegister, cr0, cr4, efer};
use emulator::machine::{Config, Machine, Stop};

/// Where [`Bench::run`] puts its code.
pub const CODE: u64 = 0x7000;
/// Ring-3 code and data pages in the long-mode and paged benches.
pub const USER_CODE: u64 = 0x20_0000;
/// Free memory, mapped for the supervisor.
pub const FREE: u64 = 0x10_0000;
/// Physical address of the page-map level-4 table.
pub const PML4: u64 = 0x1000;
/// Physical address of the table that maps 0 to 2 MiB by 4-KiB pages.
pub const LOW_TABLE: u64 = 0x4000;
/// Physical address of the table that maps 2 to 4 MiB by 4-KiB pages, for users.
pub const USER_TABLE: u64 = 0x5000;
/// Global descriptor table.
pub const GDT: u64 = 0x8000;
/// Task-state segment of TR.
pub const TSS: u64 = 0x8800;
/// Interrupt descriptor table.
pub const IDT: u64 = 0x9000;
const HANDLERS: u64 = 0xA000;
/// Initial stack pointer.
pub const STACK: u64 = 0xD000;
/// Stack for entries into ring 0 (RSP0, ESP0).
pub const RING0_STACK: u64 = 0xE000;

/// 64-bit ring-0 code.
pub const CS64: u16 = 0x08;
/// 32-bit ring-0 code.
pub const CS32: u16 = 0x10;
/// Ring-0 data.
pub const DS0: u16 = 0x18;
/// 32-bit ring-3 code.
pub const USER_CS32: u16 = 0x23;
/// Ring-3 data.
pub const USER_DS: u16 = 0x2B;
/// 64-bit ring-3 code.
pub const USER_CS64: u16 = 0x33;
/// The task register's descriptor (16 bytes in long mode).
pub const TR: u16 = 0x40;
/// First free GDT slot for a case's own descriptors.
pub const OWN: u16 = 0x60;

/// How the code of a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// At the HLT behind it.
    Done,
    /// With an exception or interrupt whose handler has run.
    Vector {
        /// Its number.
        vector: u8,
        /// The error code pushed, where the vector has one.
        error: u32,
        /// RIP pushed, relative to the code.
        at: i64,
    },
    /// With a triple fault.
    Reset,
    /// At a HLT elsewhere.
    Elsewhere(u64),
}

/// An exception at the first instruction.
pub fn fault(vector: u8, error: u32) -> Ended {
    Ended::Vector { vector, error, at: 0 }
}

/// The machine.
pub struct Bench {
    machine: Machine,
    /// Code bytes per pushed word: 8 in long mode, 4 in protected mode.
    word: u64,
}

impl Bench {
    fn bare() -> Self {
        let config = Config { ram_bytes: 8 << 20, board: bare_board(), direct_boot: None };
        let machine = Machine::new(&config).expect("a machine without devices");
        let mut bench = Self { machine, word: 4 };
        for vector in 0..256 {
            bench.put(HANDLERS + 16 * vector, &[0xF4]);
        }
        let flat = [
            (CS64, 0x00AF_9B00_0000_FFFFu64),
            (CS32, 0x00CF_9B00_0000_FFFF),
            (DS0, 0x00CF_9300_0000_FFFF),
            (USER_CS32, 0x00CF_FB00_0000_FFFF),
            (USER_DS, 0x00CF_F300_0000_FFFF),
            (USER_CS64, 0x00AF_FB00_0000_FFFF),
        ];
        for (selector, descriptor) in flat {
            bench.descriptor(selector, descriptor);
        }
        let cpu = bench.cpu();
        cpu.gdtr = TableRegister { base: GDT, limit: 0x3FF };
        cpu.idtr = TableRegister { base: IDT, limit: 0xFFF };
        cpu.regs[cpu::RSP] = STACK;
        cpu.ldtr = Segment { usable: false, ..Segment::default() };
        cpu.tr = Segment { selector: TR, base: TSS, limit: 0x67, access: 0x8B, usable: true };
        bench
    }

    /// 64-bit mode, ring 0, 4-level paging.
    pub fn long() -> Self {
        let mut bench = Self::bare();
        bench.word = 8;
        const DIRECTORY: u64 = 7;
        bench.put64(PML4, 0x2000 | DIRECTORY);
        bench.put64(0x2000, 0x3000 | DIRECTORY);
        bench.put64(0x3000, LOW_TABLE | DIRECTORY);
        bench.put64(0x3008, USER_TABLE | DIRECTORY);
        for page in 0..512 {
            bench.put64(LOW_TABLE + 8 * page, page << 12 | 3);
            bench.put64(USER_TABLE + 8 * page, (0x20_0000 + (page << 12)) | 7);
        }
        for vector in 0..=255 {
            bench.gate64(vector, 0x8E00, 0);
        }
        bench.put64(TSS + 4, RING0_STACK);
        bench.put64(TSS + 0x60, 0x68 << 48);
        bench.descriptor(TR, 0x0000_8B00_8800_0067);
        let cpu = bench.cpu();
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr3 = PML4;
        cpu.cr4 = cr4::PAE
            | cr4::PGE
            | cr4::DE
            | cr4::OSFXSR
            | cr4::OSXMMEXCPT
            | cr4::OSXSAVE
            | cr4::FSGSBASE;
        cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
        bench.set_segments(CS64, DS0);
        bench
    }

    /// 32-bit protected mode, ring 0, no paging.
    pub fn protected() -> Self {
        let mut bench = Self::bare();
        for vector in 0..=255 {
            bench.gate32(vector, 0x8E00);
        }
        bench.put(TSS + 4, &(RING0_STACK as u32).to_le_bytes());
        bench.put(TSS + 8, &u32::from(DS0).to_le_bytes());
        bench.put(TSS + 0x64, &0x0068_0000u32.to_le_bytes());
        bench.descriptor(TR, 0x0000_8B00_8800_0067);
        let cpu = bench.cpu();
        cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
        bench.set_segments(CS32, DS0);
        bench
    }

    /// Real-address mode with CS, DS, ES and SS 0.
    pub fn real() -> Self {
        let mut bench = Self::bare();
        bench.word = 2;
        for vector in 0..256 {
            bench.put(4 * vector, &((HANDLERS + 16 * vector) as u32).to_le_bytes());
        }
        let cpu = bench.cpu();
        cpu.cr0 = cr0::ET | cr0::NE;
        cpu.idtr = TableRegister { base: 0, limit: 0x3FF };
        for segment in &mut cpu.segs {
            segment.load_real(0);
            segment.limit = 0xFFFF;
            segment.access = 0x93;
        }
        cpu.segs[cpu::CS].access = 0x9B;
        bench
    }

    /// The CPU, to set up a case.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.machine.core_mut().cpu
    }

    /// The machine, with its caches brought up to date with what was set.
    pub fn into_machine(mut self) -> Machine {
        self.machine.drop_caches();
        self.machine
    }

    /// Writes to memory.
    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        self.machine.core_mut().ram.store(at as usize, bytes);
    }

    /// Writes 8 bytes.
    pub fn put64(&mut self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Reads `word`-sized numbers.
    pub fn get(&mut self, at: u64, size: usize) -> u64 {
        let at = at as usize;
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&self.machine.core_mut().ram.bytes()[at..at + size]);
        u64::from_le_bytes(bytes)
    }

    /// Writes a GDT entry.
    pub fn descriptor(&mut self, selector: u16, descriptor: u64) {
        self.put64(GDT + u64::from(selector & !7), descriptor);
    }

    /// A long-mode gate to the handler of `vector`: attributes as bits 32-47 of the gate have them,
    /// and the IST.
    pub fn gate64(&mut self, vector: u8, attributes: u64, ist: u64) {
        let handler = HANDLERS + 16 * u64::from(vector);
        let at = IDT + 16 * u64::from(vector);
        self.put64(at, handler | u64::from(CS64) << 16 | (attributes | ist) << 32);
        self.put64(at + 8, 0);
    }

    /// A protected-mode gate to the handler of `vector`.
    pub fn gate32(&mut self, vector: u8, attributes: u64) {
        let handler = HANDLERS + 16 * u64::from(vector);
        let at = IDT + 8 * u64::from(vector);
        self.put64(at, handler | u64::from(CS32) << 16 | attributes << 32);
    }

    /// Loads CS and the data segments with the flat segments of these selectors.
    pub fn set_segments(&mut self, code: u16, data: u16) {
        let code = self.segment(code);
        let data = self.segment(data);
        let cpu = self.cpu();
        cpu.segs = [data; 6];
        cpu.segs[cpu::CS] = code;
        cpu.cpl = (code.selector & 3) as u8;
    }

    /// A segment register as loading `selector` from the GDT makes it.
    pub fn segment(&mut self, selector: u16) -> Segment {
        let descriptor = self.get(GDT + u64::from(selector & !7), 8);
        let limit = (descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000) as u32;
        let granular = descriptor >> 55 & 1 == 1;
        Segment {
            selector,
            base: descriptor >> 16 & 0xFF_FFFF | descriptor >> 56 << 24,
            limit: if granular { limit << 12 | 0xFFF } else { limit },
            access: (descriptor >> 40) as u16 & 0xF0FF,
            usable: true,
        }
    }

    /// Goes to ring 3, 32-bit.
    pub fn user32(mut self) -> Self {
        self.set_segments(USER_CS32, USER_DS);
        self.cpu().regs[cpu::RSP] = USER_CODE + 0x2000;
        self
    }

    /// Runs `code`, at [`CODE`] in ring 0 and at [`USER_CODE`] in ring 3. Behind it stands HLT (#GP
    /// in ring 3).
    pub fn run(&mut self, code: &[u8]) -> Ended {
        let start = if self.cpu().cpl == 3 && !self.cpu().v86() { USER_CODE } else { CODE };
        self.put(start, code);
        self.put(start + code.len() as u64, &[0xF4]);
        let base = self.cpu().segs[cpu::CS].base;
        self.cpu().rip = start - base;
        self.go(start, code.len() as u64)
    }

    /// Runs on from the CPU's state; `start` and `length` say where the case's code lies.
    pub fn go(&mut self, start: u64, length: u64) -> Ended {
        let core = self.machine.core_mut();
        core.cpu.halted = false;
        core.update_mode();
        core.flush_tlb();
        let until = Icount(self.machine.icount().0 + 10_000);
        let stop = self.machine.run(until);
        match stop {
            Stop::Halted(_) => {}
            Stop::Reset => return Ended::Reset,
            other => panic!("the code ends with {other:?} at {:#x}", self.cpu().rip),
        }
        let cpu = self.cpu();
        let rip = cpu.rip.wrapping_add(cpu.segs[cpu::CS].base);
        if !(HANDLERS..HANDLERS + 0x1000).contains(&rip) {
            return if rip == start + length + 1 { Ended::Done } else { Ended::Elsewhere(rip) };
        }
        let vector = ((rip - HANDLERS) / 16) as u8;
        let has_error = matches!(vector, 8 | 10..=14 | 17) && self.word > 2;
        let frame = self.frame();
        let top = self.top();
        let error = if has_error { self.get(top, self.word as usize) as u32 } else { 0 };
        Ended::Vector { vector, error, at: (frame[0] as i64).wrapping_sub(start as i64) }
    }

    fn top(&mut self) -> u64 {
        let cpu = self.cpu();
        cpu.regs[cpu::RSP].wrapping_add(cpu.segs[cpu::SS].base)
    }

    /// What the last exception pushed, without the error code: RIP, CS, RFLAGS, RSP, SS and what
    /// follows.
    pub fn frame(&mut self) -> [u64; 9] {
        let word = self.word;
        let cpu = self.cpu();
        let vector =
            (cpu.rip.wrapping_add(cpu.segs[cpu::CS].base).wrapping_sub(HANDLERS) / 16) as u8;
        let skip = if matches!(vector, 8 | 10..=14 | 17) && word > 2 { word } else { 0 };
        let top = self.top() + skip;
        std::array::from_fn(|n| self.get(top + word * n as u64, word as usize))
    }
}

/// A case: its name, what it sets up, its code, and how it ends.
pub type Row<'a> = (&'a str, fn(&mut Bench), &'a [u8], Ended);

/// Runs each case on a fresh machine and compares how it ended.
pub fn check(machine: fn() -> Bench, cases: &[Row]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(name, prepare, code, expected)| {
            let mut bench = machine();
            prepare(&mut bench);
            let ended = bench.run(code);
            (ended != *expected).then(|| format!("{name}: {ended:x?}, expected {expected:x?}"))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {} cases are wrong:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
