//! The x87's transcendental functions, with one answer on every host.
//!
//! Each result is computed to more than 100 bits and rounded once under the rounding control, so
//! it errs by little more than half a unit in the last place; the SDM promises one unit (volume 1,
//! 8.3.10). The precision control does not apply. Arguments of the trigonometric functions are
//! reduced by the 66-bit approximation of pi that Intel processors use (SDM 1 8.3.8): a sine near
//! a large multiple of pi is therefore the sine that real programs see, not the mathematical one.
//! What the SDM leaves undefined: F2XM1 outside -1..=1 gives its operand, as Intel processors do,
//! and so does FYL2XP1 from -1 down; elsewhere FYL2XP1 follows the mathematical function.

use super::format::{Class, Format, Unpacked};
use super::wide::Wide;
use super::{DIVIDE_BY_ZERO, Env, F80, INEXACT};

const LN_2: Wide = Wide::constant(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
const LOG2_E: Wide = Wide::constant(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
const PI: Wide = Wide::constant(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// Pi to 66 bits, times 2^66.
const PI_66: u128 = 0xc_90fd_aa22_168c_234c;

/// `atan(k / 8)` for k from 1 to 8.
const ARCTAN: [Wide; 8] = [
    Wide::constant(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::constant(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::constant(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::constant(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::constant(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::constant(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::constant(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::constant(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// `2^x - 1` (F2XM1).
pub fn exp2_minus_1(env: &mut Env, x: F80) -> F80 {
    let a = x.unpack(env);
    match a.class {
        Class::Quiet | Class::Signalling | Class::Unsupported => F80::propagate_one(env, a),
        Class::Zero => x,
        Class::Infinity if a.sign => F80::ONE.negate(),
        Class::Infinity => x,
        _ => {
            a.note(env);
            match power_minus_1(a) {
                Some(value) => value.round(env, true),
                None => {
                    env.raise(INEXACT);
                    x
                }
            }
        }
    }
}

/// `2^a - 1` for `a` between -1 and 1; `None` outside, where operands stay as they are, and for 1.
fn power_minus_1(a: Unpacked) -> Option<Wide> {
    if a.exp >= 0 {
        let minus_1 = a.sign && a.exp == 0 && a.sig == 1 << 63;
        return if minus_1 { Some(Wide::ONE.scaled(-1).negate()) } else { None };
    }
    let y = Wide::from_unpacked(a).mul(LN_2);
    let mut sum = Wide::ONE;
    for k in (2..=30).rev() {
        sum = Wide::ONE.add(y.mul(sum).div_small(k));
    }
    Some(y.mul(sum))
}

/// `2 * atanh(s)` for small `s`, which is `ln((1 + s) / (1 - s))`.
fn twice_artanh(s: Wide) -> Wide {
    let square = s.mul(s);
    let mut sum = Wide::ZERO;
    for k in (0..26).rev() {
        sum = Wide::ONE.div_small(2 * k + 1).add(square.mul(sum));
    }
    s.mul(sum).scaled(1)
}

/// `log2(x)` for a finite positive `x`.
fn log2(x: Wide) -> Wide {
    const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
    let (exp, scaled) = if x.sig > SQRT_2 {
        (x.exp + 1, Wide { exp: -1, ..x })
    } else {
        (x.exp, Wide { exp: 0, ..x })
    };
    let whole = Wide::from_int(exp < 0, u128::from(exp.unsigned_abs()), 0);
    let above = scaled.sub(Wide::ONE);
    if above.is_zero() {
        return whole;
    }
    let s = above.div(scaled.add(Wide::ONE));
    whole.add(twice_artanh(s).mul(LOG2_E))
}

/// `y * log2(x)` (FYL2X).
pub fn log2_times(env: &mut Env, y: F80, x: F80) -> F80 {
    let (b, a) = (y.unpack(env), x.unpack(env));
    if a.is_nan() || b.is_nan() {
        return F80::propagate(env, a, b);
    }
    if a.is_zero() {
        if b.is_zero() {
            return F80::invalid(env);
        }
        if !b.is_infinite() {
            env.raise(DIVIDE_BY_ZERO);
        }
        return F80::infinity(!b.sign);
    }
    if a.sign {
        return F80::invalid(env);
    }
    if a.is_infinite() {
        if b.is_zero() {
            return F80::invalid(env);
        }
        b.note(env);
        return F80::infinity(b.sign);
    }
    let one = a.exp == 0 && a.sig == 1 << 63;
    if b.is_infinite() && one {
        return F80::invalid(env);
    }
    a.note(env);
    b.note(env);
    let sign = b.sign != (a.exp < 0);
    if b.is_infinite() {
        return F80::infinity(sign);
    }
    if b.is_zero() || one {
        return F80::zero(sign);
    }
    log2(Wide::from_unpacked(a)).mul(Wide::from_unpacked(b)).round(env, true)
}

/// `y * log2(x + 1)` (FYL2XP1).
pub fn log2_times_plus_1(env: &mut Env, y: F80, x: F80) -> F80 {
    let (b, a) = (y.unpack(env), x.unpack(env));
    if a.is_nan() || b.is_nan() {
        return F80::propagate(env, a, b);
    }
    if a.is_zero() {
        if b.is_infinite() {
            return F80::invalid(env);
        }
        b.note(env);
        return F80::zero(a.sign != b.sign);
    }
    if b.is_zero() && !a.is_infinite() {
        a.note(env);
        return F80::zero(a.sign != b.sign);
    }
    if a.is_infinite() && (a.sign || b.is_zero()) {
        return F80::invalid(env);
    }
    a.note(env);
    b.note(env);
    if a.is_infinite() || b.is_infinite() {
        return F80::infinity(a.sign != b.sign);
    }
    if a.sign && a.exp >= 0 {
        env.raise(INEXACT);
        return x;
    }
    let x = Wide::from_unpacked(a);
    let log = if a.exp < -2 {
        twice_artanh(x.div(x.add(Wide::ONE.scaled(1)))).mul(LOG2_E)
    } else {
        log2(x.add(Wide::ONE))
    };
    log.mul(Wide::from_unpacked(b)).round(env, true)
}

/// An argument reduced to between -pi/4 and pi/4, and the quadrant it came from.
struct Reduced {
    angle: Wide,
    quadrant: u32,
}

/// Reduces by multiples of half the 66-bit pi. The remainder is exact.
fn reduce(a: Unpacked) -> Reduced {
    if a.exp < -1 {
        return Reduced { angle: Wide::from_unpacked(a), quadrant: 0 };
    }
    // In units of 2^-67, half of pi is PI_66 and the argument is sig * 2^(exp + 4).
    let mut rest = u128::from(a.sig);
    let mut quotient = (rest / PI_66) as u32;
    rest %= PI_66;
    let mut left = (a.exp + 4) as u32;
    while left > 0 {
        let step = left.min(60);
        rest <<= step;
        let part = rest / PI_66;
        rest -= part * PI_66;
        quotient = if step < 32 { quotient << step } else { 0 };
        quotient = quotient.wrapping_add(part as u32);
        left -= step;
    }
    let mut negative = false;
    if rest > PI_66 / 2 {
        rest = PI_66 - rest;
        negative = true;
        quotient = quotient.wrapping_add(1);
    }
    let quadrant = if a.sign { quotient.wrapping_neg() } else { quotient } & 3;
    Reduced { angle: Wide::from_int(negative != a.sign, rest, -67), quadrant }
}

/// The sine or, if `cosine`, the cosine of a reduced angle, by its Taylor series.
fn series(angle: Wide, cosine: bool) -> Wide {
    let square = angle.mul(angle);
    let first = if cosine { 1 } else { 2 };
    let mut sum = Wide::ONE;
    for k in (0..15).rev() {
        let n = first + 2 * k;
        sum = Wide::ONE.sub(square.mul(sum).div_small(n * (n + 1)));
    }
    if cosine { sum } else { angle.mul(sum) }
}

/// The sine and cosine of a reduced argument, before rounding.
fn sine_cosine(reduced: &Reduced) -> (Wide, Wide) {
    let (s, c) = (series(reduced.angle, false), series(reduced.angle, true));
    match reduced.quadrant {
        0 => (s, c),
        1 => (c, s.negate()),
        2 => (s.negate(), c.negate()),
        _ => (c.negate(), s),
    }
}

/// What is known of a trigonometric argument before any reduction.
enum Argument {
    /// NaN, or the NaN that infinity makes.
    Nan(F80),
    Zero(F80),
    Number(Unpacked),
}

/// Sorts out the special arguments; `None` for magnitudes of 2^63 and more (C2).
fn argument(env: &mut Env, x: F80) -> Option<Argument> {
    let a = x.unpack(env);
    match a.class {
        Class::Quiet | Class::Signalling | Class::Unsupported => {
            Some(Argument::Nan(F80::propagate_one(env, a)))
        }
        Class::Infinity => Some(Argument::Nan(F80::invalid(env))),
        Class::Zero => Some(Argument::Zero(x)),
        _ if a.exp >= 63 => None,
        _ => {
            a.note(env);
            Some(Argument::Number(a))
        }
    }
}

/// The sine (FSIN); `None` if the argument is out of range (C2).
pub fn sin(env: &mut Env, x: F80) -> Option<F80> {
    Some(match argument(env, x)? {
        Argument::Nan(nan) => nan,
        Argument::Zero(zero) => zero,
        Argument::Number(a) => {
            let reduced = reduce(a);
            let value = series(reduced.angle, reduced.quadrant & 1 != 0);
            let value = if reduced.quadrant & 2 != 0 { value.negate() } else { value };
            value.round(env, true)
        }
    })
}

/// The cosine (FCOS); `None` if the argument is out of range (C2).
pub fn cos(env: &mut Env, x: F80) -> Option<F80> {
    Some(match argument(env, x)? {
        Argument::Nan(nan) => nan,
        Argument::Zero(_) => F80::ONE,
        Argument::Number(a) => {
            let reduced = reduce(a);
            let value = series(reduced.angle, reduced.quadrant & 1 == 0);
            let negative = matches!(reduced.quadrant, 1 | 2);
            let value = if negative { value.negate() } else { value };
            value.round(env, true)
        }
    })
}

/// Sine and cosine (FSINCOS); `None` if the argument is out of range (C2).
pub fn sin_cos(env: &mut Env, x: F80) -> Option<(F80, F80)> {
    Some(match argument(env, x)? {
        Argument::Nan(nan) => (nan, nan),
        Argument::Zero(zero) => (zero, F80::ONE),
        Argument::Number(a) => {
            let (sine, cosine) = sine_cosine(&reduce(a));
            let sine = sine.round(env, true);
            (sine, cosine.round(env, true))
        }
    })
}

/// The tangent (FPTAN); `None` if the argument is out of range (C2).
pub fn tan(env: &mut Env, x: F80) -> Option<F80> {
    Some(match argument(env, x)? {
        Argument::Nan(nan) => nan,
        Argument::Zero(zero) => zero,
        Argument::Number(a) => {
            let (sine, cosine) = sine_cosine(&reduce(a));
            sine.div(cosine).round(env, true)
        }
    })
}

/// `atan(t)` for `t` from 0 to 1.
fn arctan_ratio(t: Wide) -> Wide {
    // The nearest k / 8: atan(t) = atan(k/8) + atan((8t - k) / (8 + kt)).
    let eighths = if t.exp < -4 { 0 } else { (t.sig >> (123 - t.exp)) as u32 };
    let k = eighths.div_ceil(2);
    let eight = Wide::from_int(false, 8, 0);
    let whole = Wide::from_int(false, u128::from(k), 0);
    let u = if k == 0 { t } else { t.mul(eight).sub(whole).div(eight.add(t.mul(whole))) };
    let square = u.mul(u);
    let mut sum = Wide::ZERO;
    for n in (0..17).rev() {
        sum = Wide::ONE.div_small(2 * n + 1).sub(square.mul(sum));
    }
    let rest = u.mul(sum);
    if k == 0 { rest } else { ARCTAN[k as usize - 1].add(rest) }
}

/// The angle of the point (`x`, `y`) (FPATAN).
pub fn arctan2(env: &mut Env, y: F80, x: F80) -> F80 {
    let (b, a) = (y.unpack(env), x.unpack(env));
    if a.is_nan() || b.is_nan() {
        return F80::propagate(env, a, b);
    }
    a.note(env);
    b.note(env);
    let half = PI.scaled(-1);
    let angle = match (b.class, a.class) {
        (Class::Infinity, Class::Infinity) if a.sign => half.add(PI.scaled(-2)),
        (Class::Infinity, Class::Infinity) => PI.scaled(-2),
        (Class::Infinity, _) => half,
        (Class::Zero, _) | (_, Class::Infinity) if a.sign => PI,
        (Class::Zero, _) | (_, Class::Infinity) => return F80::zero(b.sign),
        (_, Class::Zero) => half,
        _ => {
            let (v, h) = (Wide::from_unpacked(b).abs(), Wide::from_unpacked(a).abs());
            let steep = (v.exp, v.sig) > (h.exp, h.sig);
            match (steep, a.sign) {
                (false, false) => arctan_ratio(v.div(h)),
                (false, true) => PI.sub(arctan_ratio(v.div(h))),
                (true, false) => half.sub(arctan_ratio(h.div(v))),
                (true, true) => half.add(arctan_ratio(h.div(v))),
            }
        }
    };
    Wide { negative: b.sign, ..angle }.round(env, true)
}
