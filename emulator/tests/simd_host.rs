//! The vector functions against the host's instructions, for random and edge-case operands.
#![cfg(target_arch = "x86_64")]

use core::arch::x86_64::*;

use emulator::simd::{aes, arith, crc32, shift, shuffle, strings};

const ROUNDS: usize = 3000;

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Bytes that are random, or extreme, or few in kind.
    fn value(&mut self) -> u128 {
        let random = self.bits() as u128 | (self.bits() as u128) << 64;
        match self.bits() >> 62 {
            0 => random,
            kind => u128::from_le_bytes(random.to_le_bytes().map(|byte| match kind {
                1 => [0, 0xff, 0x80, 0x7f, 1, 0xfe, 0x81, byte][usize::from(byte & 7)],
                2 => byte & 3,
                _ if byte & 1 != 0 => 0xff,
                _ => byte >> 4,
            })),
        }
    }
}

fn to_host(value: u128) -> __m128i {
    // SAFETY: SSE2 is always present, and the pointer is to sixteen bytes.
    unsafe { _mm_loadu_si128((&raw const value).cast()) }
}

fn from_host(value: __m128i) -> u128 {
    let mut out = 0;
    // SAFETY: as above.
    unsafe { _mm_storeu_si128((&raw mut out).cast(), value) };
    out
}

fn check(
    name: &str,
    soft: impl Fn(u128, u128) -> u128,
    host: impl Fn(__m128i, __m128i) -> __m128i,
) {
    let mut random =
        Random(name.bytes().fold(99, |seed, byte| seed << 5 ^ seed >> 59 ^ u64::from(byte)));
    for _ in 0..ROUNDS {
        let (a, b) = (random.value(), random.value());
        let expected = from_host(host(to_host(a), to_host(b)));
        assert_eq!(soft(a, b), expected, "{name} {a:#034x} {b:#034x}: host {expected:#034x}");
    }
}

/// Compares functions of two operands with intrinsics.
macro_rules! same {
    ($($soft:path = $host:path;)*) => {$(
        // SAFETY: the caller has asked for the feature.
        check(stringify!($soft), $soft, |a, b| unsafe { $host(a, b) });
    )*};
}

/// Compares functions of the second operand alone.
macro_rules! same_one {
    ($($soft:path = $host:path;)*) => {$(
        // SAFETY: the caller has asked for the feature.
        check(stringify!($soft), |_, b| $soft(b), |_, b| unsafe { $host(b) });
    )*};
}

/// Compares functions with an immediate, for several of them.
macro_rules! same_imm {
    ($soft:path = $host:ident: $($imm:literal)*) => {$(
        // SAFETY: the caller has asked for the feature.
        check(stringify!($soft), |a, b| $soft(a, b, $imm), |a, b| unsafe { $host::<$imm>(a, b) });
    )*};
}

#[test]
fn two_operands_sse2() {
    if !is_x86_feature_detected!("sse2") {
        return;
    }
    same! {
        arith::paddb = _mm_add_epi8;
        arith::paddw = _mm_add_epi16;
        arith::paddd = _mm_add_epi32;
        arith::paddq = _mm_add_epi64;
        arith::psubb = _mm_sub_epi8;
        arith::psubw = _mm_sub_epi16;
        arith::psubd = _mm_sub_epi32;
        arith::psubq = _mm_sub_epi64;
        arith::paddsb = _mm_adds_epi8;
        arith::paddsw = _mm_adds_epi16;
        arith::paddusb = _mm_adds_epu8;
        arith::paddusw = _mm_adds_epu16;
        arith::psubsb = _mm_subs_epi8;
        arith::psubsw = _mm_subs_epi16;
        arith::psubusb = _mm_subs_epu8;
        arith::psubusw = _mm_subs_epu16;
        arith::pavgb = _mm_avg_epu8;
        arith::pavgw = _mm_avg_epu16;
        arith::pminub = _mm_min_epu8;
        arith::pmaxub = _mm_max_epu8;
        arith::pminsw = _mm_min_epi16;
        arith::pmaxsw = _mm_max_epi16;
        arith::pcmpeqb = _mm_cmpeq_epi8;
        arith::pcmpeqw = _mm_cmpeq_epi16;
        arith::pcmpeqd = _mm_cmpeq_epi32;
        arith::pcmpgtb = _mm_cmpgt_epi8;
        arith::pcmpgtw = _mm_cmpgt_epi16;
        arith::pcmpgtd = _mm_cmpgt_epi32;
        arith::pmullw = _mm_mullo_epi16;
        arith::pmulhw = _mm_mulhi_epi16;
        arith::pmulhuw = _mm_mulhi_epu16;
        arith::pmuludq = _mm_mul_epu32;
        arith::pmaddwd = _mm_madd_epi16;
        arith::psadbw = _mm_sad_epu8;
        shuffle::packsswb = _mm_packs_epi16;
        shuffle::packuswb = _mm_packus_epi16;
        shuffle::packssdw = _mm_packs_epi32;
        shuffle::punpcklbw = _mm_unpacklo_epi8;
        shuffle::punpckhbw = _mm_unpackhi_epi8;
        shuffle::punpcklwd = _mm_unpacklo_epi16;
        shuffle::punpckhwd = _mm_unpackhi_epi16;
        shuffle::punpckldq = _mm_unpacklo_epi32;
        shuffle::punpckhdq = _mm_unpackhi_epi32;
        shuffle::punpcklqdq = _mm_unpacklo_epi64;
        shuffle::punpckhqdq = _mm_unpackhi_epi64;
    }
}

#[test]
fn two_operands_ssse3() {
    if !is_x86_feature_detected!("ssse3") {
        return;
    }
    same! {
        shuffle::pshufb = _mm_shuffle_epi8;
        arith::phaddw = _mm_hadd_epi16;
        arith::phaddd = _mm_hadd_epi32;
        arith::phaddsw = _mm_hadds_epi16;
        arith::phsubw = _mm_hsub_epi16;
        arith::phsubd = _mm_hsub_epi32;
        arith::phsubsw = _mm_hsubs_epi16;
        arith::pmaddubsw = _mm_maddubs_epi16;
        arith::pmulhrsw = _mm_mulhrs_epi16;
        arith::psignb = _mm_sign_epi8;
        arith::psignw = _mm_sign_epi16;
        arith::psignd = _mm_sign_epi32;
    }
}

#[test]
fn two_operands_sse4_1() {
    if !is_x86_feature_detected!("sse4.1") {
        return;
    }
    same! {
        arith::pmulld = _mm_mullo_epi32;
        arith::pmuldq = _mm_mul_epi32;
        arith::pminsb = _mm_min_epi8;
        arith::pmaxsb = _mm_max_epi8;
        arith::pminuw = _mm_min_epu16;
        arith::pmaxuw = _mm_max_epu16;
        arith::pminud = _mm_min_epu32;
        arith::pmaxud = _mm_max_epu32;
        arith::pminsd = _mm_min_epi32;
        arith::pmaxsd = _mm_max_epi32;
        arith::pcmpeqq = _mm_cmpeq_epi64;
        shuffle::packusdw = _mm_packus_epi32;
    }
}

#[test]
fn two_operands_sse4_2() {
    if !is_x86_feature_detected!("sse4.2") {
        return;
    }
    same! {
        arith::pcmpgtq = _mm_cmpgt_epi64;
    }
}

#[test]
fn two_operands_aes() {
    if !is_x86_feature_detected!("aes") {
        return;
    }
    same! {
        aes::aesenc = _mm_aesenc_si128;
        aes::aesenclast = _mm_aesenclast_si128;
        aes::aesdec = _mm_aesdec_si128;
        aes::aesdeclast = _mm_aesdeclast_si128;
    }
}

#[test]
fn one_operand() {
    if !is_x86_feature_detected!("aes") || !is_x86_feature_detected!("sse4.1") {
        return;
    }
    same_one! {
        aes::aesimc = _mm_aesimc_si128;
        arith::phminposuw = _mm_minpos_epu16;
        shuffle::pmovsxbw = _mm_cvtepi8_epi16;
        shuffle::pmovzxbw = _mm_cvtepu8_epi16;
        shuffle::pmovsxbd = _mm_cvtepi8_epi32;
        shuffle::pmovzxbd = _mm_cvtepu8_epi32;
        shuffle::pmovsxbq = _mm_cvtepi8_epi64;
        shuffle::pmovzxbq = _mm_cvtepu8_epi64;
        shuffle::pmovsxwd = _mm_cvtepi16_epi32;
        shuffle::pmovzxwd = _mm_cvtepu16_epi32;
        shuffle::pmovsxwq = _mm_cvtepi16_epi64;
        shuffle::pmovzxwq = _mm_cvtepu16_epi64;
        shuffle::pmovsxdq = _mm_cvtepi32_epi64;
        shuffle::pmovzxdq = _mm_cvtepu32_epi64;
    }
    for (name, soft, host) in [
        ("pabsb", arith::pabsb as fn(u128, u128) -> u128, _mm_abs_epi8 as unsafe fn(_) -> _),
        ("pabsw", arith::pabsw, _mm_abs_epi16),
        ("pabsd", arith::pabsd, _mm_abs_epi32),
    ] {
        // SAFETY: SSE4.1 implies SSSE3.
        check(name, soft, |_, b| unsafe { host(b) });
    }
}

#[test]
fn immediates() {
    if !is_x86_feature_detected!("sse4.1") || !is_x86_feature_detected!("pclmulqdq") {
        return;
    }
    same_imm!(shuffle::palignr = _mm_alignr_epi8: 0 1 7 8 15 16 17 31 32 33 255);
    same_imm!(shuffle::pblendw = _mm_blend_epi16: 0 1 0x55 0xaa 0x80 0xff);
    same_imm!(arith::mpsadbw = _mm_mpsadbw_epu8: 0 1 2 3 4 5 6 7);
    same_imm!(aes::pclmulqdq = _mm_clmulepi64_si128: 0 1 16 17);
    macro_rules! shuffles {
        ($($imm:literal)*) => {$(
            // SAFETY: SSE4.1 and what it implies are present.
            unsafe {
                check("pshufd", |_, b| shuffle::pshufd(b, $imm as u8), |_, b| _mm_shuffle_epi32::<$imm>(b));
                check("pshuflw", |_, b| shuffle::pshuflw(b, $imm as u8), |_, b| _mm_shufflelo_epi16::<$imm>(b));
                check("pshufhw", |_, b| shuffle::pshufhw(b, $imm as u8), |_, b| _mm_shufflehi_epi16::<$imm>(b));
                check("shufps", |a, b| shuffle::shufps(a, b, $imm as u8), |a, b| {
                    _mm_castps_si128(_mm_shuffle_ps::<$imm>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
                });
                check("insertps", |a, b| shuffle::insertps(a, b, $imm as u8), |a, b| {
                    _mm_castps_si128(_mm_insert_ps::<$imm>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
                });
                check("pslldq", |_, b| shift::pslldq(b, $imm as u8), |_, b| _mm_slli_si128::<$imm>(b));
                check("psrldq", |_, b| shift::psrldq(b, $imm as u8), |_, b| _mm_srli_si128::<$imm>(b));
            }
        )*};
    }
    shuffles!(0 1 5 0x1b 0x4e 0x93 0xe4 0xff 0x35 15 16);
    if is_x86_feature_detected!("aes") {
        macro_rules! assist {
            ($($imm:literal)*) => {$(
                check("aeskeygenassist", |_, b| aes::aeskeygenassist(b, $imm), |_, b| {
                    // SAFETY: AES is present.
                    unsafe { _mm_aeskeygenassist_si128::<$imm>(b) }
                });
            )*};
        }
        assist!(0 1 2 0x1b 0x36 0xff);
    }
}

#[test]
fn shifts() {
    let mut random = Random(7);
    for _ in 0..ROUNDS {
        let a = random.value();
        let count = match random.bits() >> 62 {
            0 => random.bits(),
            _ => random.bits() >> 57,
        };
        let (host, by) = (to_host(a), to_host(count.into()));
        // SAFETY: SSE2 is always present.
        let pairs = unsafe {
            [
                (shift::psllw(a, count), _mm_sll_epi16(host, by)),
                (shift::pslld(a, count), _mm_sll_epi32(host, by)),
                (shift::psllq(a, count), _mm_sll_epi64(host, by)),
                (shift::psrlw(a, count), _mm_srl_epi16(host, by)),
                (shift::psrld(a, count), _mm_srl_epi32(host, by)),
                (shift::psrlq(a, count), _mm_srl_epi64(host, by)),
                (shift::psraw(a, count), _mm_sra_epi16(host, by)),
                (shift::psrad(a, count), _mm_sra_epi32(host, by)),
            ]
        };
        for (i, (soft, host)) in pairs.into_iter().enumerate() {
            assert_eq!(soft, from_host(host), "shift {i} {a:#034x} by {count:#x}");
        }
    }
}

#[test]
fn masks_and_blends() {
    if !is_x86_feature_detected!("sse4.1") {
        return;
    }
    let mut random = Random(8);
    for _ in 0..ROUNDS {
        let (a, b, mask) = (random.value(), random.value(), random.value());
        let (x, y, m) = (to_host(a), to_host(b), to_host(mask));
        // SAFETY: SSE4.1 is present.
        unsafe {
            assert_eq!(arith::pmovmskb(a), _mm_movemask_epi8(x) as u32);
            assert_eq!(arith::movmskps(a), _mm_movemask_ps(_mm_castsi128_ps(x)) as u32);
            assert_eq!(arith::movmskpd(a), _mm_movemask_pd(_mm_castsi128_pd(x)) as u32);
            assert_eq!(shuffle::pblendvb(a, b, mask), from_host(_mm_blendv_epi8(x, y, m)));
            let (x, y, m) = (_mm_castsi128_ps(x), _mm_castsi128_ps(y), _mm_castsi128_ps(m));
            let host = from_host(_mm_castps_si128(_mm_blendv_ps(x, y, m)));
            assert_eq!(shuffle::blendvps(a, b, mask), host);
            let (x, y, m) = (_mm_castps_pd(x), _mm_castps_pd(y), _mm_castps_pd(m));
            let host = from_host(_mm_castpd_si128(_mm_blendv_pd(x, y, m)));
            assert_eq!(shuffle::blendvpd(a, b, mask), host);
        }
        for width in [8, 16, 32, 64] {
            let index = (a as u8) % (128 / width) as u8;
            let value = (mask as u64) & (u64::MAX >> (64 - width));
            let inserted = shuffle::insert(b, width, value, a as u8);
            assert_eq!(shuffle::extract(inserted, width, index), value);
            assert_eq!((inserted ^ b) & !(((1u128 << width) - 1) << (width * u32::from(index))), 0);
        }
    }
}

/// What MMX computes, in the host's MMX registers.
#[test]
fn mmx() {
    macro_rules! mmx {
        ($($insn:literal $soft:expr;)*) => {$(
            let mut random = Random(9);
            for _ in 0..ROUNDS {
                let (a, b) = (random.value() as u64, random.value() as u64);
                let mut host = a;
                // SAFETY: only MMX registers are touched, and given back to the x87.
                unsafe {
                    core::arch::asm!(
                        "movq mm0, {a}", "movq mm1, {b}", $insn, "movq {a}, mm0", "emms",
                        a = inout(reg) host, b = in(reg) b,
                        out("mm0") _, out("mm1") _, out("st(0)") _, out("st(1)") _,
                        out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _,
                        out("st(6)") _, out("st(7)") _,
                    );
                }
                let soft: fn(u128, u128) -> u128 = $soft;
                assert_eq!(soft(a.into(), b.into()) as u64, host, "{} {a:#x} {b:#x}", $insn);
            }
        )*};
    }
    mmx! {
        "packsswb mm0, mm1" |a, b| shuffle::packsswb(shuffle::join_mmx(a, b), 0);
        "packuswb mm0, mm1" |a, b| shuffle::packuswb(shuffle::join_mmx(a, b), 0);
        "packssdw mm0, mm1" |a, b| shuffle::packssdw(shuffle::join_mmx(a, b), 0);
        "phaddw mm0, mm1" |a, b| arith::phaddw(shuffle::join_mmx(a, b), 0);
        "phaddsw mm0, mm1" |a, b| arith::phaddsw(shuffle::join_mmx(a, b), 0);
        "phsubd mm0, mm1" |a, b| arith::phsubd(shuffle::join_mmx(a, b), 0);
        "punpcklbw mm0, mm1" shuffle::punpcklbw;
        "punpckldq mm0, mm1" shuffle::punpckldq;
        "punpckhwd mm0, mm1" |a, b| shuffle::punpcklwd(a >> 32, b >> 32);
        "pshufb mm0, mm1" shuffle::pshufb_mmx;
        "palignr mm0, mm1, 3" |a, b| shuffle::palignr_mmx(a, b, 3);
        "palignr mm0, mm1, 11" |a, b| shuffle::palignr_mmx(a, b, 11);
        "palignr mm0, mm1, 16" |a, b| shuffle::palignr_mmx(a, b, 16);
        "pshufw mm0, mm1, 0x1b" |_, b| shuffle::pshuflw(b, 0x1b);
        "psadbw mm0, mm1" arith::psadbw;
        "pmaddubsw mm0, mm1" arith::pmaddubsw;
    }
}

#[test]
fn checksums() {
    if !is_x86_feature_detected!("sse4.2") {
        return;
    }
    let mut random = Random(10);
    for _ in 0..ROUNDS {
        let (crc, data) = (random.bits() as u32, random.bits());
        // SAFETY: SSE4.2 is present.
        unsafe {
            assert_eq!(crc32::crc32(crc, data, 1), _mm_crc32_u8(crc, data as u8));
            assert_eq!(crc32::crc32(crc, data, 2), _mm_crc32_u16(crc, data as u16));
            assert_eq!(crc32::crc32(crc, data, 4), _mm_crc32_u32(crc, data as u32));
            assert_eq!(u64::from(crc32::crc32(crc, data, 8)), _mm_crc32_u64(crc.into(), data));
        }
    }
}

/// Every immediate of the string comparisons, with lengths of both kinds.
#[test]
fn string_comparisons() {
    if !is_x86_feature_detected!("sse4.2") {
        return;
    }
    fn each<const IMM: i32>() {
        let mut random = Random(IMM as u64 * 77 + 5);
        for _ in 0..120 {
            let (a, b) = (random.value(), random.value());
            let (m, n) = (random.bits() as i32 >> 26, random.bits() as i32 >> 26);
            let (x, y, imm) = (to_host(a), to_host(b), IMM as u8);
            let soft = strings::implicit_length(a, b, imm);
            // SAFETY: SSE4.2 is present.
            unsafe {
                assert_eq!(soft.index(imm), _mm_cmpistri::<IMM>(x, y) as u32, "{a:x} {b:x} {IMM}");
                assert_eq!(soft.mask(imm), from_host(_mm_cmpistrm::<IMM>(x, y)));
                assert_eq!(soft.carry(), _mm_cmpistrc::<IMM>(x, y) != 0);
                assert_eq!(soft.overflow(), _mm_cmpistro::<IMM>(x, y) != 0);
                assert_eq!(soft.sign, _mm_cmpistrs::<IMM>(x, y) != 0);
                assert_eq!(soft.zero, _mm_cmpistrz::<IMM>(x, y) != 0);
            }
            let soft = strings::explicit_length(a, m.into(), b, n.into(), imm);
            // SAFETY: SSE4.2 is present.
            unsafe {
                assert_eq!(soft.index(imm), _mm_cmpestri::<IMM>(x, m, y, n) as u32);
                assert_eq!(soft.mask(imm), from_host(_mm_cmpestrm::<IMM>(x, m, y, n)));
                assert_eq!(soft.carry(), _mm_cmpestrc::<IMM>(x, m, y, n) != 0);
                assert_eq!(soft.overflow(), _mm_cmpestro::<IMM>(x, m, y, n) != 0);
                assert_eq!(soft.sign, _mm_cmpestrs::<IMM>(x, m, y, n) != 0);
                assert_eq!(soft.zero, _mm_cmpestrz::<IMM>(x, m, y, n) != 0);
            }
        }
    }
    macro_rules! each {
        ($($imm:literal)*) => { $(each::<$imm>(); each::<{ $imm + 64 }>();)* };
    }
    each!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
    each!(48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63);
}
