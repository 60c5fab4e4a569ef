//! Random programs: chunks of random instructions, and the jumps between them.

use crate::guest::{self, Boot, CODE, CODE_SIZE, DATA, DATA_SIZE, Level, PLACE_COUNT, STACK};
use crate::instruction::{BASES, CODE_BASE, COMMON, Maker, PAIRS, Taste};
use conformance::generate::random_state;
use conformance::state::{Mode, State};
use conformance::values::Rng;
use emulator::cpu::Fpu;
use emulator::machine::Machine;

/// A program and all that it begins with.
pub struct Program {
    boot: Boot,
    code: Vec<u8>,
    data: Vec<u8>,
    stack: Vec<u8>,
    state: State,
    fs_base: u64,
}

/// A jump whose distance is not known yet.
struct Fixup {
    /// Where the distance stands.
    at: usize,
    /// Its bytes: 1 or 4.
    size: usize,
    to: Target,
}

#[derive(Clone, Copy)]
enum Target {
    /// An instruction of the same chunk, by number.
    Item(usize),
    /// The beginning of a chunk.
    Chunk(usize),
}

struct Writer<'a> {
    rng: &'a mut Rng,
    long: bool,
    taste: Taste,
    code: Vec<u8>,
    fixups: Vec<Fixup>,
    /// Where the instructions of this chunk begin.
    items: Vec<usize>,
    chunks: Vec<usize>,
}

/// The program number `number` of the session `seed`.
#[must_use]
pub fn generate(seed: u64, number: u64) -> Program {
    let mut rng = Rng::new(seed.wrapping_mul(0x1_0000_0001) ^ Rng::new(!number).bits());
    let level = Level { long: !rng.one_in(3), user: rng.below(3) > 0 };
    let taste = match rng.below(8) {
        0 => Taste::Vectors,
        1 => Taste::X87,
        _ => Taste::Any,
    };
    let mut state = random_state(if level.long { Mode::Long64 } else { Mode::Compat32 }, &mut rng);
    if taste != Taste::Any {
        state.mxcsr |= 0x1F80;
        state.x87.control |= 0x3F;
    }
    let (code, chunks) = write(&mut rng, level.long, taste);
    let mut places = [0; PLACE_COUNT];
    for place in &mut places {
        *place = CODE + rng.pick(&chunks) as u64;
    }
    let flags = 0x202
        | if rng.one_in(6) { 1 << 10 } else { 0 }
        | if rng.one_in(16) { 1 << 8 } else { 0 }
        | if rng.one_in(8) { 1 << 18 } else { 0 };
    let period = 200 + magnitude(&mut rng, 8..15) as u32;
    let boot = Boot { level, places, flags, period };
    // What is popped at random is often a place to return to.
    let mut stack = Vec::new();
    while stack.len() < 0x4000 {
        let word = if rng.one_in(3) { rng.integer() } else { rng.pick(&places) };
        let size = if level.long { 8 } else { 4 };
        stack.extend_from_slice(&word.to_le_bytes()[..size]);
    }
    let mut data = Vec::new();
    while data.len() < DATA_SIZE as usize {
        data.extend_from_slice(&rng.vector().to_le_bytes());
    }
    let fs_base = if rng.one_in(2) { DATA } else { rng.integer() << 17 >> 17 };
    Program { boot, code, data, stack, state, fs_base }
}

/// A number of a random magnitude: below two to the power of one of `bits`.
pub fn magnitude(rng: &mut Rng, bits: std::ops::Range<u64>) -> u64 {
    let bits = bits.start + rng.below(bits.end - bits.start);
    rng.below(1 << bits)
}

/// Code and the places at which its chunks begin.
fn write(rng: &mut Rng, long: bool, taste: Taste) -> (Vec<u8>, Vec<usize>) {
    let (code, fixups) = (Vec::new(), Vec::new());
    let count = 4 + rng.below(28) as usize;
    let mut writer =
        Writer { rng, long, taste, code, fixups, items: Vec::new(), chunks: Vec::new() };
    while writer.chunks.len() < count && writer.code.len() < CODE_SIZE as usize - 0x800 {
        writer.chunk(count);
    }
    let Writer { mut code, fixups, chunks, .. } = writer;
    for Fixup { at, size, to } in fixups {
        let to = match to {
            Target::Item(place) => place,
            Target::Chunk(number) => chunks[number % chunks.len()],
        };
        let distance = to as i64 - (at + size) as i64;
        let fits = size == 4 || i8::try_from(distance).is_ok();
        // Else to the next instruction.
        let distance = if fits { distance as i32 } else { 0 };
        code[at..at + size].copy_from_slice(&distance.to_le_bytes()[..size]);
    }
    code.resize(CODE_SIZE as usize, 0xCC);
    (code, chunks)
}

impl Writer<'_> {
    fn here(&self) -> u64 {
        CODE + self.code.len() as u64
    }

    fn chunk(&mut self, count: usize) {
        if self.rng.one_in(4) {
            // Across the end of a page, or at its beginning.
            let page = (self.code.len() | 0xFFF) + 1;
            let before = self.rng.below(24) as usize;
            if page + 0x800 < CODE_SIZE as usize && page - before > self.code.len() {
                self.code.resize(page - before, 0x90);
            }
        }
        self.chunks.push(self.code.len());
        self.items.clear();
        let first_fixup = self.fixups.len();
        for register in BASES.iter().copied().chain([CODE_BASE]) {
            if self.rng.below(4) > 0 {
                self.point(register);
            }
        }
        let length = 2 + magnitude(self.rng, 2..7);
        for _ in 0..length {
            self.item(count);
        }
        let to = Target::Chunk(self.rng.below(count as u64) as usize);
        self.items.push(self.code.len());
        self.branch(&[0xE9], 4, to);
        // Numbers of instructions become places.
        for fixup in &mut self.fixups[first_fixup..] {
            if let Target::Item(number) = fixup.to {
                fixup.to = Target::Item(self.items[number.min(self.items.len() - 1)]);
            }
        }
    }

    /// Makes `register` point into its area.
    fn point(&mut self, register: u32) {
        let at = self.here();
        let mut maker = Maker { rng: self.rng, long: self.long, taste: self.taste, base: None };
        let value = match register {
            CODE_BASE => maker.code_pointer(at),
            _ => maker.data_pointer(register),
        };
        self.load(register, value as u32);
    }

    /// MOV r32,imm32.
    fn load(&mut self, register: u32, value: u32) {
        self.items.push(self.code.len());
        self.code.push(0xB8 + register as u8);
        self.code.extend_from_slice(&value.to_le_bytes());
    }

    fn branch(&mut self, opcode: &[u8], size: usize, to: Target) {
        self.code.extend_from_slice(opcode);
        self.fixups.push(Fixup { at: self.code.len(), size, to });
        self.code.extend_from_slice(&[0; 4][..size]);
    }

    fn item(&mut self, count: usize) {
        match self.rng.below(40) {
            0..=3 => self.jump(count),
            4 => self.indirect(count),
            5 => self.string(),
            6 => self.division(),
            7 => self.patch(),
            8 => {
                let register = self.rng.pick(&[BASES[0], BASES[1], BASES[2], CODE_BASE]);
                self.point(register);
            }
            9 if self.rng.one_in(2) => self.counted_loop(),
            10 if self.rng.one_in(4) => self.system(),
            11 | 12 => self.fields(),
            13 if self.rng.one_in(6) => self.garbage(),
            14 if self.rng.one_in(2) => self.through(),
            _ => self.plain(),
        }
    }

    fn plain(&mut self) {
        let at = self.here();
        let bytes = Maker { rng: self.rng, long: self.long, taste: self.taste, base: None }.any(at);
        self.items.push(self.code.len());
        self.code.extend_from_slice(&bytes);
    }

    /// An instruction that reaches memory through a register which it may use or write itself.
    fn through(&mut self) {
        let register = self.rng.below(3) as u32;
        let (long, taste) = (self.long, self.taste);
        let base = Some(register);
        let value = Maker { rng: self.rng, long, taste, base }.data_pointer(BASES[0]);
        self.load(register, value as u32);
        let at = self.here();
        let bytes = loop {
            let mut maker = Maker { rng: self.rng, long, taste, base };
            // The pairs are few among so many.
            let code =
                if maker.rng.one_in(8) { maker.rng.pick(&PAIRS) } else { maker.rng.pick(COMMON) };
            if let Some(bytes) = maker.form(code, at) {
                break bytes;
            }
        };
        self.items.push(self.code.len());
        self.code.extend_from_slice(&bytes);
    }

    /// A jump to an instruction nearby: mostly forward.
    fn jump(&mut self, count: usize) {
        let now = self.items.len();
        let near = match self.rng.below(5) {
            0 => now.saturating_sub(self.rng.below(12) as usize),
            _ => now + 1 + self.rng.below(8) as usize,
        };
        let to = match self.rng.below(12) {
            0 => Target::Chunk(self.rng.below(count as u64) as usize),
            _ => Target::Item(near),
        };
        self.items.push(self.code.len());
        let condition = self.rng.below(16) as u8;
        match self.rng.below(16) {
            0..=7 => self.branch(&[0x70 + condition], 1, to),
            8..=12 => self.branch(&[0x0F, 0x80 + condition], 4, to),
            13 => self.branch(&[0xE9], 4, to),
            14 => self.branch(&[0xEB], 1, to),
            _ => {
                let opcode = 0xE0 + self.rng.below(4) as u8;
                self.branch(&[opcode], 1, to);
            }
        }
    }

    /// Calls, returns, and jumps through registers and memory.
    fn indirect(&mut self, count: usize) {
        let chunk = Target::Chunk(self.rng.below(count as u64) as usize);
        let known = CODE + self.rng.pick(&self.chunks) as u64;
        match self.rng.below(8) {
            0..=2 => {
                self.items.push(self.code.len());
                self.branch(&[0xE8], 4, chunk);
            }
            3 | 4 => {
                self.items.push(self.code.len());
                self.code.push(0xC3);
            }
            5 | 6 => {
                // mov eax,place; call or jmp rax
                self.load(0, known as u32);
                self.items.push(self.code.len());
                let what = self.rng.pick(&[0xD0, 0xE0]);
                self.code.extend_from_slice(&[0xFF, what]);
            }
            _ => {
                // jmp [rsp+disp]
                self.items.push(self.code.len());
                let slot = self.rng.below(16) as u8 * 8;
                self.code.extend_from_slice(&[0xFF, 0x64, 0x24, slot]);
            }
        }
    }

    /// A repeated string instruction with a count that is mostly small.
    fn string(&mut self) {
        let count = match self.rng.below(4) {
            0 => self.rng.below(0x1800),
            _ => self.rng.below(40),
        };
        self.load(1, count as u32);
        for register in [6, 7] {
            if self.rng.below(4) > 0 {
                let value = Maker { rng: self.rng, long: self.long, taste: self.taste, base: None }
                    .data_pointer(6);
                self.load(register, value as u32);
            }
        }
        self.items.push(self.code.len());
        if self.rng.below(8) > 0 {
            let prefix = self.rng.pick(&[0xF3, 0xF3, 0xF2]);
            self.code.push(prefix);
        }
        match self.rng.below(4) {
            0 if self.long => self.code.push(0x48),
            1 => self.code.push(0x66),
            _ => {}
        }
        let opcode = self.rng.pick(&[0xA4, 0xA5, 0xAA, 0xAB, 0xA4, 0xA5, 0xA6, 0xA7, 0xAE, 0xAC]);
        self.code.push(opcode);
        self.point(CODE_BASE);
    }

    /// A division that mostly has a result.
    fn division(&mut self) {
        let dividend = self.rng.integer() as u32;
        self.load(0, dividend);
        let divisor = self.rng.integer() as u32;
        self.load(1, divisor | 1);
        self.items.push(self.code.len());
        // cdq; or xor edx,edx
        let signed = self.rng.one_in(2);
        self.code.extend_from_slice(if signed { &[0x99] } else { &[0x31, 0xD2] });
        self.items.push(self.code.len());
        if self.long && self.rng.one_in(2) {
            self.code.push(0x48);
        }
        self.code.extend_from_slice(&[0xF7, if signed { 0xF9 } else { 0xF1 }]);
    }

    /// A store into the code: into what follows, or what has been.
    fn patch(&mut self) {
        let at = self.here() + self.rng.below(96) - 24;
        self.load(CODE_BASE, at as u32);
        self.items.push(self.code.len());
        match self.rng.below(5) {
            // mov byte [rdi],imm8; inc byte [rdi]; mov [rdi],al; xor byte [rdi],1; mov [rdi],eax
            0 => {
                let value = self.rng.pick(&[0x90, 0x90, 0xC3, 0x50, 0xF8]);
                self.code.extend_from_slice(&[0xC6, 0x07, value]);
            }
            1 => self.code.extend_from_slice(&[0xFE, 0x07]),
            2 => self.code.extend_from_slice(&[0x88, 0x07]),
            3 => self.code.extend_from_slice(&[0x80, 0x37, 1]),
            _ => self.code.extend_from_slice(&[0x89, 0x07]),
        }
    }

    /// mov ecx,n; some instructions; dec ecx; jnz.
    fn counted_loop(&mut self) {
        let count = 2 + magnitude(self.rng, 1..8);
        self.load(1, count as u32);
        let first = self.items.len();
        for _ in 0..1 + self.rng.below(6) {
            self.plain();
        }
        self.items.push(self.code.len());
        self.code.extend_from_slice(&[0x83, 0xE9, 1]);
        self.items.push(self.code.len());
        self.branch(&[0x75], 1, Target::Item(first));
    }

    /// Accesses near one address, which moves by constants meanwhile; now and then a jump between
    /// them, or an instruction of any kind.
    fn fields(&mut self) {
        let base = self.rng.pick(&[BASES[0], BASES[1], BASES[2], 4]) as u8;
        let sib: &[u8] = if base == 4 { &[0x24] } else { &[] };
        for _ in 0..2 + self.rng.below(8) {
            let disp = self.rng.below(20) as u8 * 8;
            // RAX to RDX without RBX, and R8 to R10.
            let register = self.rng.below(3) as u8;
            let rex = self.rng.pick(&[0x48, 0x4C]);
            let modrm = 0x40 | register << 3 | base;
            let long = self.long;
            let with = |rex: u8, opcode: &[u8], modrm: u8, last: &[u8]| {
                let rex: &[u8] = if long { &[rex] } else { &[] };
                [rex, opcode, &[modrm], sib, last].concat()
            };
            let bytes = match self.rng.below(16) {
                // mov, add, cmp, inc, cmov, movaps
                0..=2 => with(rex, &[0x8B], modrm, &[disp]),
                3..=5 => with(rex, &[0x89], modrm, &[disp]),
                6 => with(rex, &[0x03], modrm, &[disp]),
                7 => with(rex, &[0x01], modrm, &[disp]),
                8 => with(rex, &[0x39], modrm, &[disp]),
                9 => with(0x48, &[0xFF], 0x40 | base, &[disp]),
                10 => with(rex, &[0x0F, 0x44], modrm, &[disp]),
                11 => with(0x40, &[0x0F, self.rng.pick(&[0x28, 0x29])], modrm, &[disp & 0xF0]),
                // push rax, pop rcx, push [base+disp]
                12 => vec![self.rng.pick(&[0x50, 0x59])],
                13 => with(0x40, &[0xFF], 0x70 | base, &[disp]),
                // add, sub, lea
                14 => {
                    let rex: &[u8] = if long { &[0x48] } else { &[] };
                    [rex, &[0x83, self.rng.pick(&[0xC0, 0xE8]) | base, disp & 0x3F]].concat()
                }
                _ => with(0x48, &[0x8D], 0x40 | base << 3 | base, &[disp]),
            };
            self.items.push(self.code.len());
            self.code.extend_from_slice(&bytes);
            match self.rng.below(12) {
                0 => self.plain(),
                1 => {
                    self.items.push(self.code.len());
                    let to = Target::Item(self.items.len() + self.rng.below(4) as usize);
                    let condition = self.rng.below(16) as u8;
                    self.branch(&[0x70 + condition], 1, to);
                }
                _ => {}
            }
        }
    }

    /// Bytes of any kind.
    fn garbage(&mut self) {
        self.items.push(self.code.len());
        for _ in 0..1 + self.rng.below(20) {
            let byte = self.rng.bits() as u8;
            self.code.push(byte);
        }
    }

    /// What ring 0 does; faults in ring 3.
    fn system(&mut self) {
        let choices: [&[u8]; 8] = [
            // mov rax,cr3; mov cr3,rax
            &[0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8],
            // invlpg [rbx]
            &[0x0F, 0x01, 0x3B],
            // sti; cli
            &[0xFB],
            &[0xFA, 0x90, 0xFB],
            // mov rax,cr0; mov cr0,rax
            &[0x0F, 0x20, 0xC0, 0x0F, 0x22, 0xC0],
            // mov rax,cr4; mov cr4,rax
            &[0x0F, 0x20, 0xE0, 0x0F, 0x22, 0xE0],
            // hlt
            &[0xF4],
            // syscall
            &[0x0F, 0x05],
        ];
        self.items.push(self.code.len());
        let bytes = self.rng.pick(&choices);
        self.code.extend_from_slice(bytes);
    }
}

impl Program {
    /// Puts the program into `machine`, which is about to begin it.
    pub fn load(&self, machine: &mut Machine) {
        let core = machine.core_mut();
        for (at, bytes) in [(CODE, &self.code), (DATA, &self.data), (STACK, &self.stack)] {
            guest::store(&mut core.ram, at, bytes);
        }
        let state = &self.state;
        core.cpu.regs[..16].copy_from_slice(&state.gpr);
        core.cpu.xmm = state.xmm;
        core.cpu.mxcsr = state.mxcsr & 0xFFFF;
        if !self.boot.level.long {
            core.cpu.regs[..16].iter_mut().for_each(|register| *register &= 0xFFFF_FFFF);
        }
        let mut fpu = Fpu { control: state.x87.control, ..Fpu::default() };
        fpu.status = state.x87.status & 0x7F00;
        fpu.valid = state.x87.tag;
        for (n, st) in state.x87.st.iter().enumerate() {
            fpu.significand[n] = u64::from_le_bytes(*st.first_chunk().expect("10 bytes"));
            fpu.sign_exponent[n] = u16::from_le_bytes([st[8], st[9]]);
        }
        core.cpu.fpu = fpu;
        guest::boot(machine, &self.boot);
        let cpu = &mut machine.core_mut().cpu;
        cpu.segs[emulator::cpu::FS].base = self.fs_base & ((1 << 47) - 1);
        machine.core_mut().update_mode();
    }

    /// Where it runs.
    #[must_use]
    pub fn level(&self) -> Level {
        self.boot.level
    }
}
