//! Compares two outcomes of a case, but for what is left open, and says what differs.

use crate::layout::DATA;
use crate::state::{Case, Outcome, State};
use crate::undefined::Open;
use std::fmt::Write;

const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// One difference: what, what it was before, on the host, and in the guest.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Register or address.
    pub what: String,
    /// Before, host, guest.
    pub values: [String; 3],
}

/// The differences between the host's and the guest's outcome of `case`.
pub fn compare(case: &Case, host: &Outcome, guest: &Outcome, open: &Open) -> Vec<Difference> {
    let mut found = Vec::new();
    if open.everything {
        return found;
    }
    let mut check = |what: &str, before: u128, host: u128, guest: u128| {
        if host != guest {
            found.push(Difference {
                what: what.into(),
                values: [before, host, guest].map(|v| format!("{v:x}")),
            });
        }
    };
    let (before, a, b) = (&case.state, &host.state, &guest.state);
    let faults = [host, guest].map(|outcome| outcome.event.vector);
    let same_kind = open.any_slot && faults.iter().all(|vector| matches!(vector, 12..=14 | 17));
    if !same_kind {
        check("vector", 0, host.event.vector.into(), guest.event.vector.into());
        // What the host has mapped in its own half, and just below it, is not the guest's business.
        const PRESENT: u32 = 1;
        const HOST: u64 = 0x7FF0_0000_0000;
        let error_mask = if host.event.cr2 >= HOST { !PRESENT } else { !0 };
        check(
            "error code",
            0,
            (host.event.error & error_mask).into(),
            (guest.event.error & error_mask).into(),
        );
        check("cr2", 0, host.event.cr2.into(), guest.event.cr2.into());
    }
    check("rip", before.rip.into(), a.rip.into(), b.rip.into());
    for n in (0..16).filter(|n| open.gpr >> n & 1 == 0) {
        let mask = if open.gpr_upper >> n & 1 == 1 { 0xFFFF_FFFF } else { u64::MAX };
        let [was, x, y] = [before, a, b].map(|state| u128::from(state.gpr[n] & mask));
        check(GPR[n], was, x, y);
    }
    let flags = |state: &State| u128::from(state.rflags & !open.flags);
    check("rflags", before.rflags.into(), flags(a), flags(b));
    for (n, name) in SEGMENTS.iter().enumerate() {
        // A kernel's return to user mode clears the RPL of null selectors (SDM 2A, IRET).
        let selector = |state: &State| match state.segments[n] {
            0..=3 => 0,
            selector => u128::from(selector),
        };
        check(name, selector(before), selector(a), selector(b));
    }
    check("fs_base", before.fs_base.into(), a.fs_base.into(), b.fs_base.into());
    check("gs_base", before.gs_base.into(), a.gs_base.into(), b.gs_base.into());
    x87(before, a, b, open, &mut check);
    for n in 0..16 {
        if !(open.approximate && nearly(a.xmm[n], b.xmm[n])) {
            check(&format!("xmm{n}"), before.xmm[n], a.xmm[n], b.xmm[n]);
        }
    }
    check("mxcsr", before.mxcsr.into(), a.mxcsr.into(), b.mxcsr.into());
    memory(case, host, guest, open, &mut found);
    found
}

fn x87(
    before: &State,
    a: &State,
    b: &State,
    open: &Open,
    check: &mut impl FnMut(&str, u128, u128, u128),
) {
    let (before, a, b) = (&before.x87, &a.x87, &b.x87);
    check("x87 control", before.control.into(), a.control.into(), b.control.into());
    let status = |status: u16| u128::from(status & !open.x87_status);
    check("x87 status", before.status.into(), status(a.status), status(b.status));
    check("x87 tag", before.tag.into(), a.tag.into(), b.tag.into());
    for n in 0..8 {
        let [was, x, y] = [before, a, b].map(|x87| extend(&x87.st[n]));
        if !(open.x87_last_place && x.abs_diff(y) <= 2) {
            check(&format!("st{n}"), was, x, y);
        }
    }
}

fn extend(bytes: &[u8; 10]) -> u128 {
    bytes.iter().rev().fold(0, |all, &byte| all << 8 | u128::from(byte))
}

/// Whether all lanes are equal or within the relative error of RCPPS and RSQRTPS of each other.
fn nearly(a: u128, b: u128) -> bool {
    const LIMIT: f64 = 2.0 * 1.5 / 4096.0;
    (0..4).all(|lane| {
        let [x, y] = [a, b].map(|v| f32::from_bits((v >> (32 * lane)) as u32));
        let (wide_x, wide_y) = (f64::from(x), f64::from(y));
        x.to_bits() == y.to_bits() || (wide_x - wide_y).abs() <= wide_x.abs() * LIMIT
    })
}

fn memory(case: &Case, host: &Outcome, guest: &Outcome, open: &Open, found: &mut Vec<Difference>) {
    if host.memory == guest.memory {
        return;
    }
    let mut before = vec![0; host.memory.len()];
    case.fill(&mut before);
    let ignored =
        |at: usize| open.memory.iter().any(|&(start, size)| (start..start + size).contains(&at));
    let differs = |at: &usize| host.memory[*at] != guest.memory[*at] && !ignored(*at);
    let mut next = (0..before.len()).find(differs);
    for _ in 0..4 {
        let Some(first) = next else { return };
        let start = first & !7;
        let end = (start + 16).min(before.len());
        let hex = |bytes: &[u8]| {
            bytes[start..end].iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        found.push(Difference {
            what: format!("[{:#x}]", DATA + start as u64),
            values: [hex(&before), hex(&host.memory), hex(&guest.memory)],
        });
        next = (end..before.len()).find(differs);
    }
}
