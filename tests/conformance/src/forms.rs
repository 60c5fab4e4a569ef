//! The list of instruction forms that must have cases, and the reasons why some cannot.
//!
//! Contract: a form is one opcode-and-operand shape (`iced_x86::Code`) in one mode. Every form that
//! the guest's CPUID offers and ring 3 may meet is in [`all`], unless [`excluded`] names the
//! reason.

use crate::state::Mode;
use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};

/// An instruction form in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Opcode and operand kinds.
    pub code: Code,
    /// The mode it runs in.
    pub mode: Mode,
}

impl Form {
    /// The name that `--form` takes: `Add_rm32_r32`, with the mode unless that is 64-bit mode.
    pub fn name(&self) -> String {
        match self.mode {
            Mode::Long64 => format!("{:?}", self.code),
            Mode::Compat32 => format!("{:?}/32", self.code),
            Mode::Compat16 => format!("{:?}/16", self.code),
        }
    }
}

/// What the guest's CPUID offers and what every x86-64 CPU has.
const OFFERED: [CpuidFeature; 49] = {
    use CpuidFeature::*;
    [
        INTEL8086,
        INTEL186,
        INTEL286,
        INTEL386,
        INTEL486,
        X64,
        FPU,
        FPU287,
        FPU387,
        CMOV,
        CX8,
        CMPXCHG16B,
        CPUID,
        MMX,
        SSE,
        SSE2,
        SSE3,
        SSSE3,
        SSE4_1,
        SSE4_2,
        POPCNT,
        AES,
        PCLMULQDQ,
        MOVBE,
        BMI1,
        BMI2,
        ADX,
        LZCNT,
        FXSR,
        XSAVE,
        FSGSBASE,
        CLFSH,
        PAUSE,
        MULTIBYTENOP,
        TSC,
        RDTSCP,
        RDPID,
        RDRAND,
        RDSEED,
        PREFETCHW,
        SYSCALL,
        SEP,
        MSR,
        RDPMC,
        SMAP,
        INVPCID,
        CET_IBT,
        MONITOR,
        SMM,
    ]
};

/// Whether the guest's CPUID offers all features that `code` needs.
pub fn offered(code: Code) -> bool {
    let encoding = matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
    encoding
        && code.op_code().is_instruction()
        && code.cpuid_features().iter().all(|feature| OFFERED.contains(feature))
}

/// Whether Intel's decoder knows `code` in `mode`.
fn decodes(code: Code, mode: Mode) -> bool {
    let op_code = code.op_code();
    let available = match mode {
        Mode::Long64 => op_code.mode64() && op_code.intel_decoder64() && op_code.long_mode(),
        Mode::Compat32 => op_code.mode32() && op_code.intel_decoder32(),
        Mode::Compat16 => op_code.mode16() && op_code.intel_decoder16(),
    };
    available && (mode == Mode::Long64 || op_code.compatibility_mode()) && op_code.use_outside_smm()
}

/// Why a form has no cases, if it has none.
pub fn excluded(code: Code, _mode: Mode) -> Option<&'static str> {
    use Code::*;
    let op_code = code.op_code();
    if op_code.fwait() {
        return Some("an assembler's pair of FWAIT and another form");
    }
    if op_code.decoder_option() != 0 {
        return Some(
            "decoded only when asked for: CPUs that had it are gone, or it is a reserved NOP",
        );
    }
    let test_registers = op_code.op_kinds().contains(&OpCodeOperandKind::tr_reg);
    if test_registers {
        return Some("test registers: 386 and 486 only");
    }
    match code.mnemonic() {
        Mnemonic::Cpuid => Some("describes the machine it runs on"),
        Mnemonic::Xgetbv => Some("XCR0 of the host's operating system"),
        Mnemonic::Rdpid => Some("IA32_TSC_AUX of the host's operating system"),
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Str | Mnemonic::Smsw => {
            Some("system registers of the host, or #GP where its kernel sets CR4.UMIP")
        }
        Mnemonic::Syscall | Mnemonic::Sysenter => Some("enters the host's kernel"),
        Mnemonic::Monitor | Mnemonic::Mwait => {
            Some("CPUID does not offer MONITOR; the guest's #UD is tested with the absent forms")
        }
        Mnemonic::Rsm => Some("#UD outside SMM, tested with the absent forms"),

        Mnemonic::Bswap if code == Bswap_r16 => Some("undefined with a 16-bit operand (SDM 2A)"),
        _ => None,
    }
}

/// Every form that must have cases.
pub fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    for mode in [Mode::Long64, Mode::Compat32, Mode::Compat16] {
        let codes = Code::values().filter(|&code| offered(code) && decodes(code, mode));
        forms.extend(
            codes.filter(|&code| excluded(code, mode).is_none()).map(|code| Form { code, mode }),
        );
    }
    forms
}
