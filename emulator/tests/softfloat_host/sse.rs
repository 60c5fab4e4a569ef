//! SSE arithmetic, comparisons and conversions with all exceptions masked (an unmasked one would
//! be a signal), with every combination of rounding, FZ and DAZ.

use core::arch::asm;

use emulator::softfloat::{self, Env, Format, sse};

use crate::operands::Random;

const ROUNDS: usize = 200_000;
/// Exceptions accumulate in these bits of MXCSR.
const FLAGS: u32 = 0x3f;

/// Runs `insn` on XMM0 = `a` and XMM1 = `b` under an MXCSR; gives XMM0 and MXCSR.
macro_rules! host {
    ($insn:expr) => {
        |mxcsr: u32, a: u64, b: u64| -> (u64, u32) {
            let (mut value, mut after) = (a, mxcsr);
            let normal = 0x1f80u32;
            // SAFETY: MXCSR is put back before Rust code runs again; the instruction touches the
            // declared registers only.
            unsafe {
                asm!(
                    "movq xmm0, {value}",
                    "movq xmm1, {b}",
                    "ldmxcsr dword ptr [{after}]",
                    $insn,
                    "stmxcsr dword ptr [{after}]",
                    "ldmxcsr dword ptr [{normal}]",
                    "movq {value}, xmm0",
                    value = inout(reg) value, b = in(reg) b,
                    after = in(reg) &mut after, normal = in(reg) &normal,
                    out("xmm0") _, out("xmm1") _,
                );
            }
            (value, after)
        }
    };
}

/// Runs `insn` from XMM1 = `a` to RAX.
macro_rules! host_to_int {
    ($insn:expr) => {
        |mxcsr: u32, _: u64, a: u64| -> (u64, u32) {
            let (mut value, mut after) = (0u64, mxcsr);
            let normal = 0x1f80u32;
            // SAFETY: as in `host`.
            unsafe {
                asm!(
                    "movq xmm1, {a}",
                    "ldmxcsr dword ptr [{after}]",
                    $insn,
                    "stmxcsr dword ptr [{after}]",
                    "ldmxcsr dword ptr [{normal}]",
                    inout("rax") value, a = in(reg) a,
                    after = in(reg) &mut after, normal = in(reg) &normal,
                    out("xmm0") _, out("xmm1") _,
                );
            }
            (value, after)
        }
    };
}

/// Runs `insn` from RAX = `a` to XMM0.
macro_rules! host_from_int {
    ($insn:expr) => {
        |mxcsr: u32, _: u64, a: u64| -> (u64, u32) {
            let (value, mut after): (u64, u32);
            after = mxcsr;
            let normal = 0x1f80u32;
            // SAFETY: as in `host`.
            unsafe {
                asm!(
                    "pxor xmm0, xmm0",
                    "ldmxcsr dword ptr [{after}]",
                    $insn,
                    "stmxcsr dword ptr [{after}]",
                    "ldmxcsr dword ptr [{normal}]",
                    "movq {value}, xmm0",
                    in("rax") a, value = out(reg) value,
                    after = in(reg) &mut after, normal = in(reg) &normal,
                    out("xmm0") _,
                );
            }
            (value, after)
        }
    };
}

/// An operand or a result in the low bits of a register.
trait Bits: Copy + PartialEq + core::fmt::LowerHex {
    fn random(random: &mut Random) -> Self;
    fn low(bits: u64) -> Self;
    fn bits(self) -> u64;
}

macro_rules! bits {
    ($ty:ty, $name:ident) => {
        impl Bits for $ty {
            fn random(random: &mut Random) -> Self {
                random.$name() as Self
            }
            fn low(bits: u64) -> Self {
                bits as Self
            }
            fn bits(self) -> u64 {
                self as u64
            }
        }
    };
}
bits!(u32, f32);
bits!(u64, f64);
bits!(i32, int);
bits!(i64, int);

fn check<A: Bits, R: Bits>(
    name: &str,
    host: impl Fn(u32, u64, u64) -> (u64, u32),
    soft: impl Fn(&mut Env, A, A) -> R,
) {
    let mut random = Random::new(name.len() as u64 + 77);
    for _ in 0..ROUNDS {
        let mxcsr = random.mxcsr();
        let (a, mut b) = (A::random(&mut random), A::random(&mut random));
        if random.below(50) == 0 {
            b = a;
        }
        let (value, after) = host(mxcsr, a.bits(), b.bits());
        let value = R::low(value);
        let mut env = Env::from_mxcsr(mxcsr);
        let result = soft(&mut env, a, b);
        let context = || format!("{name} {a:#x} {b:#x} {mxcsr:#x}: host {value:#x} {after:#x}");
        assert!(result == value, "{}, soft {result:#x}", context());
        assert_eq!((mxcsr | env.flags) & FLAGS, after & FLAGS, "{}", context());
    }
}

#[test]
fn double() {
    check::<u64, u64>("addsd", host!("addsd xmm0, xmm1"), sse::add);
    check::<u64, u64>("subsd", host!("subsd xmm0, xmm1"), sse::sub);
    check::<u64, u64>("mulsd", host!("mulsd xmm0, xmm1"), sse::mul);
    check::<u64, u64>("divsd", host!("divsd xmm0, xmm1"), sse::div);
    check::<u64, u64>("minsd", host!("minsd xmm0, xmm1"), sse::min);
    check::<u64, u64>("maxsd", host!("maxsd xmm0, xmm1"), sse::max);
    check::<u64, u64>("sqrtsd", host!("sqrtsd xmm0, xmm1"), |env, _, b| sse::sqrt(env, b));
}

#[test]
fn single() {
    check::<u32, u32>("addss", host!("addss xmm0, xmm1"), sse::add);
    check::<u32, u32>("subss", host!("subss xmm0, xmm1"), sse::sub);
    check::<u32, u32>("mulss", host!("mulss xmm0, xmm1"), sse::mul);
    check::<u32, u32>("divss", host!("divss xmm0, xmm1"), sse::div);
    check::<u32, u32>("minss", host!("minss xmm0, xmm1"), sse::min);
    check::<u32, u32>("maxss", host!("maxss xmm0, xmm1"), sse::max);
    check::<u32, u32>("sqrtss", host!("sqrtss xmm0, xmm1"), |env, _, b| sse::sqrt(env, b));
}

#[test]
fn round() {
    macro_rules! round {
        ($($imm:literal)*) => {$(
            check::<u64, u64>("roundsd", host!(concat!("roundsd xmm0, xmm1, ", $imm)), |env, _, b| {
                sse::round_imm(env, b, $imm)
            });
            check::<u32, u32>("roundss", host!(concat!("roundss xmm0, xmm1, ", $imm)), |env, _, b| {
                sse::round_imm(env, b, $imm)
            });
        )*};
    }
    round!(0 1 2 3 4 8 9 10 11 12);
}

#[test]
fn compare() {
    macro_rules! compare {
        ($($imm:literal)*) => {$(
            check::<u64, u64>("cmpsd", host!(concat!("cmpsd xmm0, xmm1, ", $imm)), |env, a, b| {
                u64::from(sse::compare_predicate(env, a, b, $imm)).wrapping_neg()
            });
            check::<u32, u32>("cmpss", host!(concat!("cmpss xmm0, xmm1, ", $imm)), |env, a, b| {
                u32::from(sse::compare_predicate(env, a, b, $imm)).wrapping_neg()
            });
        )*};
    }
    compare!(0 1 2 3 4 5 6 7);
}

#[test]
fn narrow_and_widen() {
    check::<u64, u32>("cvtsd2ss", host!("cvtsd2ss xmm0, xmm1"), |env, _, b| {
        softfloat::convert(env, b)
    });
    check::<u32, u64>("cvtss2sd", host!("cvtss2sd xmm0, xmm1"), |env, _, b| {
        softfloat::convert(env, b)
    });
}

#[test]
fn to_integer() {
    use softfloat::{to_i32, to_i32_truncate, to_i64, to_i64_truncate};
    check::<u64, i32>("a", host_to_int!("cvtsd2si eax, xmm1"), |env, _, b| to_i32(env, b));
    check::<u64, i32>("b", host_to_int!("cvttsd2si eax, xmm1"), |e, _, b| to_i32_truncate(e, b));
    check::<u64, i64>("c", host_to_int!("cvtsd2si rax, xmm1"), |env, _, b| to_i64(env, b));
    check::<u64, i64>("d", host_to_int!("cvttsd2si rax, xmm1"), |e, _, b| to_i64_truncate(e, b));
    check::<u32, i32>("e", host_to_int!("cvtss2si eax, xmm1"), |env, _, b| to_i32(env, b));
    check::<u32, i32>("f", host_to_int!("cvttss2si eax, xmm1"), |e, _, b| to_i32_truncate(e, b));
    check::<u32, i64>("g", host_to_int!("cvtss2si rax, xmm1"), |env, _, b| to_i64(env, b));
    check::<u32, i64>("h", host_to_int!("cvttss2si rax, xmm1"), |e, _, b| to_i64_truncate(e, b));
}

#[test]
fn from_integer() {
    use softfloat::{from_i32, from_i64};
    check::<i32, u32>("a", host_from_int!("cvtsi2ss xmm0, eax"), |env, _, b| from_i32(env, b));
    check::<i64, u32>("b", host_from_int!("cvtsi2ss xmm0, rax"), |env, _, b| from_i64(env, b));
    check::<i32, u64>("c", host_from_int!("cvtsi2sd xmm0, eax"), |env, _, b| from_i32(env, b));
    check::<i64, u64>("d", host_from_int!("cvtsi2sd xmm0, rax"), |env, _, b| from_i64(env, b));
}

/// The approximations: within the SDM's bound, and special values as the host has them.
#[test]
fn estimates() {
    let reciprocal = host!("rcpss xmm0, xmm1");
    let root = host!("rsqrtss xmm0, xmm1");
    let mut random = Random::new(5);
    for _ in 0..ROUNDS {
        let (mxcsr, a) = (random.mxcsr(), random.f32());
        let pairs = [
            (reciprocal(mxcsr, 0, u64::from(a)).0 as u32, sse::reciprocal(a)),
            (root(mxcsr, 0, u64::from(a)).0 as u32, sse::reciprocal_sqrt(a)),
        ];
        for (host, soft) in pairs {
            let env = Env::from_mxcsr(0x1f80);
            if host.unpack(&env).class == softfloat::Class::Normal && soft & !(1 << 31) != 0 {
                let (host, soft) = (f32::from_bits(host), f32::from_bits(soft));
                let error = ((host - soft) / host).abs();
                assert!(error < 3.0 / 4096.0, "{a:#x}: {host:e} {soft:e}");
            } else if soft & 0x7fff_ffff != 0x0080_0000 {
                // An estimate at the very end of the range may round to either side of it.
                assert_eq!(host, soft, "{a:#x}");
            }
        }
        let x = f64::from(f32::from_bits(a & !(1 << 31)));
        if x.is_normal() && x < 1e38 && x > 1.2e-38 {
            let bits = a & !(1 << 31);
            let error = f64::from(f32::from_bits(sse::reciprocal_sqrt(bits))) * x.sqrt() - 1.0;
            assert!(error.abs() <= 1.5 / 4096.0, "rsqrt {bits:#x} {error}");
            if x < 1e37 {
                let error = f64::from(f32::from_bits(sse::reciprocal(bits))) * x - 1.0;
                assert!(error.abs() <= 1.5 / 4096.0, "rcp {bits:#x} {error}");
            }
        }
    }
}
