//! x87 arithmetic, conversions and comparisons, with unmasked exceptions among them: an x87
//! exception is pending until the next waiting instruction, so it can be read and cleared.

use core::arch::asm;
use core::cmp::Ordering;

use emulator::softfloat::{self, EXCEPTIONS, Env, F80, PRE_COMPUTATION, ROUNDED_UP, x87};

use crate::operands::Random;

const ROUNDS: usize = 150_000;
/// The mask of underflow in the control word.
const UNDERFLOW: u16 = 0x10;
/// C0, C2 and C3 of the status word.
const CONDITIONS: u16 = 0x4500;

/// Runs an instruction on ST0 = `a` and ST1 = `b`; gives ST0, ST1 and the status word.
macro_rules! host {
    ($insn:expr) => {
        |fcw: u16, a: F80, b: F80| -> (F80, F80, u16) {
            let (a, b) = (a.to_bytes(), b.to_bytes());
            let (mut top, mut next, status) = ([0u8; 10], [0u8; 10], 0u16);
            // SAFETY: the instructions touch the named arrays and the x87 stack only, which is
            // initialised before and after; all its registers are declared clobbered.
            let status = unsafe {
                let mut status = status;
                asm!(
                    "fninit",
                    "fldcw word ptr [{fcw}]",
                    "fld tbyte ptr [{b}]",
                    "fld tbyte ptr [{a}]",
                    $insn,
                    "fnstsw ax",
                    "fnclex",
                    "fstp tbyte ptr [{top}]",
                    "fstp tbyte ptr [{next}]",
                    "fninit",
                    fcw = in(reg) &fcw, a = in(reg) a.as_ptr(), b = in(reg) b.as_ptr(),
                    top = in(reg) top.as_mut_ptr(), next = in(reg) next.as_mut_ptr(),
                    inout("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
                status
            };
            (F80::from_bytes(top), F80::from_bytes(next), status)
        }
    };
}
pub(crate) use host;

/// What the software says of flags, in the status word's places.
pub fn flags_of(env: &Env) -> u16 {
    env.reported() as u16
}

const SEEN: u16 = (EXCEPTIONS | ROUNDED_UP) as u16;

/// Whether the host may do otherwise than the software, which does as Intel's processors: where
/// underflow is not masked and the result is tiny, AMD's raise it also for an operand `a` that
/// FSCALE or FPREM gives back as it is.
fn may_differ(name: &str, fcw: u16, a: F80, value: F80) -> bool {
    let tiny = value.sign_exp & 0x7FFF == 0 && value.frac != 0;
    let unmasked = fcw & UNDERFLOW == 0;
    matches!(name, "fscale" | "fprem") && value == a && tiny && unmasked && !is_intel()
}

/// The vendor that CPUID names.
fn is_intel() -> bool {
    let leaf = core::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

fn check2(
    name: &str,
    seed: u64,
    host: impl Fn(u16, F80, F80) -> (F80, F80, u16),
    soft: impl Fn(&mut Env, F80, F80) -> F80,
) {
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        let (fcw, a, b) = (random.fcw(), random.f80(), random.f80());
        let (top, _, status) = host(fcw, a, b);
        let mut env = Env::from_fcw(fcw);
        let value = soft(&mut env, a, b);
        let flags = flags_of(&env);
        if may_differ(name, fcw, a, value) {
            continue;
        }
        let context = || format!("{name} {a:x?} {b:x?} fcw {fcw:#x}: host {top:x?} {status:#x}");
        assert_eq!(flags & SEEN, status & SEEN, "{}, soft {value:x?}", context());
        if env.unmasked() & PRE_COMPUTATION == 0 {
            assert_eq!(value, top, "{}", context());
        }
    }
}

#[test]
fn add() {
    check2("fadd", 1, host!("fadd st, st(1)"), x87::add);
}

#[test]
fn subtract() {
    check2("fsub", 2, host!("fsub st, st(1)"), x87::sub);
}

#[test]
fn multiply() {
    check2("fmul", 3, host!("fmul st, st(1)"), x87::mul);
}

#[test]
fn divide() {
    check2("fdiv", 4, host!("fdiv st, st(1)"), x87::div);
}

#[test]
fn square_root() {
    check2("fsqrt", 5, host!("fsqrt"), |env, a, _| x87::sqrt(env, a));
}

#[test]
fn round_to_integer() {
    check2("frndint", 6, host!("frndint"), |env, a, _| x87::round_to_int(env, a));
}

#[test]
fn scale() {
    check2("fscale", 7, host!("fscale"), x87::scale);
}

#[test]
fn extract() {
    let host = host!("fxtract");
    let mut random = Random::new(8);
    for _ in 0..ROUNDS {
        let (fcw, a) = (random.fcw(), random.f80());
        let (significand, exponent, status) = host(fcw, a, F80::ONE);
        let mut env = Env::from_fcw(fcw);
        let soft = x87::extract(&mut env, a);
        assert_eq!(flags_of(&env) & SEEN, status & SEEN, "{a:x?} {fcw:#x} {soft:x?}");
        if env.unmasked() & PRE_COMPUTATION == 0 {
            assert_eq!(soft, (exponent, significand), "{a:x?} {fcw:#x}");
        }
    }
}

/// C3, C1 and C0 of a status word as the low three bits of a quotient.
fn quotient_of(status: u16) -> u8 {
    let (c0, c1, c3) = (status >> 8 & 1, status >> 9 & 1, status >> 14 & 1);
    (c0 << 2 | c3 << 1 | c1) as u8
}

fn check_remainder(
    name: &str,
    seed: u64,
    host: impl Fn(u16, F80, F80) -> (F80, F80, u16),
    soft: impl Fn(&mut Env, F80, F80) -> x87::Remainder,
) {
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        let (fcw, a, b) = (random.fcw(), random.f80(), random.f80());
        let (top, _, status) = host(fcw, a, b);
        let mut env = Env::from_fcw(fcw);
        let rest = soft(&mut env, a, b);
        if may_differ(name, fcw, a, rest.value) {
            continue;
        }
        let context =
            || format!("{name} {a:x?} {b:x?} {fcw:#x}: host {top:x?} {status:#x} {rest:x?}");
        let exceptions = EXCEPTIONS as u16;
        assert_eq!(env.reported() as u16 & exceptions, status & exceptions, "{}", context());
        if env.unmasked() & PRE_COMPUTATION == 0 {
            assert_eq!(rest.value, top, "{}", context());
            let codes = match rest.quotient {
                x87::Quotient::None => (false, 0),
                x87::Quotient::Incomplete => (true, 0),
                x87::Quotient::Low(q) => (false, q),
            };
            assert_eq!(codes, (status & 0x400 != 0, quotient_of(status)), "{}", context());
        }
    }
}

#[test]
fn partial_remainder() {
    check_remainder("fprem", 9, host!("fprem"), x87::remainder);
}

#[test]
fn partial_remainder_nearest() {
    check_remainder("fprem1", 10, host!("fprem1"), x87::remainder_nearest);
}

fn check_compare(seed: u64, host: impl Fn(u16, F80, F80) -> (F80, F80, u16), signal: bool) {
    let mut random = Random::new(seed);
    for _ in 0..ROUNDS {
        let (fcw, a, mut b) = (random.fcw(), random.f80(), random.f80());
        if random.below(4) == 0 {
            b = a;
        }
        let (_, _, status) = host(fcw, a, b);
        let mut env = Env::from_fcw(fcw);
        let order = softfloat::compare(&mut env, a, b, signal);
        assert_eq!(flags_of(&env) & SEEN, status & SEEN, "{a:x?} {b:x?} {fcw:#x}");
        let codes = match order {
            Some(Ordering::Greater) => 0,
            Some(Ordering::Less) => 0x100,
            Some(Ordering::Equal) => 0x4000,
            None => CONDITIONS,
        };
        if env.unmasked() & PRE_COMPUTATION == 0 {
            assert_eq!(codes, status & CONDITIONS, "{a:x?} {b:x?} {fcw:#x}");
        }
    }
}

#[test]
fn compare() {
    check_compare(11, host!("fcom st(1)"), true);
}

#[test]
fn compare_unordered() {
    check_compare(12, host!("fucom st(1)"), false);
}

/// Stores ST0 to memory with an instruction; gives the memory and the status word.
macro_rules! host_store {
    ($insn:expr) => {
        |fcw: u16, a: F80| -> ([u8; 10], u16) {
            let a = a.to_bytes();
            let mut memory = [0u8; 10];
            let mut status = 0u16;
            // SAFETY: as in `host`; no store is wider than ten bytes.
            unsafe {
                asm!(
                    "fninit",
                    "fldcw word ptr [{fcw}]",
                    "fld tbyte ptr [{a}]",
                    $insn,
                    "fnstsw ax",
                    "fnclex",
                    "fninit",
                    fcw = in(reg) &fcw, a = in(reg) a.as_ptr(), m = in(reg) memory.as_mut_ptr(),
                    inout("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            (memory, status)
        }
    };
}

fn check_store<const N: usize>(
    name: &str,
    host: impl Fn(u16, F80) -> ([u8; 10], u16),
    soft: impl Fn(&mut Env, F80) -> [u8; N],
    integer: bool,
) {
    let mut random = Random::new(13);
    for _ in 0..ROUNDS {
        let fcw = random.fcw();
        let a = match random.below(3) {
            0 => random.f80(),
            1 => random.f80_between(-3, 66),
            _ if integer => random.f80_between(10, 20),
            _ => random.f80_between(-1100, 1100),
        };
        let (memory, status) = host(fcw, a);
        let mut env = Env::from_fcw(fcw);
        let value = soft(&mut env, a);
        let context = || format!("{name} {a:x?} {fcw:#x}: host {memory:x?} {status:#x} {value:x?}");
        let stored = env.unmasked() & !softfloat::INEXACT == 0;
        let mut expected = env.reported() as u16;
        if !stored {
            // Nothing was rounded into memory.
            expected &= !(ROUNDED_UP | softfloat::INEXACT) as u16;
        }
        let seen = if stored { SEEN } else { SEEN & !(softfloat::INEXACT | ROUNDED_UP) as u16 };
        assert_eq!(expected & seen, status & seen, "{}", context());
        if stored {
            assert_eq!(value[..], memory[..N], "{}", context());
        } else {
            assert_eq!([0; N][..], memory[..N], "{}", context());
        }
    }
}

#[test]
fn store() {
    check_store(
        "m32",
        host_store!("fst dword ptr [{m}]"),
        |env, a| x87::store::<u32>(env, a).to_le_bytes(),
        false,
    );
    check_store(
        "m64",
        host_store!("fst qword ptr [{m}]"),
        |env, a| x87::store::<u64>(env, a).to_le_bytes(),
        false,
    );
    check_store(
        "i16",
        host_store!("fist word ptr [{m}]"),
        |env, a| softfloat::to_i16(env, a).to_le_bytes(),
        true,
    );
    check_store(
        "i32",
        host_store!("fist dword ptr [{m}]"),
        |env, a| softfloat::to_i32(env, a).to_le_bytes(),
        true,
    );
    check_store(
        "i64",
        host_store!("fistp qword ptr [{m}]"),
        |env, a| softfloat::to_i64(env, a).to_le_bytes(),
        true,
    );
    check_store(
        "t16",
        host_store!("fisttp word ptr [{m}]"),
        |env, a| softfloat::to_i16_truncate(env, a).to_le_bytes(),
        true,
    );
    check_store(
        "t32",
        host_store!("fisttp dword ptr [{m}]"),
        |env, a| softfloat::to_i32_truncate(env, a).to_le_bytes(),
        true,
    );
    check_store(
        "t64",
        host_store!("fisttp qword ptr [{m}]"),
        |env, a| softfloat::to_i64_truncate(env, a).to_le_bytes(),
        true,
    );
    check_store("bcd", host_store!("fbstp tbyte ptr [{m}]"), x87::to_bcd, true);
}

/// Loads from memory with an instruction; gives ST0 and the status word.
macro_rules! host_load {
    ($insn:expr) => {
        |fcw: u16, memory: [u8; 10]| -> (F80, u16) {
            let mut top = [0u8; 10];
            let mut status = 0u16;
            // SAFETY: as in `host`; no load is wider than ten bytes.
            unsafe {
                asm!(
                    "fninit",
                    "fldcw word ptr [{fcw}]",
                    $insn,
                    "fnstsw ax",
                    "fnclex",
                    "fstp tbyte ptr [{top}]",
                    "fninit",
                    fcw = in(reg) &fcw, m = in(reg) memory.as_ptr(), top = in(reg) top.as_mut_ptr(),
                    inout("ax") status,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            (F80::from_bytes(top), status)
        }
    };
}

#[test]
fn load() {
    let (f32_load, f64_load) =
        (host_load!("fld dword ptr [{m}]"), host_load!("fld qword ptr [{m}]"));
    let int_load = host_load!("fild qword ptr [{m}]");
    let bcd_load = host_load!("fbld tbyte ptr [{m}]");
    let mut random = Random::new(14);
    for _ in 0..ROUNDS {
        let fcw = random.fcw() | 0x3f;
        let mut memory = [0; 10];
        let single = random.f32();
        memory[..4].copy_from_slice(&single.to_le_bytes());
        let mut env = Env::from_fcw(fcw);
        let (value, status) = f32_load(fcw, memory);
        assert_eq!(x87::extend(&mut env, single), value, "{single:#x}");
        assert_eq!(flags_of(&env), status & SEEN, "{single:#x}");

        let double = random.f64();
        memory[..8].copy_from_slice(&double.to_le_bytes());
        let mut env = Env::from_fcw(fcw);
        let (value, status) = f64_load(fcw, memory);
        assert_eq!(x87::extend(&mut env, double), value, "{double:#x}");
        assert_eq!(flags_of(&env), status & SEEN, "{double:#x}");

        let int = random.int();
        memory[..8].copy_from_slice(&int.to_le_bytes());
        assert_eq!(x87::int_to_f80(int), int_load(fcw, memory).0, "{int:#x}");

        for byte in &mut memory {
            *byte = (random.below(10) << 4 | random.below(10)) as u8;
        }
        assert_eq!(x87::from_bcd(memory), bcd_load(fcw, memory).0, "{memory:x?}");
    }
}
