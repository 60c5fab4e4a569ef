//! Long conformance runs: `conformance [--seed N] [--cases M] [--form NAME] [--show K]`.
//!
//! Compares M cases of each form whose name contains NAME, prints the first K failures of each, and
//! exits with 1 if there was one.
use std::process::ExitCode;

struct Options {
    seed: u64,
    cases: u64,
    form: String,
    show: usize,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seed: 1, cases: 100, form: String::new(), show: 1 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag}: a value is missing"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{flag} {value}: {error}"));
        match flag.as_str() {
            "--seed" => options.seed = number()?,
            "--cases" => options.cases = number()?,
            "--show" => options.show = number()? as usize,
            "--form" => options.form = value,
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("conformance: {message}");
            ExitCode::from(2)
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn run(options: &Options) -> Result<ExitCode, String> {
    use conformance::{forms, native, run};
    let host = native::host()?;
    let mut host = host.lock().map_err(|_| "the host's executor panicked")?;
    let mut guest = conformance::guest::Guest::new();
    let (mut compared, mut stuck, mut failed, mut bad_forms) = (0, 0, 0, 0);
    let wanted =
        |form: &forms::Form| form.name().contains(&options.form) && native::supports(form.code);
    for form in forms::all().into_iter().filter(wanted) {
        let report =
            run::run_form(form, options.seed, options.cases, options.show, &mut *host, &mut guest);
        (compared, stuck, failed) =
            (compared + report.compared, stuck + report.stuck, failed + report.failed);
        if report.failed > 0 {
            bad_forms += 1;
            println!("{}: {} of {} cases differ", form.name(), report.failed, report.compared);
        }
        for failure in &report.failures {
            print!("{failure}");
        }
    }
    println!(
        "{compared} cases compared, {failed} differ in {bad_forms} forms; {stuck} stuck on the host"
    );
    Ok(ExitCode::from(u8::from(failed > 0)))
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn run(_: &Options) -> Result<ExitCode, String> {
    Err("this host is not x86-64 Linux: there is nothing to compare with".into())
}
