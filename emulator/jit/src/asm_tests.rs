//! Tests of the emitter: what it emits is decoded again and compared.

use super::*;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register};

/// Register `n` of `size` bytes as iced names it.
fn named(n: u8, size: u8) -> Register {
    let base = match size {
        1 => return BYTES[usize::from(n)],
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    Register::try_from(base as usize + usize::from(n)).expect("a register")
}

const BYTES: [Register; 16] = {
    use Register::*;
    [AL, CL, DL, BL, SPL, BPL, SIL, DIL, R8L, R9L, R10L, R11L, R12L, R13L, R14L, R15L]
};

fn operands() -> Vec<Rm> {
    let mut all: Vec<Rm> = (0..16).map(Rm::Reg).collect();
    for base in 0..16 {
        for disp in [0, 1, -128, 127, 128, -129, i32::MIN] {
            all.push(Rm::Mem(base, disp));
            for index in (0..16).filter(|&i| i != 4) {
                all.push(Rm::Sib(base, index, index & 3, disp));
                all.push(Rm::Index(index, index & 3, disp));
            }
        }
    }
    all
}

fn decode(a: &Asm) -> Instruction {
    let mut d = Decoder::with_ip(64, &a.bytes, a.base as u64, DecoderOptions::NONE);
    let i = d.decode();
    assert_eq!(i.len(), a.bytes.len(), "{:x?} is {i:?}", &a.bytes[..]);
    i
}

/// Whether operand `n` of `i` is `rm`.
fn is(i: &Instruction, n: u32, rm: Rm, size: u8) -> bool {
    let base = |b| i.memory_base() == named(b, 8);
    let index = |x, s: u8| i.memory_index() == named(x, 8) && i.memory_index_scale() == 1 << s;
    let disp = |d: i32| i.memory_displacement64() == i64::from(d) as u64;
    match rm {
        Rm::Reg(r) => i.op_kind(n) == OpKind::Register && i.op_register(n) == named(r, size),
        _ if i.op_kind(n) != OpKind::Memory => false,
        Rm::Mem(b, d) => base(b) && i.memory_index() == Register::None && disp(d),
        Rm::Sib(b, x, s, d) => base(b) && index(x, s) && disp(d),
        Rm::Index(x, s, d) => i.memory_base() == Register::None && index(x, s) && disp(d),
    }
}

fn emit(f: impl FnOnce(&mut Asm)) -> Instruction {
    let mut a = Asm::new(0x10000);
    f(&mut a);
    decode(&a)
}

const ALU: [M; 8] = [M::Add, M::Or, M::Adc, M::Sbb, M::And, M::Sub, M::Xor, M::Cmp];

#[test]
fn two_operands_of_every_form() {
    for rm in operands() {
        for size in [1, 2, 4, 8] {
            for r in 0..16 {
                let op = r & 7;
                let i = emit(|a| a.alu_to(op, size, rm, r));
                assert_eq!(i.mnemonic(), ALU[usize::from(op)]);
                assert!(is(&i, 0, rm, size) && is(&i, 1, Rm::Reg(r), size), "{i:?}");
                let i = emit(|a| a.alu_from(op, size, r, rm));
                assert!(is(&i, 1, rm, size) && is(&i, 0, Rm::Reg(r), size), "{i:?}");
                let i = emit(|a| a.load(size, r, rm));
                assert!(i.mnemonic() == M::Mov && is(&i, 1, rm, size), "{i:?}");
                let i = emit(|a| a.store(size, rm, r));
                assert!(i.mnemonic() == M::Mov && is(&i, 0, rm, size), "{i:?}");
                let i = emit(|a| a.test(size, rm, r));
                assert!(i.mnemonic() == M::Test && is(&i, 0, rm, size), "{i:?}");
                let i = emit(|a| a.cmpxchg(size, rm, r));
                assert!(i.mnemonic() == M::Cmpxchg && is(&i, 0, rm, size), "{i:?}");
                let i = emit(|a| a.xadd(size, rm, r));
                assert!(i.mnemonic() == M::Xadd && is(&i, 1, Rm::Reg(r), size), "{i:?}");
                if size > 1 {
                    let i = emit(|a| a.imul(size, r, rm));
                    assert!(i.mnemonic() == M::Imul && is(&i, 1, rm, size), "{i:?}");
                    let i = emit(|a| a.cmov(r, size, r, rm));
                    assert!(is(&i, 0, Rm::Reg(r), size) && is(&i, 1, rm, size), "{i:?}");
                }
            }
        }
    }
}

#[test]
fn one_operand_and_immediates() {
    for rm in operands() {
        for size in [1, 2, 4, 8] {
            for imm in [0, 1, -1, 127, -128, 128, 0x7FFF, i32::MAX, i32::MIN] {
                let mask = u64::MAX >> (64 - 8 * u32::from(size));
                let want = i64::from(imm) as u64 & mask;
                for op in 0..8 {
                    let i = emit(|a| a.alu_imm(op, size, rm, imm));
                    assert_eq!(i.mnemonic(), ALU[usize::from(op)]);
                    assert!(is(&i, 0, rm, size), "{i:?}");
                    assert_eq!(i.immediate(1) & mask, want, "{i:?}");
                }
                let i = emit(|a| a.store_imm(size, rm, imm));
                assert!(i.mnemonic() == M::Mov && is(&i, 0, rm, size), "{i:?}");
                assert_eq!(i.immediate(1) & mask, want);
                let i = emit(|a| a.test_imm(size, rm, imm));
                assert!(i.mnemonic() == M::Test && is(&i, 0, rm, size), "{i:?}");
            }
            let shifts = [M::Rol, M::Ror, M::Rcl, M::Rcr, M::Shl, M::Shr, M::Shl, M::Sar];
            for op in [0, 1, 2, 3, 4, 5, 7] {
                for n in [1, 2, 31] {
                    let i = emit(|a| a.shift(op, size, rm, n));
                    assert_eq!(i.mnemonic(), shifts[usize::from(op)]);
                    assert!(is(&i, 0, rm, size) && i.immediate(1) == n.into(), "{i:?}");
                }
                let i = emit(|a| a.shift_cl(op, size, rm));
                assert!(is(&i, 0, rm, size) && i.op1_register() == Register::CL, "{i:?}");
            }
            let unary = [M::Not, M::Neg, M::Mul, M::Imul, M::Div, M::Idiv];
            for (op, want) in (2..).zip(unary) {
                let i = emit(|a| a.unary(op, size, rm));
                assert!(i.mnemonic() == want && is(&i, 0, rm, size), "{i:?}");
            }
            for (op, want) in [(0, M::Inc), (1, M::Dec)] {
                let i = emit(|a| a.step(op, size, rm));
                assert!(i.mnemonic() == want && is(&i, 0, rm, size), "{i:?}");
            }
        }
        let i = emit(|a| a.setcc(5, rm));
        assert!(i.mnemonic() == M::Setne && is(&i, 0, rm, 1), "{i:?}");
        let i = emit(|a| a.jmp_rm(rm));
        assert!(i.mnemonic() == M::Jmp && is(&i, 0, rm, 8), "{i:?}");
    }
}

#[test]
fn extensions_and_what_needs_a_register() {
    for rm in operands() {
        for r in [0, 4, 7, 8, 15] {
            for (from, to) in [(1, 2), (1, 4), (1, 8), (2, 4), (2, 8), (4, 8)] {
                let i = emit(|a| a.extend(true, to, from, r, rm));
                assert!(matches!(i.mnemonic(), M::Movsx | M::Movsxd), "{i:?}");
                assert!(is(&i, 0, Rm::Reg(r), to) && is(&i, 1, rm, from), "{i:?}");
                if from < 4 {
                    let i = emit(|a| a.extend(false, to, from, r, rm));
                    assert!(i.mnemonic() == M::Movzx && is(&i, 1, rm, from), "{i:?}");
                }
            }
        }
    }
    for r in 0..16 {
        for b in 0..16 {
            let i = emit(|a| a.rorx(4, r, b, 7));
            assert_eq!(i.code(), Code::VEX_Rorx_r32_rm32_imm8);
            assert!(is(&i, 0, Rm::Reg(r), 4) && is(&i, 1, Rm::Reg(b), 4), "{i:?}");
            for (op, want) in [(4, M::Shlx), (5, M::Shrx), (7, M::Sarx)] {
                let i = emit(|a| a.shiftx(op, 8, r, b, r ^ 9));
                assert_eq!(i.mnemonic(), want);
                assert!(is(&i, 0, Rm::Reg(r), 8) && is(&i, 1, Rm::Reg(b), 8), "{i:?}");
                assert!(is(&i, 2, Rm::Reg(r ^ 9), 8), "{i:?}");
            }
        }
        for v in [0, 1, 1 << 31, u64::MAX, u64::from(u32::MAX), 1 << 32, i64::MIN as u64] {
            let i = emit(|a| a.set(r, v));
            let sign = i.op1_kind() == OpKind::Immediate32to64;
            assert!(i.mnemonic() == M::Mov && i.immediate(1) == v, "{i:?} {sign}");
        }
        let i = emit(|a| a.bswap(8, r));
        assert!(i.mnemonic() == M::Bswap && is(&i, 0, Rm::Reg(r), 8), "{i:?}");
        let i = emit(|a| a.push(r));
        assert!(i.mnemonic() == M::Push && is(&i, 0, Rm::Reg(r), 8), "{i:?}");
        let i = emit(|a| a.bit_imm(5, 8, Rm::Reg(r), 33));
        assert!(i.mnemonic() == M::Bts && i.immediate(1) == 33, "{i:?}");
    }
}

#[test]
fn jumps_lead_where_they_are_bound() {
    for pad in [0, 5, 100] {
        let mut a = Asm::new(0x4000);
        let near = a.jcc_near(4);
        let far = a.jcc_far(5);
        let start = a.here();
        (0..pad).for_each(|_| a.fixed([0x90]));
        a.bind(near);
        a.bind(far);
        let end = a.here() as u64;
        let mut d = Decoder::with_ip(64, &a.bytes, 0x4000, DecoderOptions::NONE);
        let (first, second) = (d.decode(), d.decode());
        assert_eq!((first.mnemonic(), first.near_branch64()), (M::Je, end));
        assert_eq!((second.mnemonic(), second.near_branch64()), (M::Jne, end));
        a.jmp(start);
        let jump = a.bytes[a.bytes.len() - 5..].to_vec();
        let mut d = Decoder::with_ip(64, &jump, end, DecoderOptions::NONE);
        assert_eq!(d.decode().near_branch64(), start as u64);
    }
}

#[test]
fn sequences_that_are_emitted_at_once() {
    for v in [0, 8, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        for call in [true, false] {
            let mut a = Asm::new(0x10000);
            a.fixed([0x90; 3]);
            if call {
                a.call_with(v, 0x1234)
            } else {
                a.jmp_with(v, 0x7654_3210)
            }
            let mut d = Decoder::with_ip(64, &a.bytes[3..], 0x10003, DecoderOptions::NONE);
            let (set, go) = (d.decode(), d.decode());
            assert!(set.mnemonic() == M::Mov && set.immediate(1) == v, "{set:?}");
            assert_eq!(set.op0_register().full_register(), Register::RAX);
            let want = if call { (M::Call, 0x1234) } else { (M::Jmp, 0x7654_3210) };
            assert_eq!((go.mnemonic(), go.near_branch64()), want);
            assert!(!d.can_decode(), "{:x?}", &a.bytes[..]);
        }
    }
    for v in [0, -1, 127, i32::MAX, i32::MIN] {
        let i = emit(|a| a.push_imm(v));
        assert!(i.mnemonic() == M::Push && i.immediate(0) == i64::from(v) as u64, "{i:?}");
        assert_eq!(i.stack_pointer_increment(), -8);
    }
    let i = emit(|a| {
        let call = a.call_far();
        a.bind_at(call, 0x40);
    });
    assert_eq!((i.mnemonic(), i.near_branch64()), (M::Call, 0x10040));
}
