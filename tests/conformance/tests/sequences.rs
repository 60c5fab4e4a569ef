//! Short programs on the host and in the guest: flags that are computed late, fused instructions,
//! skipped ones.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use conformance::compare::compare;
use conformance::guest::Guest;
use conformance::run::Executor;
use conformance::undefined::Open;
use conformance::{native, sequence};
use iced_x86::Instruction;

#[test]
fn programs_end_alike() {
    let host = match native::host() {
        Ok(host) => host,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    const PROGRAMS: u64 = 60_000;
    const AUXILIARY: u64 = 1 << 4;
    const RESUME: u64 = 1 << 16;
    let open = Open { flags: AUXILIARY | RESUME, ..Open::default() };
    let mut host = host.lock().expect("no other test holds it");
    let mut guest = Guest::new();
    let mut failures = Vec::new();
    for batch in 0..PROGRAMS / 1000 {
        let programs: Vec<_> = (0..1000).map(|n| sequence::generate(1, batch * 1000 + n)).collect();
        let cases: Vec<_> = programs.iter().map(|(case, _)| case.clone()).collect();
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        host.run(&cases, &mut expected);
        guest.run(&cases, &mut actual);
        for (n, (case, program)) in programs.iter().enumerate() {
            let found = compare(case, &expected[n], &actual[n], &open);
            if let Some(first) = found.first() {
                let text: Vec<String> = program.iter().map(Instruction::to_string).collect();
                failures.push(format!(
                    "{}: {}, was {:x?}, {first:?}",
                    batch * 1000 + n as u64,
                    text.join("; "),
                    case.state.rflags
                ));
            }
        }
    }
    let most = native::most_different(PROGRAMS as usize, 20);
    assert!(
        failures.len() <= most,
        "{} programs differ:\n{}",
        failures.len(),
        failures[..failures.len().min(8)].join("\n")
    );
}
