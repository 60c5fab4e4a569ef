//! Every form that the guest's CPUID offers has cases; what has none is excluded for a reason.

use conformance::{forms, generate};
use iced_x86::{Code, Register};

#[test]
fn every_form_has_a_case_generator() {
    let missing: Vec<String> = forms::all()
        .into_iter()
        .filter(|&form| (0..4).any(|number| generate::generate(form, 1, number).is_none()))
        .map(|form| form.name())
        .collect();
    assert!(missing.is_empty(), "forms without cases: {missing:?}");
}

#[test]
fn generated_bytes_decode_to_their_form() {
    for form in forms::all() {
        let found = (0..40).filter_map(|number| generate::generate(form, 3, number));
        let codes: Vec<Code> = found.map(|generated| generated.instruction.code()).collect();
        assert!(codes.contains(&form.code), "{}: only {codes:?}", form.name());
        assert!(
            codes.iter().all(|&code| code == form.code || code == Code::INVALID),
            "{}",
            form.name()
        );
    }
}

/// The list is not empty by mistake: a sample of each family, and a bound on what is left out.
#[test]
fn the_list_holds_all_families_and_exclusions_stay_few() {
    use Code::*;
    let all = forms::all();
    let sample = [
        Add_rm32_r32,
        Aaa,
        Fsin,
        Paddb_mm_mmm64,
        Addps_xmm_xmmm128,
        Pcmpestri_xmm_xmmm128_imm8,
        Aesenc_xmm_xmmm128,
        Pclmulqdq_xmm_xmmm128_imm8,
        VEX_Pdep_r64_r64_rm64,
        Adcx_r64_rm64,
        Movbe_r32_m32,
        Cmpxchg16b_m128,
        Fxrstor_m512byte,
        Xsave_mem,
        Wrfsbase_r64,
        Iretq,
        Hlt,
        In_AL_imm8,
        Popcnt_r32_rm32,
        Lzcnt_r64_rm64,
        Sahf,
        Nop_rm32,
        Pushad,
        Bound_r32_m3232,
        Enterq_imm16_imm8,
        Clflush_m8,
    ];
    for code in sample {
        assert!(all.iter().any(|form| form.code == code), "{code:?} is not in the list");
    }
    let offered = Code::values().filter(|&code| forms::offered(code)).count();
    let covered = Code::values().filter(|&code| all.iter().any(|form| form.code == code)).count();
    assert!(offered > 1500, "{offered} codes are offered");
    assert!(
        offered - covered <= 130,
        "{} of {offered} offered codes have no cases",
        offered - covered
    );
}

/// Memory operands reach every addressing kind, and register operands every register.
#[test]
fn operands_vary() {
    let form =
        forms::all().into_iter().find(|form| form.code == Code::Add_rm64_r64).expect("in the list");
    let all: Vec<_> = (0..2000).filter_map(|number| generate::generate(form, 1, number)).collect();
    let any = |what: &str, test: &dyn Fn(&iced_x86::Instruction) -> bool| {
        assert!(all.iter().any(|generated| test(&generated.instruction)), "no case with {what}");
    };
    any("RIP-relative address", &|i| i.memory_base() == Register::RIP);
    any("32-bit RIP-relative or base", &|i| i.memory_base() == Register::R12D);
    any("base and scaled index", &|i| {
        i.memory_base() == Register::RSP && i.memory_index_scale() == 8
    });
    any("index without base", &|i| {
        i.memory_base() == Register::None && i.memory_index() == Register::R9
    });
    any("absolute address", &|i| i.memory_displ_size() == 4 && i.memory_base() == Register::None);
    any("FS", &|i| i.segment_prefix() == Register::FS);
    any("LOCK", &|i| i.has_lock_prefix());
    for number in 0..16 {
        any("each source", &|i| i.op1_register() == Register::RAX + number);
        any("each destination", &|i| i.op0_register() == Register::RAX + number);
    }
}
