//! A machine set up by hand for one ring-0 case: tables, code and registers.
//!
//! Layout of the first 256 KiB: GDT 1000h, LDT 1800h, IDT 2000h, TSS 3000h, a second TSS 3800h,
//! page tables 4000h-7FFFh, a handler of one HLT for each vector from 8000h, code 10000h, stacks
//! below 20000h (level 0), 22000h (other levels) and 24000h (level 3), data from 30000h.

use devices::board::BoardConfig;
use devices::time::Icount;
use emulator::cpu::{CS, Cpu, DS, ES, FS, GS, RSP, SS, Segment, TableRegister, cr0, cr4, efer};
use emulator::exception::has_code;
use emulator::machine::{Config, Machine, Stop};

pub const GDT: u64 = 0x1000;
pub const LDT: u64 = 0x1800;
pub const IDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const TSS2: u64 = 0x3800;
pub const TABLES: u64 = 0x4000;
pub const PT: u64 = 0x7000;
pub const HANDLERS: u64 = 0x8000;
pub const CODE: u64 = 0x1_0000;
pub const STACK: u64 = 0x2_0000;
pub const STACK1: u64 = 0x2_2000;
pub const STACK3: u64 = 0x2_4000;
pub const DATA: u64 = 0x3_0000;

pub const CODE32: u16 = 0x08;
pub const DATA0: u16 = 0x10;
pub const CODE64: u16 = 0x18;
pub const USER32: u16 = 0x23;
pub const USER_DATA: u16 = 0x2B;
pub const USER64: u16 = 0x33;
pub const CODE16: u16 = 0x38;
pub const DATA16: u16 = 0x40;
pub const TASK: u16 = 0x48;
/// First descriptor that is free for the case.
pub const FREE: u16 = 0x60;

/// The mode to start in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    Protected,
    Paged32,
    Pae,
    Long,
    Compat,
    V86,
}
pub use Mode::*;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At a HLT outside the handlers.
    Done,
    /// In the handler of this vector.
    Vector(u8),
    /// Triple fault.
    Reset,
    /// Not within 3,000 instructions.
    Running,
}
pub use Outcome::*;

/// What delivery pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    pub code: u64,
    pub rip: u64,
    pub cs: u64,
    pub flags: u64,
    pub rsp: u64,
    pub ss: u64,
}

pub struct Lab {
    pub machine: Machine,
    pub mode: Mode,
}

/// A segment descriptor: access byte, and flags G, D, L, AVL in bits 0-3 of `flags`.
pub fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    (limit & 0xFFFF)
        | (base & 0xFF_FFFF) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xF) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// A gate: type and DPL in the access byte.
pub fn gate(selector: u16, offset: u64, access: u8, low: u8) -> u64 {
    (offset & 0xFFFF)
        | u64::from(selector) << 16
        | u64::from(low) << 32
        | u64::from(access) << 40
        | (offset >> 16 & 0xFFFF) << 48
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let parse = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal")
    };
    digits.chunks(2).map(parse).collect()
}

impl Lab {
    pub fn new(mode: Mode, cpl: u8) -> Self {
        let board = BoardConfig { disks: [None; 4], nics: vec![], uarts: 1 };
        let config = Config { ram_bytes: 4 << 20, board, direct_boot: None };
        let machine = Machine::new(&config).expect("a plain machine");
        let mut lab = Self { machine, mode };
        lab.tables();
        lab.registers(cpl);
        for vector in 0..256 {
            lab.write(HANDLERS + 16 * vector, &[0xF4]);
        }
        lab.sync();
        lab
    }

    fn tables(&mut self) {
        let gdt = [
            0,
            descriptor(0, 0xF_FFFF, 0x9B, 0xC),
            descriptor(0, 0xF_FFFF, 0x93, 0xC),
            descriptor(0, 0xF_FFFF, 0x9B, 0xA),
            descriptor(0, 0xF_FFFF, 0xFB, 0xC),
            descriptor(0, 0xF_FFFF, 0xF3, 0xC),
            descriptor(0, 0xF_FFFF, 0xFB, 0xA),
            descriptor(0, 0xFFFF, 0x9B, 0),
            descriptor(0, 0xFFFF, 0x93, 0),
            descriptor(TSS as u32, 0x2FF, 0x8B, 0),
        ];
        for (n, d) in gdt.into_iter().enumerate() {
            self.write(GDT + 8 * n as u64, &d.to_le_bytes());
        }
        for vector in 0..=255 {
            self.gate(vector, if self.long() { CODE64 } else { CODE32 }, 0xEE);
        }
        if self.long() {
            self.write(TSS + 4, &STACK.to_le_bytes());
        } else {
            for (level, sp) in [(0u64, STACK), (1, STACK1), (2, STACK1)] {
                self.write(TSS + 4 + 8 * level, &(sp as u32).to_le_bytes());
            }
            self.write(TSS + 8, &DATA0.to_le_bytes());
        }
        self.write(TSS + 0x66, &0x68u16.to_le_bytes());
        self.write(TSS + 0x300, &[0xFF]);
        self.page_tables();
    }

    fn page_tables(&mut self) {
        match self.mode {
            Long | Compat => {
                self.put(TABLES, 0x5007);
                self.put(0x5000, 0x6007);
                self.put(0x6000, PT | 7);
            }
            Pae => {
                self.put(TABLES, 0x5001);
                self.put(0x5000, PT | 7);
            }
            Paged32 => self.write(TABLES, &(PT as u32 | 7).to_le_bytes()),
            _ => return,
        }
        for page in 0..512u64 {
            self.set_pte(page << 12, page << 12 | 7);
        }
    }

    fn registers(&mut self, cpl: u8) {
        let (mode, long) = (self.mode, self.long());
        let cpu = &mut self.machine.core_mut().cpu;
        *cpu = Cpu::new();
        cpu.gdtr = TableRegister { base: GDT, limit: 0x7FF };
        cpu.idtr = TableRegister { base: IDT, limit: if long { 0xFFF } else { 0x7FF } };
        let segment = |selector: u16, access: u16| Segment {
            selector,
            base: 0,
            limit: u32::MAX,
            access,
            usable: true,
        };
        if mode == Real {
            for seg in &mut cpu.segs {
                *seg = Segment { limit: 0xFFFF, ..segment(0, 0x93) };
            }
            cpu.segs[CS].selector = 0x1000;
            cpu.segs[CS].base = CODE;
            cpu.rip = 0;
            cpu.regs[RSP] = 0x8000;
            cpu.idtr = TableRegister { base: 0, limit: 0x3FF };
            for vector in 0..256u64 {
                self.write(4 * vector, &(0x0800_0000 | (16 * vector) as u32).to_le_bytes());
            }
            return;
        }
        cpu.cr0 |= cr0::PE | cr0::NE;
        cpu.cr0 &= !(cr0::CD | cr0::NW);
        let user = cpl == 3;
        let (cs, ss) = if user { (USER32, USER_DATA) } else { (CODE32, DATA0) };
        let dpl = u16::from(cpl) << 5;
        for seg in [ES, DS, FS, GS, SS] {
            cpu.segs[seg] = segment(ss, 0xC093 | dpl);
        }
        cpu.segs[CS] = segment(cs, 0xC09B | dpl);
        cpu.cpl = cpl;
        cpu.tr = Segment { limit: 0x2FF, ..segment(TASK, 0x8B) };
        cpu.tr.base = TSS;
        cpu.rip = CODE;
        cpu.regs[RSP] = if user { STACK3 } else { STACK };
        match mode {
            Paged32 => cpu.cr4 |= cr4::PSE,
            Pae | Long | Compat => cpu.cr4 |= cr4::PAE,
            _ => {}
        }
        if mode != Protected && mode != V86 {
            cpu.cr0 |= cr0::PG;
            cpu.cr3 = TABLES;
            cpu.pdptes = [0x5001, 0, 0, 0];
        }
        if long {
            cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        }
        if mode == Long {
            cpu.segs[CS] = segment(if user { USER64 } else { CODE64 }, 0xA09B | dpl);
        }
        if mode == V86 {
            cpu.cpl = 3;
            cpu.flags.set(1 << 17);
            for seg in 0..6 {
                cpu.segs[seg] = Segment { limit: 0xFFFF, ..segment(0, 0xF3) };
            }
            cpu.segs[CS].selector = 0x1000;
            cpu.segs[CS].base = CODE;
            cpu.rip = 0;
            cpu.regs[RSP] = 0x7000;
        }
    }

    /// Whether interrupts are delivered as in long mode.
    pub fn long(&self) -> bool {
        matches!(self.mode, Long | Compat)
    }

    /// Tells the machine that its state was changed.
    pub fn sync(&mut self) {
        self.machine.drop_caches();
    }

    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.machine.core_mut().cpu
    }

    pub fn reg(&mut self, n: usize) -> u64 {
        self.cpu().regs[n]
    }

    pub fn write(&mut self, pa: u64, bytes: &[u8]) {
        self.machine.core_mut().ram.dma_write(pa, bytes);
    }

    pub fn put(&mut self, pa: u64, value: u64) {
        self.write(pa, &value.to_le_bytes());
    }

    pub fn get<const N: usize>(&mut self, pa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.machine.core().ram.dma_read(pa, &mut bytes[..N]);
        u64::from_le_bytes(bytes)
    }

    /// Puts code at [`CODE`].
    pub fn code(&mut self, text: &str) -> &mut Self {
        self.code_at(CODE, text)
    }

    pub fn code_at(&mut self, at: u64, text: &str) -> &mut Self {
        self.write(at, &hex(text));
        self
    }

    /// The page-table entry of a page below 2 MiB.
    pub fn pte(&mut self, la: u64) -> u64 {
        if self.mode == Paged32 {
            self.get::<4>(PT + 4 * (la >> 12))
        } else {
            self.get::<8>(PT + 8 * (la >> 12))
        }
    }

    pub fn set_pte(&mut self, la: u64, entry: u64) {
        if self.mode == Paged32 {
            self.write(PT + 4 * (la >> 12), &(entry as u32).to_le_bytes());
        } else {
            self.put(PT + 8 * (la >> 12), entry);
        }
    }

    /// Sets a descriptor of the GDT.
    pub fn gdt(&mut self, selector: u16, raw: u64) -> &mut Self {
        self.put(GDT + u64::from(selector & 0xFFF8), raw);
        self
    }

    /// Sets the gate of a vector to its handler.
    pub fn gate(&mut self, vector: u8, selector: u16, access: u8) -> &mut Self {
        let raw = gate(selector, HANDLERS + 16 * u64::from(vector), access, 0);
        self.raw_gate(vector, raw)
    }

    pub fn raw_gate(&mut self, vector: u8, raw: u64) -> &mut Self {
        if self.long() {
            self.put(IDT + 16 * u64::from(vector), raw);
            self.put(IDT + 16 * u64::from(vector) + 8, 0);
        } else {
            self.put(IDT + 8 * u64::from(vector), raw);
        }
        self
    }

    /// Runs the code to its end.
    pub fn run(&mut self) -> Outcome {
        self.sync();
        self.go_on(3000)
    }

    /// Runs without dropping caches, at most `most` instructions.
    pub fn go_on(&mut self, most: u64) -> Outcome {
        let end = self.machine.icount().0 + most;
        loop {
            match self.machine.run(Icount(end)) {
                Stop::Reached => return Running,
                Stop::Reset => return Reset,
                Stop::Output => while self.machine.poll_output().is_some() {},
                Stop::Halted(_) => return self.halted(),
                other => panic!("stopped by {other:?}"),
            }
        }
    }

    fn halted(&mut self) -> Outcome {
        let cpu = self.cpu();
        let at = cpu.segs[CS].base.wrapping_add(cpu.rip).wrapping_sub(1);
        let vector = at.wrapping_sub(HANDLERS) / 16;
        if at >= HANDLERS && vector < 256 { Vector(vector as u8) } else { Done }
    }

    /// Executes exactly `n` instructions.
    pub fn step(&mut self, n: u64) {
        let end = self.machine.icount().0 + n;
        assert_eq!(self.machine.run(Icount(end)), Stop::Reached);
    }

    /// The frame of the handler it stands in, of words of `N` bytes.
    pub fn frame<const N: usize>(&mut self) -> Frame {
        let Vector(vector) = self.halted() else { panic!("not in a handler") };
        let cpu = self.cpu();
        let mask = match N {
            8 => u64::MAX,
            _ if cpu.segs[SS].big() => 0xFFFF_FFFF,
            _ => 0xFFFF,
        };
        let base = if N == 8 { 0 } else { cpu.segs[SS].base };
        let mut at = base + (cpu.regs[RSP] & mask);
        let mut next = |lab: &mut Self| {
            at += N as u64;
            lab.get::<N>(at - N as u64)
        };
        let code = if has_code(vector) && self.mode != Real { next(self) } else { 0 };
        let [rip, cs, flags, rsp, ss] = std::array::from_fn(|_| next(self));
        Frame { code, rip, cs, flags, rsp, ss }
    }

    /// Runs and demands this vector with this error code, at this RIP.
    #[track_caller]
    pub fn faults(&mut self, vector: u8, code: u64, rip: u64) -> Frame {
        let outcome = self.run();
        let (mode, at) = (self.mode, self.cpu().rip);
        assert_eq!(outcome, Vector(vector), "{mode:?} at {at:#x}");
        let frame = if self.long() { self.frame::<8>() } else { self.frame::<4>() };
        assert_eq!((frame.code, frame.rip), (code, rip), "error code, RIP of {frame:x?}");
        frame
    }

    /// Runs and demands a HLT at the end of the code.
    #[track_caller]
    pub fn done(&mut self) {
        let outcome = self.run();
        let cpu = self.cpu();
        let (rip, cr2) = (cpu.rip, cpu.cr2);
        if let Vector(_) = outcome {
            let frame = if self.long() { self.frame::<8>() } else { self.frame::<4>() };
            panic!("{outcome:?} with {frame:x?}, CR2 {cr2:#x}");
        }
        assert_eq!(outcome, Done, "at {rip:#x}");
    }
}
