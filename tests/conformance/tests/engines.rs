//! Every form and short programs on the JIT and on the interpreter: the same outcomes, undefined
//! flags included.

use conformance::forms;
use conformance::generate::generate;
use conformance::guest::Guest;
use conformance::run::Executor;
use conformance::sequence;
use conformance::state::{Case, Mode};
use jit::Jit;

/// Runs cases on both; the first that differs.
fn differing(interpreter: &mut Guest, jit: &mut Guest, cases: &[Case]) -> Option<String> {
    let (mut want, mut got) = (Vec::new(), Vec::new());
    interpreter.run(cases, &mut want);
    jit.run(cases, &mut got);
    let n = (0..cases.len()).find(|&n| want[n] != got[n])?;
    let code: String = cases[n].code.iter().map(|byte| format!("{byte:02x}")).collect();
    let byte = want[n].memory.iter().zip(&got[n].memory).position(|(a, b)| a != b);
    let [a, b] = [&want[n], &got[n]].map(|o| (o.event, &o.state));
    let before = &cases[n].state;
    Some(format!(
        "case {n}, {code}, from {before:x?}:\n{a:x?} on the interpreter\n{b:x?} on the JIT\n\
         first byte of memory: {byte:x?}"
    ))
}

fn guests() -> Option<(Guest, Guest)> {
    let Some(jit) = Jit::with_capacity(1 << 22) else {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "this computer cannot run the JIT");
        eprintln!("left out: this computer cannot run the JIT");
        return None;
    };
    Some((Guest::new(), Guest::accelerated(Box::new(jit.eager()))))
}

#[test]
fn every_form_has_the_same_outcome() {
    let Some((mut interpreter, mut jit)) = guests() else { return };
    const CASES: u64 = 40;
    let mut found = Vec::new();
    for form in forms::all().into_iter().filter(|form| form.mode == Mode::Long64) {
        let made = (0..CASES).filter_map(|number| generate(form, 77, number));
        let cases: Vec<Case> = made.map(|generated| generated.case).collect();
        if let Some(text) = differing(&mut interpreter, &mut jit, &cases) {
            found.push(format!("{}: {text}", form.name()));
        }
    }
    assert!(
        found.is_empty(),
        "{} forms differ:\n{}",
        found.len(),
        found[..found.len().min(5)].join("\n")
    );
}

#[test]
fn programs_have_the_same_outcome() {
    let Some((mut interpreter, mut jit)) = guests() else { return };
    for batch in 0..40 {
        let cases: Vec<Case> = (0..500).map(|n| sequence::generate(3, batch * 500 + n).0).collect();
        let text = differing(&mut interpreter, &mut jit, &cases);
        assert!(text.is_none(), "batch {batch}: {}", text.unwrap_or_default());
    }
}
