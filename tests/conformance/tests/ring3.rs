//! Every ring-3 instruction form, on the host and in the guest: a fixed seed, a bounded number of
//! cases.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance::forms::{self, Form};
use conformance::guest::Guest;
use conformance::{native, run};
use iced_x86::CpuidFeature;

const SEED: u64 = 1;

/// Compares `cases` of each form that `wanted` takes, of which there are at least `least`.
fn compare(cases: u64, least: usize, wanted: impl Fn(Form) -> bool) {
    let host = match native::host() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    let mut guest = Guest::new();
    let (mut taken, mut compared, mut stuck) = (0, 0, 0);
    let mut failures = Vec::new();
    for form in forms::all().into_iter().filter(|&form| wanted(form) && native::supports(form.code))
    {
        let mut host = host.lock().expect("no test panics while it holds it");
        let report = run::run_form(form, SEED, cases, 1, &mut *host, &mut guest);
        taken += 1;
        compared += report.compared;
        stuck += report.stuck;
        failures.extend(report.failures);
    }
    let text: String = failures.iter().take(10).map(ToString::to_string).collect();
    let most = native::most_different(taken, 100);
    assert!(failures.len() <= most, "{} forms differ, among them:\n{text}", failures.len());
    assert!(taken >= least, "only {taken} forms were compared");
    assert!(
        compared + stuck >= taken * cases as usize * 9 / 10,
        "only {compared} cases were compared"
    );
    assert!(stuck < 100, "{stuck} cases were stuck on the host");
}

/// x87, MMX and SSE, and what saves their state.
fn has_vectors(form: Form) -> bool {
    use CpuidFeature::*;
    const FEATURES: [CpuidFeature; 15] = [
        FPU, FPU287, FPU387, MMX, SSE, SSE2, SSE3, SSSE3, SSE4_1, SSE4_2, AES, PCLMULQDQ, FXSR,
        XSAVE, CLFSH,
    ];
    form.code.cpuid_features().iter().any(|feature| FEATURES.contains(feature))
}

#[test]
fn integer_forms() {
    compare(100, 1900, |form| !has_vectors(form));
}

#[test]
fn x87_and_vector_forms() {
    compare(60, 1650, has_vectors);
}
