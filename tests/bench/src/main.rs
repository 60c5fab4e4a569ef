//! The command `bench WORKLOAD ENGINE INSTRUCTIONS`: executes so many instructions of a small guest
//! loop, and nothing else. `run.py` counts what that costs the host.
//!
//! Without arguments it lists the workloads.

// The bare machine of the lockstep tests.
#[allow(dead_code)]
#[path = "../../lockstep/src/guest.rs"]
mod guest;

use devices::time::Icount;
use emulator::machine::{Machine, Stop};
use guest::{Boot, CODE, DATA, Level, PLACE_COUNT};
use jit::Jit;
use std::process::ExitCode;

/// Guest code for 64-bit mode in ring 3. RSI, RDI and RBX point into the data, RSP is the stack's;
/// the other registers are small numbers.
struct Workload {
    name: &'static str,
    code: fn() -> Vec<u8>,
    /// Caches are dropped after so many instructions: what runs is new code.
    cold: Option<u64>,
}

const fn warm(name: &'static str, code: fn() -> Vec<u8>) -> Workload {
    Workload { name, code, cold: None }
}

const WORKLOADS: &[Workload] = &[
    // l: add rax,rcx; rol rax,7; xor rcx,rax; lea rdx,[rax+rcx*4]; sub rdx,r8; shr rdx,3; jmp l
    warm("alu", || hex("4801c8 48c1c007 4831c1 488d1488 4c29c2 48c1ea03 ebe9")),
    // l: mov eax,[rsi+rcx*4]; add [rdi+rcx*4],eax; inc ecx; and ecx,3ffh; jne l; jmp l
    warm("memory", || hex("8b048e 01048f ffc1 81e1ff030000 75f0 ebee")),
    // l: imul eax,eax,41c64e6dh; add eax,3039h; test eax,10000h; jz +2; inc ecx; js +2; dec edx;
    //    jmp l
    warm("branches", || hex("69c06d4ec641 0539300000 a900000100 7402 ffc1 7802 ffca ebe6")),
    // l: call f; jmp l; f: push rbx; call g; pop rbx; ret; g: inc eax; ret
    warm("calls", || hex("e802000000 ebf9 53 e802000000 5b c3 ffc0 c3")),
    // l: mov rax,[rbx+rcx*8]; inc ecx; and ecx,7; jmp rax; eight targets of inc edx; jmp l
    warm("indirect", || {
        let mut code = hex("488b04cb ffc1 83e107 ffe0");
        for _ in 0..8 {
            let back = -(code.len() as i8 + 4);
            code.extend_from_slice(&[0xFF, 0xC2, 0xEB, back as u8]);
        }
        code
    }),
    // l: addsd xmm0,xmm1; mulsd xmm1,xmm2; movsd [rsi],xmm0; movapd xmm3,xmm0; addpd xmm3,xmm2;
    //    sqrtsd xmm4,xmm3; jmp l
    warm("sse", || hex("f20f58c1 f20f59ca f20f1106 660f28d8 660f58da f20f51e3 ebe6")),
    // l: fld qword [rsi]; fmul qword [rsi+8]; fadd qword [rsi+16]; fstp qword [rsi+24]; jmp l
    warm("x87", || hex("dd06 dc4e08 dc4610 dd5e18 ebf3")),
    // l: mov ecx,1000; push rsi; push rdi; rep movsb; pop rdi; pop rsi; jmp l
    warm("strings", || hex("b9e8030000 56 57 f3a4 5f 5e ebf3")),
    // l: int3, which comes back here
    warm("faults", || hex("cc")),
    // l: syscall; jmp l
    warm("syscalls", || hex("0f05 ebfc")),
    Workload { name: "cold", code: straight, cold: Some(3000) },
];

/// Code without a loop: chunks of a few instructions, each jumping to the next.
fn straight() -> Vec<u8> {
    let chunk = hex("4801c8 8b4608 83f805 7400 894710 488d5106 eb00");
    let mut code = chunk.repeat(600);
    let back = -(code.len() as i32 + 5);
    code.push(0xE9);
    code.extend_from_slice(&back.to_le_bytes());
    code
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: &u8| (*digit as char).to_digit(16).expect("filtered") as u8;
    digits.chunks(2).map(|pair| value(&pair[0]) << 4 | value(&pair[1])).collect()
}

/// A machine at the beginning of a workload.
fn machine(workload: &Workload) -> Machine {
    let mut machine = guest::machine();
    let code = (workload.code)();
    let ram = &mut machine.core_mut().ram;
    guest::store(ram, CODE, &code);
    for n in 0..8 {
        // Numbers for SSE and x87, then places to jump to.
        guest::store(ram, DATA + 8 * n, &(1.0 + n as f64 / 8.0).to_bits().to_le_bytes());
        guest::store(ram, DATA + 0x2000 + 8 * n, &(CODE + 11 + 4 * n).to_le_bytes());
    }
    let level = Level { long: true, user: true };
    let places = [CODE; PLACE_COUNT];
    guest::boot(&mut machine, &Boot { level, places, flags: 0x202, period: u32::MAX });
    let cpu = &mut machine.core_mut().cpu;
    for (n, register) in cpu.regs[..16].iter_mut().enumerate().filter(|(n, _)| *n != 4) {
        *register = n as u64;
    }
    (cpu.regs[3], cpu.regs[6]) = (DATA + 0x2000, DATA);
    cpu.regs[7] = DATA + 0x3000;
    cpu.xmm[..4].fill(u128::from(1.5f64.to_bits()));
    cpu.fpu.control = 0x37F;
    // Past the kernel's first instructions, which use RDI.
    while machine.core().cpu.cpl != 3 {
        let next = machine.icount().0 + 1;
        machine.run(Icount(next));
    }
    machine.core_mut().cpu.regs[7] = DATA + 0x3000;
    machine
}

fn run(workload: &Workload, engine: &str, instructions: u64) -> Result<(), String> {
    let mut machine = machine(workload);
    match engine {
        "interpreter" => {}
        "jit" => {
            let jit = Jit::new().ok_or("this computer cannot run the JIT")?;
            machine.set_accelerator(Some(Box::new(if workload.cold.is_some() {
                jit.eager()
            } else {
                jit
            })));
        }
        _ => return Err(format!("no engine {engine}")),
    }
    let end = machine.icount().0 + instructions;
    while machine.icount().0 < end {
        let next = workload.cold.map_or(end, |length| end.min(machine.icount().0 + length));
        match machine.run(Icount(next)) {
            Stop::Reached => {}
            stop => return Err(format!("stopped by {stop:?}")),
        }
        if workload.cold.is_some() {
            machine.drop_caches();
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, engine, count] = &args[..] else {
        for workload in WORKLOADS {
            println!("{}", workload.name);
        }
        return ExitCode::SUCCESS;
    };
    let found = WORKLOADS.iter().find(|workload| workload.name == name);
    let result = match (found, count.parse()) {
        (Some(workload), Ok(count)) => run(workload, engine, count),
        _ => Err(format!("bench {name} {engine} {count}: no such workload or count")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("bench: {text}");
            ExitCode::from(2)
        }
    }
}
