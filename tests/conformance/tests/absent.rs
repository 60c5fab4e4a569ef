//! What CPUID does not offer raises #UD in the guest.

use conformance::absent::{self, Effect};
use conformance::guest::Guest;
use conformance::layout::{CODE, DATA, USER_CS64};
use conformance::run::Executor;
use conformance::state::{CS, Case, Mode, RAX, RSP, State};

#[test]
fn absent_instructions_are_undefined() {
    let address = CODE + 0x100;
    let mut state = State { rip: address, ..State::default() };
    state.segments[CS] = USER_CS64;
    state.gpr[RAX] = DATA;
    state.gpr[RSP] = DATA + 0x800;
    let all = absent::all();
    assert!(all.len() > 2500, "only {} absent instructions", all.len());
    let cases: Vec<Case> = all
        .iter()
        .map(|absent| Case {
            mode: Mode::Long64,
            code: absent.bytes.clone(),
            address,
            state: state.clone(),
            pool_offset: 0,
            patches: Vec::new(),
        })
        .collect();
    let mut outcomes = Vec::new();
    Guest::new().run(&cases, &mut outcomes);
    let wrong: Vec<String> = all
        .iter()
        .zip(&outcomes)
        .filter(|(absent, outcome)| {
            let expected = match absent.effect {
                Effect::Undefined => (6, address),
                Effect::Nop => (3, address + absent.bytes.len() as u64 + 1),
                Effect::Privileged => (13, address),
            };
            (outcome.event.vector, outcome.state.rip) != expected
        })
        .map(|(absent, outcome)| {
            format!("{:?} {:02x?}: {:?}", absent.code, absent.bytes, outcome.event)
        })
        .collect();
    assert!(wrong.is_empty(), "{} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
}
