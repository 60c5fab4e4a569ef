//! The bare machine that programs run on: tables, handlers, and memory for code and data.
//!
//! Contract: identity-mapped but for aliases; the kernel's pages are the supervisor's. After each
//! exception, and at every fourth tick of the LAPIC's timer, the guest goes on at the next place of
//! its list, with the flags and the stack that it began with.

use devices::board::BoardConfig;
use devices::ram::Ram;
use emulator::cpu::{CS, Cpu, SS, Segment, TableRegister, cr0, cr4, efer};
use emulator::machine::{Config, Machine};

const PML4: u64 = 0x10_0000;
const PDPT: u64 = 0x10_1000;
const PD: u64 = 0x10_2000;
const PT_LOW: u64 = 0x10_3000;
const PT: u64 = 0x10_4000;
const PD_DEVICES: u64 = 0x10_5000;
const GDT: u64 = 0x10_6000;
const IDT: u64 = 0x10_7000;
const TSS: u64 = 0x10_8000;
const STUBS: u64 = 0x10_9000;
const ROUTINES: u64 = 0x10_A000;
const LISTS: u64 = 0x10_B000;
const KERNEL_STACK: u64 = 0x10_E000;
const TICK_STACK: u64 = 0x11_0000;
/// Counts restarts.
const RESTARTS: u64 = LISTS;
/// Counts ticks.
const TICKS: u64 = LISTS + 8;
/// Where to go on.
const PLACES: u64 = LISTS + 0x100;
/// Places in the list.
pub const PLACE_COUNT: usize = 32;

/// Code of the program, which it may write.
pub const CODE: u64 = 0x20_0000;
/// Bytes for it.
pub const CODE_SIZE: u64 = 0x8000;
/// The stack's pages.
pub const STACK: u64 = 0x21_0000;
/// Where the stack pointer begins.
pub const STACK_TOP: u64 = 0x21_3800;
/// The data's pages, with some that fault.
pub const DATA: u64 = 0x22_0000;
/// Bytes of them.
pub const DATA_SIZE: u64 = 0x1_0000;
/// The code's pages again.
pub const CODE_ALIAS: u64 = 0x24_0000;
/// The data's pages again.
pub const DATA_ALIAS: u64 = 0x25_0000;
/// What a program can reach that the comparison looks at after every slice.
pub const REACH: std::ops::Range<u64> = CODE..DATA + DATA_SIZE;

/// Data pages that fault: not present, read-only, the supervisor's.
pub const ABSENT_PAGE: u64 = 5;
/// Read-only.
pub const LOCKED_PAGE: u64 = 9;
/// The supervisor's.
pub const KERNEL_PAGE: u64 = 12;

/// Selector of the kernel's 64-bit code.
pub const KERNEL_CODE64: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_CODE32: u16 = 0x1B;
const USER_DATA: u16 = 0x23;
const USER_CODE64: u16 = 0x2B;
/// Selector of 32-bit code of ring 0.
pub const KERNEL_CODE32: u16 = 0x30;
const TASK: u16 = 0x38;
const TICK_VECTOR: u64 = 0x30;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// 64-bit mode; else a 32-bit code segment of compatibility mode.
    pub long: bool,
    /// Ring 3; else ring 0.
    pub user: bool,
}

impl Level {
    fn selectors(self) -> (u16, u16) {
        match (self.long, self.user) {
            (true, true) => (USER_CODE64, USER_DATA),
            (true, false) => (KERNEL_CODE64, KERNEL_DATA),
            (false, true) => (USER_CODE32, USER_DATA),
            (false, false) => (KERNEL_CODE32, KERNEL_DATA),
        }
    }
}

/// A machine without disks and cards.
///
/// # Panics
/// If the emulator refuses it.
#[must_use]
pub fn machine() -> Machine {
    let board = BoardConfig { disks: [None; 4], nics: Vec::new(), uarts: 1 };
    let config = Config { ram_bytes: 4 << 20, board, direct_boot: None };
    Machine::new(&config).expect("a plain machine")
}

/// What the kernel needs to know of a program.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Where it runs.
    pub level: Level,
    /// Where it goes on after a fault.
    pub places: [u64; PLACE_COUNT],
    /// RFLAGS at each of them.
    pub flags: u32,
    /// Instructions between two ticks.
    pub period: u32,
}

/// Writes tables and handlers for a program, and points the CPU at the kernel's first instruction;
/// general, x87 and SSE registers stay.
pub fn boot(machine: &mut Machine, boot: &Boot) {
    let core = machine.core_mut();
    page_tables(&mut core.ram);
    descriptors(&mut core.ram);
    let start = routines(&mut core.ram, boot);
    put(&mut core.ram, RESTARTS, 0);
    put(&mut core.ram, TICKS, 0);
    for (n, &place) in boot.places.iter().enumerate() {
        put(&mut core.ram, PLACES + 8 * n as u64, place);
    }
    let (random, regs) = (core.cpu.random.clone(), core.cpu.regs);
    let (fpu, xmm, mxcsr) = (core.cpu.fpu.clone(), core.cpu.xmm, core.cpu.mxcsr);
    core.cpu = Cpu { regs, fpu, xmm, mxcsr, random, rip: start, ..kernel_cpu() };
    core.cpu.regs[emulator::cpu::RSP] = KERNEL_STACK;
    core.update_mode();
    core.flush_tlb();
}

/// Stores through the marks for dirty pages and code.
pub fn store(ram: &mut Ram, at: u64, bytes: &[u8]) {
    ram.dma_write(at, bytes);
}

fn put(ram: &mut Ram, at: u64, value: u64) {
    store(ram, at, &value.to_le_bytes());
}

fn page_tables(ram: &mut Ram) {
    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    const USER: u64 = 4;
    const ANY: u64 = PRESENT | WRITABLE | USER;
    put(ram, PML4, PDPT | ANY);
    put(ram, PDPT, PD | ANY);
    put(ram, PDPT + 24, PD_DEVICES | ANY);
    put(ram, PD, PT_LOW | ANY);
    put(ram, PD + 8, PT | ANY);
    // The LAPIC: 2 MiB, uncached.
    put(ram, PD_DEVICES + 0x1F7 * 8, 0xFEE0_0000 | 0x9B);
    for page in 0..512u64 {
        put(ram, PT_LOW + 8 * page, page << 12 | PRESENT | WRITABLE);
        let at = (512 + page) << 12;
        let to = match at {
            CODE_ALIAS..DATA_ALIAS => at - CODE_ALIAS + CODE,
            DATA_ALIAS..0x26_0000 => at - DATA_ALIAS + DATA,
            _ => at,
        };
        let entry = match at.wrapping_sub(DATA) >> 12 {
            ABSENT_PAGE => 0,
            LOCKED_PAGE => to | PRESENT | USER,
            KERNEL_PAGE => to | PRESENT | WRITABLE,
            _ => to | ANY,
        };
        put(ram, PT + 8 * page, entry);
    }
}

fn descriptors(ram: &mut Ram) {
    let gdt = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x00CF_FB00_0000_FFFF,
        0x00CF_F300_0000_FFFF,
        0x00AF_FB00_0000_FFFF,
        0x00CF_9B00_0000_FFFF,
        0x0000_8B00_0000_0067 | (TSS & 0xFF_FFFF) << 16,
        0,
    ];
    for (n, &descriptor) in gdt.iter().enumerate() {
        put(ram, GDT + 8 * n as u64, descriptor);
    }
    store(ram, TSS, &[0; 0x68]);
    put(ram, TSS + 4, KERNEL_STACK);
    put(ram, TSS + 0x24, KERNEL_STACK);
    put(ram, TSS + 0x2C, TICK_STACK);
    store(ram, TSS + 0x66, &0x68u16.to_le_bytes());
    for vector in 0..256 {
        let to = STUBS + 16 * vector;
        let stack = if vector == TICK_VECTOR { 2 } else { 1 };
        // INT3 and INTO may be called from ring 3.
        let access: u64 = if matches!(vector, 3 | 4) { 0xEE } else { 0x8E };
        let gate = to & 0xFFFF
            | u64::from(KERNEL_CODE64) << 16
            | stack << 32
            | access << 40
            | (to >> 16 & 0xFFFF) << 48;
        put(ram, IDT + 16 * vector, gate);
        put(ram, IDT + 16 * vector + 8, to >> 32);
    }
}

/// Writes the kernel's code; the address of its first instruction.
fn routines(ram: &mut Ram, boot: &Boot) -> u64 {
    let go_on = ROUTINES;
    let tick = ROUTINES + 0x100;
    let start = ROUTINES + 0x200;
    let system_call = ROUTINES + 0x300;
    store(ram, go_on, &restart(boot));
    for vector in 0..256u64 {
        let at = STUBS + 16 * vector;
        let has_code = emulator::exception::has_code(vector as u8);
        let push: &[u8] = if has_code { &[0x90, 0x90] } else { &[0x6A, 0] };
        let target = if vector == TICK_VECTOR { tick } else { go_on };
        let push = if vector == TICK_VECTOR { &[] } else { push };
        store(ram, at, &[push, &jump(at + push.len() as u64, target)].concat());
    }
    let timer = [
        // push rax; mov eax, EOI register; mov dword [rax],0
        &[0x50, 0xB8, 0xB0, 0, 0xE0, 0xFE, 0xC7, 0, 0, 0, 0, 0][..],
        // mov rax,[TICKS]; inc rax; mov [TICKS],rax
        &[0x48, 0xA1],
        &TICKS.to_le_bytes(),
        &[0x48, 0xFF, 0xC0, 0x48, 0xA3],
        &TICKS.to_le_bytes(),
        // test al,3; pop rax; jz +2; iretq; push 0
        &[0xA8, 3, 0x58, 0x74, 2, 0x48, 0xCF, 0x6A, 0],
    ]
    .concat();
    let end = tick + timer.len() as u64;
    store(ram, tick, &[timer, jump(end, go_on)].concat());
    // mov edi,FEE00000h; spurious vector, divisor 1, periodic at the vector, period
    let mut first = vec![0xBF, 0, 0, 0xE0, 0xFE];
    let timer = 0x2_0000 | TICK_VECTOR as u32;
    for (register, value) in
        [(0xF0u32, 0x1FFu32), (0x3E0, 0xB), (0x320, timer), (0x380, boot.period)]
    {
        first.extend_from_slice(&[0xC7, 0x87]);
        first.extend_from_slice(&register.to_le_bytes());
        first.extend_from_slice(&value.to_le_bytes());
    }
    // sub rsp,40; push 0: a frame that is filled below
    first.extend_from_slice(&[0x48, 0x83, 0xEC, 40, 0x6A, 0]);
    let end = start + first.len() as u64;
    store(ram, start, &[first, jump(end, go_on)].concat());
    // sysretq
    store(ram, system_call, &[0x48, 0x0F, 0x07]);
    start
}

/// The end of each handler: an error code or 0, and the frame, are on the stack.
fn restart(boot: &Boot) -> Vec<u8> {
    let (cs, ss) = boot.level.selectors();
    let mut code = vec![0x50, 0x48, 0xA1];
    code.extend_from_slice(&RESTARTS.to_le_bytes());
    code.extend_from_slice(&[0x48, 0xFF, 0xC0, 0x48, 0xA3]);
    code.extend_from_slice(&RESTARTS.to_le_bytes());
    // and eax,31; mov rax,[rax*8+PLACES]; mov [rsp+16],rax
    code.extend_from_slice(&[0x83, 0xE0, PLACE_COUNT as u8 - 1, 0x48, 0x8B, 0x04, 0xC5]);
    code.extend_from_slice(&(PLACES as u32).to_le_bytes());
    code.extend_from_slice(&[0x48, 0x89, 0x44, 0x24, 0x10]);
    let frame = [(24u8, u32::from(cs)), (32, boot.flags), (40, STACK_TOP as u32), (48, ss.into())];
    for (offset, value) in frame {
        code.extend_from_slice(&[0x48, 0xC7, 0x44, 0x24, offset]);
        code.extend_from_slice(&value.to_le_bytes());
    }
    // mov eax,USER_DATA; mov ds,eax; mov es,eax: the program may have loaded others
    code.push(0xB8);
    code.extend_from_slice(&u32::from(USER_DATA).to_le_bytes());
    code.extend_from_slice(&[0x8E, 0xD8, 0x8E, 0xC0]);
    // pop rax; add rsp,8; iretq
    code.extend_from_slice(&[0x58, 0x48, 0x83, 0xC4, 8, 0x48, 0xCF]);
    code
}

/// Address of the page-table entry of `la`, a place in the program's reach.
#[must_use]
pub fn page_entry(la: u64) -> u64 {
    PT + 8 * ((la >> 12) - 512)
}

/// Makes a vector lead to `to`, on the stack that every handler begins with.
pub fn lead(ram: &mut Ram, vector: u64, to: u64) {
    let mut gate = [0; 16];
    ram.dma_read(IDT + 16 * vector, &mut gate);
    gate[..2].copy_from_slice(&(to as u16).to_le_bytes());
    gate[6..12].copy_from_slice(&(to >> 16).to_le_bytes()[..6]);
    store(ram, IDT + 16 * vector, &gate);
}

/// JMP rel32 at `at`.
pub fn jump(at: u64, to: u64) -> Vec<u8> {
    let distance = to.wrapping_sub(at + 5) as u32;
    [&[0xE9][..], &distance.to_le_bytes()].concat()
}

/// A CPU in the kernel, with everything on that programs use.
fn kernel_cpu() -> Cpu {
    let mut cpu = Cpu::new();
    cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    cpu.cr3 = PML4;
    let base = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    cpu.cr4 = base | cr4::FSGSBASE | cr4::OSXSAVE;
    cpu.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    cpu.xcr0 = 3;
    cpu.gdtr = TableRegister { base: GDT, limit: 0x47 };
    cpu.idtr = TableRegister { base: IDT, limit: 0xFFF };
    let flat =
        |selector, access| Segment { selector, base: 0, limit: u32::MAX, access, usable: true };
    for segment in &mut cpu.segs {
        *segment = flat(USER_DATA, 0xC0F3);
    }
    cpu.segs[CS] = flat(KERNEL_CODE64, 0xA09B);
    cpu.segs[SS] = flat(KERNEL_DATA, 0xC093);
    cpu.tr = Segment { limit: 0x67, base: TSS, ..flat(TASK, 0x8B) };
    cpu.msrs.star = u64::from(KERNEL_CODE64) << 32 | u64::from(USER_CODE32) << 48;
    cpu.msrs.lstar = ROUTINES + 0x300;
    cpu.msrs.cstar = ROUTINES + 0x300;
    cpu.flags.set(2);
    cpu
}

/// How often the program has gone on elsewhere.
#[must_use]
pub fn restarts(machine: &Machine) -> u64 {
    let mut count = [0; 8];
    machine.core().ram.dma_read(RESTARTS, &mut count);
    u64::from_le_bytes(count)
}
