//! Runs cases in the emulator: a bare 64-bit machine with the same address space, whose kernel
//! halts at any exception.
//!
//! Contract: the guest's descriptor tables and pages are those of the host as far as ring 3 can
//! tell; the kernel lies in the upper half of the address space.

use crate::layout::{self, CODE, CODE_SIZE, DATA_SIZE, LDT, PAGE, READ_ONLY};
use crate::run::Executor;
use crate::state::{self, Case, Event, Mode, Outcome, State, X87};
use devices::board::BoardConfig;
use devices::ram::Ram;
use devices::time::Icount;
use emulator::accelerator::Accelerator;
use emulator::cpu::{Cpu, Fpu, Segment, TableRegister};
use emulator::machine::{Config, Machine, Stop};

/// Where the kernel sees physical memory.
const KERNEL: u64 = 0xFFFF_8000_0000_0000;
const PML4: u64 = 0x1000;
const USER_PDPT: u64 = 0x2000;
const USER_PD: u64 = 0x3000;
const CODE_PT: u64 = 0x4000;
const DATA_PT: u64 = 0x5000;
const KERNEL_PDPT: u64 = 0x6000;
const KERNEL_PD: u64 = 0x7000;
/// Global descriptor table; the other tables follow.
pub const GDT: u64 = 0x8000;
const GDT_ENTRIES: u64 = 16;
const TSS: u64 = 0x8400;
const LDT_AT: u64 = 0x8800;
const IDT: u64 = 0x9000;
/// One HLT for each vector, 16 bytes apart.
const HANDLERS: u64 = 0xA000;
const STACK_TOP: u64 = 0xC000;
const CODE_AT: u64 = 0x10_0000;
const READ_ONLY_AT: u64 = 0x10_2000;
const DATA_AT: u64 = 0x10_3000;

/// 64-bit kernel code segment.
pub const KERNEL_CS: u16 = 0x10;
const TSS_SELECTOR: u16 = 0x40;
const LDT_SELECTOR: u16 = 0x50;

/// The flat segments that Linux has, by index.
const FLAT_SEGMENTS: [(u64, u64); 6] = [
    (1, 0x00CF_9B00_0000_FFFF),
    (2, 0x00AF_9B00_0000_FFFF),
    (3, 0x00CF_9300_0000_FFFF),
    (4, 0x00CF_FB00_0000_FFFF),
    (5, 0x00CF_F300_0000_FFFF),
    (6, 0x00AF_FB00_0000_FFFF),
];

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Accessed and dirty.
const USED: u64 = 3 << 5;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Writes page tables, descriptor tables and handlers.
fn build_kernel(ram: &mut Ram) {
    let mut put = |at: u64, value: u64| ram.store(at as usize, &value.to_le_bytes());
    let directory = PRESENT | WRITABLE | USER | USED;
    put(PML4, USER_PDPT | directory);
    put(USER_PDPT, USER_PD | directory);
    put(USER_PD + (CODE >> 21) * 8, CODE_PT | directory);
    put(USER_PD + (READ_ONLY >> 21) * 8, DATA_PT | directory);
    put(PML4 + 256 * 8, KERNEL_PDPT | directory);
    put(KERNEL_PDPT, KERNEL_PD | directory);
    put(KERNEL_PD, PRESENT | WRITABLE | USED | LARGE);
    let page = PRESENT | USER | USED;
    put(CODE_PT, CODE_AT | page);
    put(CODE_PT + 8, (CODE_AT + PAGE) | page);
    put(DATA_PT, READ_ONLY_AT | page | NO_EXECUTE);
    put(DATA_PT + 8, DATA_AT | page | WRITABLE | NO_EXECUTE);
    put(DATA_PT + 16, (DATA_AT + PAGE) | page | WRITABLE | NO_EXECUTE);
    for (index, descriptor) in FLAT_SEGMENTS {
        put(GDT + 8 * index, descriptor);
    }
    for (selector, at, limit, kind) in
        [(TSS_SELECTOR, TSS, 0x67, 0x8B), (LDT_SELECTOR, LDT_AT, LDT.len() as u64 * 8 - 1, 0x82)]
    {
        let base = KERNEL + at;
        let low = limit | (base & 0xFF_FFFF) << 16 | kind << 40 | (base >> 24 & 0xFF) << 56;
        put(GDT + u64::from(selector), low);
        put(GDT + u64::from(selector) + 8, base >> 32);
    }
    for (index, segment) in LDT.iter().enumerate() {
        put(LDT_AT + 8 * index as u64, segment.descriptor());
    }
    // RSP0; the I/O permission bitmap begins behind the limit.
    put(TSS + 4, KERNEL + STACK_TOP);
    put(TSS + 0x60, 0x68 << 48);
    for vector in 0..256 {
        let handler = KERNEL + HANDLERS + 16 * vector;
        // Linux lets user code call #BP and #OF.
        let dpl = if matches!(vector, 3 | 4) { 3 } else { 0 };
        let attributes = 0x8E00 | dpl << 13;
        let low = handler & 0xFFFF
            | u64::from(KERNEL_CS) << 16
            | attributes << 32
            | (handler >> 16 & 0xFFFF) << 48;
        put(IDT + 16 * vector, low);
        put(IDT + 16 * vector + 8, handler >> 32);
        put(HANDLERS + 16 * vector, 0xF4);
    }
    ram.store(CODE_AT as usize, &[0xCC; CODE_SIZE as usize]);
    ram.store(READ_ONLY_AT as usize, &layout::pool()[..PAGE as usize]);
}

/// The emulator with the bare machine in it.
pub struct Guest {
    machine: Machine,
    /// The CPU in user mode, before a case's registers are set.
    template: Cpu,
    /// Bytes of the code pages that are not breakpoints.
    dirty: std::ops::Range<usize>,
    window: Vec<u8>,
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

impl Guest {
    /// A machine ready to run cases.
    ///
    /// # Panics
    /// If the emulator refuses the configuration.
    pub fn new() -> Self {
        let config = Config { ram_bytes: 4 << 20, board: bare_board(), direct_boot: None };
        let mut machine = Machine::new(&config).expect("a machine without devices");
        build_kernel(&mut machine.core_mut().ram);
        let template = user_cpu(&machine.core_mut().cpu);
        Self { machine, template, dirty: 0..0, window: vec![0; DATA_SIZE as usize] }
    }

    /// The same with an accelerator instead of the interpreter.
    pub fn accelerated(accelerator: Box<dyn Accelerator>) -> Self {
        let mut guest = Self::new();
        drop(guest.machine.set_accelerator(Some(accelerator)));
        guest
    }

    /// Puts the code of `case` among the breakpoints, and its data into the window.
    fn write_memory(&mut self, case: &Case) {
        let ram = &mut self.machine.core_mut().ram;
        ram.store(CODE_AT as usize + self.dirty.start, &vec![0xCC; self.dirty.len()]);
        let start = (case.address - CODE) as usize;
        let size = case.code.len().min(CODE_SIZE as usize - start);
        ram.store(CODE_AT as usize + start, &case.code[..size]);
        self.dirty = start..start + size;
        case.fill(&mut self.window);
        ram.store(DATA_AT as usize, &self.window);
    }

    fn run_case(&mut self, case: &Case) -> Outcome {
        self.write_memory(case);
        let mut cpu = self.template.clone();
        load(&mut cpu, case);
        let core = self.machine.core_mut();
        core.cpu = cpu;
        core.update_mode();
        // More than any repeated instruction can do within the window.
        let until = Icount(self.machine.icount().0 + 100_000);
        let stop = self.machine.run(until);
        let mut outcome = self.outcome();
        if !matches!(stop, Stop::Halted(_)) {
            outcome.event = Event { vector: Event::STUCK, error: 0, cr2: 0 };
        }
        outcome
    }

    /// The outcome, from the registers and the frame that the exception's handler finds.
    fn outcome(&mut self) -> Outcome {
        let core = self.machine.core_mut();
        let cpu = &core.cpu;
        let vector = (cpu.rip.wrapping_sub(KERNEL + HANDLERS) / 16) as u8;
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let mut frame = (cpu.regs[emulator::cpu::RSP].wrapping_sub(KERNEL) & 0xFFF8) as usize;
        let mut pop = || {
            let bytes = core.ram.bytes()[frame..frame + 8].try_into().expect("8 bytes");
            frame += 8;
            u64::from_le_bytes(bytes)
        };
        let error = if has_error { pop() as u32 } else { 0 };
        let [rip, cs, rflags, rsp, ss] = std::array::from_fn(|_| pop());
        let mut state = State { rip, rflags, ..State::default() };
        state.gpr.copy_from_slice(&cpu.regs[..16]);
        state.gpr[state::RSP] = rsp;
        for (selector, segment) in state.segments.iter_mut().zip(&cpu.segs) {
            *selector = segment.selector;
        }
        (state.segments[state::CS], state.segments[state::SS]) = (cs as u16, ss as u16);
        (state.fs_base, state.gs_base) =
            (cpu.segs[emulator::cpu::FS].base, cpu.segs[emulator::cpu::GS].base);
        store_x87(&cpu.fpu, &mut state.x87);
        state.xmm = cpu.xmm;
        state.mxcsr = cpu.mxcsr;
        let cr2 = if vector == 14 { cpu.cr2 } else { 0 };
        let at = DATA_AT as usize;
        let memory = core.ram.bytes()[at..at + DATA_SIZE as usize].to_vec();
        Outcome { event: Event { vector, error, cr2 }, state, memory }
    }
}

impl Executor for Guest {
    fn run(&mut self, cases: &[Case], outcomes: &mut Vec<Outcome>) {
        outcomes.extend(cases.iter().map(|case| self.run_case(case)));
    }
}

/// No disk, no card, one serial port.
pub fn bare_board() -> BoardConfig {
    BoardConfig { disks: [None; 4], nics: Vec::new(), uarts: 1 }
}

/// A CPU in ring 3 as Linux sets it up.
fn user_cpu(reset: &Cpu) -> Cpu {
    use emulator::cpu::{cr0, cr4, efer};
    let mut cpu = reset.clone();
    cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    cpu.cr3 = PML4;
    cpu.cr4 = cr4::PAE
        | cr4::MCE
        | cr4::PGE
        | cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::FSGSBASE
        | cr4::OSXSAVE;
    cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    cpu.xcr0 = 3;
    cpu.cpl = 3;
    cpu.gdtr = TableRegister { base: KERNEL + GDT, limit: (GDT_ENTRIES * 8 - 1) as u16 };
    cpu.idtr = TableRegister { base: KERNEL + IDT, limit: 0xFFF };
    let system = |selector, at, limit, access| Segment {
        selector,
        base: KERNEL + at,
        limit,
        access,
        usable: true,
    };
    cpu.tr = system(TSS_SELECTOR, TSS, 0x67, 0x8B);
    cpu.ldtr = system(LDT_SELECTOR, LDT_AT, LDT.len() as u32 * 8 - 1, 0x82);
    cpu
}

/// Puts the state of `case` into `cpu`.
fn load(cpu: &mut Cpu, case: &Case) {
    let state = &case.state;
    cpu.regs[..16].copy_from_slice(&state.gpr);
    cpu.rip = state.rip;
    cpu.flags.set(state.rflags);
    for (segment, &selector) in cpu.segs.iter_mut().zip(&state.segments) {
        *segment = segment_register(selector);
    }
    if case.mode == Mode::Long64 {
        cpu.segs[emulator::cpu::FS].base = state.fs_base;
        cpu.segs[emulator::cpu::GS].base = state.gs_base;
    }
    load_x87(&mut cpu.fpu, &state.x87);
    cpu.xmm = state.xmm;
    cpu.mxcsr = state.mxcsr;
}

/// A segment register as loading `selector` makes it.
fn segment_register(selector: u16) -> Segment {
    let index = usize::from(selector >> 3);
    let descriptor = match selector {
        0..=3 => return Segment { selector, ..Segment::default() },
        _ if selector & 4 != 0 => LDT[index].descriptor(),
        _ => FLAT_SEGMENTS.iter().find(|(n, _)| *n == index as u64).map_or(0, |(_, d)| *d),
    };
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

/// FXSAVE's view to the physical registers: ST(i) is R(TOP + i).
fn load_x87(fpu: &mut Fpu, x87: &X87) {
    fpu.control = x87.control;
    fpu.status = x87.status;
    fpu.valid = x87.tag;
    (fpu.fip, fpu.fdp, fpu.fop) = (x87.instruction, x87.operand, x87.opcode);
    (fpu.fcs, fpu.fds) = (0, 0);
    let top = usize::from(x87.status >> 11 & 7);
    for (n, st) in x87.st.iter().enumerate() {
        let physical = (top + n) & 7;
        fpu.significand[physical] = u64::from_le_bytes(st[..8].try_into().expect("8 bytes"));
        fpu.sign_exponent[physical] = u16::from_le_bytes([st[8], st[9]]);
    }
}

fn store_x87(fpu: &Fpu, x87: &mut X87) {
    x87.control = fpu.control;
    x87.status = fpu.status;
    x87.tag = fpu.valid;
    let top = usize::from(fpu.status >> 11 & 7);
    for (n, st) in x87.st.iter_mut().enumerate() {
        let physical = (top + n) & 7;
        st[..8].copy_from_slice(&fpu.significand[physical].to_le_bytes());
        st[8..].copy_from_slice(&fpu.sign_exponent[physical].to_le_bytes());
    }
}
