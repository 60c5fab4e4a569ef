//! The host's executor: known answers, faults, and the same outcome for the same case.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance::layout::{CODE, DATA, USER_CS64};
use conformance::run::{Executor, run_form};
use conformance::state::{CS, Case, Mode, Outcome, RAX, RCX, State};
use conformance::{forms, native};

fn run(code: &[u8], prepare: impl Fn(&mut State)) -> Option<Outcome> {
    let host = native::host().inspect_err(|error| eprintln!("skipped: {error}")).ok()?;
    let mut state = State { rip: CODE + 0x100, ..State::default() };
    state.segments[CS] = USER_CS64;
    prepare(&mut state);
    let case = Case {
        mode: Mode::Long64,
        code: code.to_vec(),
        address: CODE + 0x100,
        state,
        pool_offset: 0,
        patches: Vec::new(),
    };
    let mut outcomes = Vec::new();
    host.lock().expect("no test panics while it runs cases").run(&[case], &mut outcomes);
    outcomes.pop()
}

#[test]
fn an_addition_ends_at_the_breakpoint_behind_it() {
    let Some(outcome) = run(&[0x48, 0x01, 0xC8], |state| {
        state.gpr[RAX] = u64::MAX;
        state.gpr[RCX] = 1;
    }) else {
        return;
    };
    assert_eq!((outcome.event.vector, outcome.state.rip), (3, CODE + 0x104));
    assert_eq!(outcome.state.gpr[RAX], 0);
    assert_eq!(outcome.state.rflags & 0x8D5, 0x55, "CF, PF, AF, ZF");
}

#[test]
fn a_store_to_the_code_page_faults() {
    let Some(outcome) = run(&[0x48, 0x89, 0x08], |state| state.gpr[RAX] = CODE + 0x800) else {
        return;
    };
    assert_eq!(
        (outcome.event.vector, outcome.event.error, outcome.event.cr2),
        (14, 7, CODE + 0x800)
    );
    assert_eq!(outcome.state.rip, CODE + 0x100);
}

#[test]
fn a_store_reaches_the_window() {
    let Some(outcome) = run(&[0x48, 0x89, 0x08], |state| {
        state.gpr[RAX] = DATA + 8;
        state.gpr[RCX] = 0x1122_3344_5566_7788;
    }) else {
        return;
    };
    assert_eq!(outcome.memory[8..16], 0x1122_3344_5566_7788u64.to_le_bytes());
}

#[test]
fn the_same_case_has_the_same_outcome() {
    struct Again;
    impl Executor for Again {
        fn run(&mut self, cases: &[Case], outcomes: &mut Vec<Outcome>) {
            let host = native::host().expect("the caller has it");
            host.lock().expect("not held here").run(cases, outcomes);
        }
    }
    if let Err(error) = native::host() {
        eprintln!("skipped: {error}");
        return;
    }
    for form in forms::all().into_iter().step_by(7).filter(|form| native::supports(form.code)) {
        let report = run_form(form, 2, 8, 1, &mut Again, &mut Again);
        assert!(report.failures.is_empty(), "{}", report.failures[0]);
    }
}
