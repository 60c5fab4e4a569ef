//! Runs the cases of forms on two executors and collects what differs.

use crate::compare::{Difference, compare};
use crate::forms::Form;
use crate::generate::{Generated, generate};
use crate::state::{Case, Event, Outcome, State};
use crate::undefined;
use std::fmt;

/// Something that runs cases.
pub trait Executor {
    /// Runs `cases` and appends what becomes of each to `outcomes`.
    fn run(&mut self, cases: &[Case], outcomes: &mut Vec<Outcome>);
}

/// A case in which the executors differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Number of the case among those of its form.
    pub number: u64,
    /// The seed.
    pub seed: u64,
    /// The case, made as small as it still fails.
    pub generated: Generated,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// What became of the cases of a form.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases compared.
    pub compared: usize,
    /// Cases that the host did not get through.
    pub stuck: usize,
    /// Cases that failed.
    pub failed: usize,
    /// The first of them.
    pub failures: Vec<Failure>,
}

/// Runs cases `0..count` of `form` under `seed`; keeps at most `keep` failures.
pub fn run_form(
    form: Form,
    seed: u64,
    count: u64,
    keep: usize,
    host: &mut dyn Executor,
    guest: &mut dyn Executor,
) -> Report {
    let mut report = Report::default();
    let numbered: Vec<(u64, Generated)> =
        (0..count).filter_map(|number| Some((number, generate(form, seed, number)?))).collect();
    let cases: Vec<Case> = numbered.iter().map(|(_, generated)| generated.case.clone()).collect();
    let (mut expected, mut actual) = (Vec::new(), Vec::new());
    host.run(&cases, &mut expected);
    guest.run(&cases, &mut actual);
    for (((number, generated), host_outcome), guest_outcome) in
        numbered.into_iter().zip(&expected).zip(&actual)
    {
        if host_outcome.event.vector == Event::STUCK {
            report.stuck += 1;
            continue;
        }
        report.compared += 1;
        let differences = differ(&generated, host_outcome, guest_outcome);
        if differences.is_empty() {
            continue;
        }
        report.failed += 1;
        if report.failures.len() < keep {
            let (generated, differences) = shrink(generated, differences, host, guest);
            report.failures.push(Failure { number, seed, generated, differences });
        }
    }
    report
}

fn differ(generated: &Generated, host: &Outcome, guest: &Outcome) -> Vec<Difference> {
    compare(&generated.case, host, guest, &undefined::open(generated, host))
}

/// A step that makes a state plainer.
type Simplify = Box<dyn Fn(&mut State)>;

/// Resets what the failure does not need to a plain state.
fn shrink(
    mut generated: Generated,
    mut differences: Vec<Difference>,
    host: &mut dyn Executor,
    guest: &mut dyn Executor,
) -> (Generated, Vec<Difference>) {
    let plain = State::default();
    let mut simpler: Vec<Simplify> = Vec::new();
    let (x87, mxcsr) = (plain.x87.clone(), plain.mxcsr);
    simpler.push(Box::new(move |state| state.x87 = x87.clone()));
    simpler.push(Box::new(move |state| state.mxcsr = mxcsr));
    simpler.push(Box::new(|state| state.xmm = [0; 16]));
    simpler.push(Box::new(|state| state.rflags = 0x202));
    simpler.push(Box::new(|state| (state.fs_base, state.gs_base) = (0, 0)));
    for n in 0..16 {
        simpler.push(Box::new(move |state| state.gpr[n] = 0));
        simpler.push(Box::new(move |state| state.xmm[n] = 0));
    }
    for n in 0..8 {
        simpler.push(Box::new(move |state| state.x87.st[n] = [0; 10]));
    }
    for simplify in &simpler {
        let mut candidate = generated.clone();
        simplify(&mut candidate.case.state);
        if candidate.case.state == generated.case.state {
            continue;
        }
        let cases = [candidate.case.clone()];
        let (mut expected, mut actual) = (Vec::new(), Vec::new());
        host.run(&cases, &mut expected);
        guest.run(&cases, &mut actual);
        if expected[0].event.vector == Event::STUCK {
            continue;
        }
        let still = differ(&candidate, &expected[0], &actual[0]);
        // The same thing must be wrong, not another.
        if still.iter().any(|d| d.what == differences[0].what) {
            (generated, differences) = (candidate, still);
        }
    }
    (generated, differences)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Generated { form, instruction, case } = &self.generated;
        let bytes: String = case.code.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(
            f,
            "{} seed {} case {}: {bytes}  {instruction}",
            form.name(),
            self.seed,
            self.number
        )?;
        writeln!(f, "  at {:#x}, {}", case.address, describe(&case.state))?;
        for patch in &case.patches {
            let bytes: String =
                patch.bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
            writeln!(f, "  memory [{:#x}] = {bytes}", crate::layout::DATA + patch.offset as u64)?;
        }
        for Difference { what, values: [before, host, guest] } in &self.differences {
            writeln!(f, "    {what}: was {before}, host {host}, guest {guest}")?;
        }
        Ok(())
    }
}

/// What of `state` is not as in a plain one.
fn describe(state: &State) -> String {
    const GPR: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    let plain = State::default();
    let mut text = format!("rflags {:x}", state.rflags);
    for (name, value) in GPR.iter().zip(state.gpr).filter(|(_, value)| *value != 0) {
        text += &format!(" {name}={value:x}");
    }
    for (n, xmm) in state.xmm.iter().enumerate().filter(|(_, xmm)| **xmm != 0) {
        text += &format!(" xmm{n}={xmm:032x}");
    }
    if state.mxcsr != plain.mxcsr {
        text += &format!(" mxcsr={:x}", state.mxcsr);
    }
    if (state.fs_base, state.gs_base) != (0, 0) {
        text += &format!(" fs_base={:x} gs_base={:x}", state.fs_base, state.gs_base);
    }
    if state.segments[4..] != plain.segments[4..] {
        text += &format!(" fs={:x} gs={:x}", state.segments[4], state.segments[5]);
    }
    if state.x87 != plain.x87 {
        let x87 = &state.x87;
        text += &format!(" fcw={:x} fsw={:x} ftag={:02x}", x87.control, x87.status, x87.tag);
        for (n, st) in x87.st.iter().enumerate().filter(|(_, st)| **st != [0; 10]) {
            let hex: String = st.iter().rev().map(|byte| format!("{byte:02x}")).collect();
            text += &format!(" st{n}={hex}");
        }
    }
    text
}
