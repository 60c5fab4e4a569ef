//! The command `ftemu`: flags to configuration to driver; no decisions are made here.

mod cli;
mod commands;
mod demo;
mod engine;
mod failure;
mod symbols;
mod targets;

use clap::Parser;
use cli::{Cli, Command};
use drivers::control::status_line;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = if cli.verbose { "info" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::new().filter_or("FTEMU_LOG", level))
        .format(|out, record| {
            use std::io::Write;
            let clear = if status_line::is_shown() { status_line::CLEAR } else { "" };
            writeln!(out, "{clear}ftemu: {}", record.args())
        })
        .init();
    let result = match &cli.command {
        Command::Demo(flags) => commands::demo::run(flags),
        Command::Boot(flags) => commands::boot::run(flags),
        Command::Replay(flags) => commands::replay::run(flags),
        Command::Lan(flags) => commands::lan::run(flags),
        Command::Witness(flags) => commands::witness::run(flags),
        Command::Ctl(flags) => commands::ctl::run(flags),
        Command::Keygen(flags) => commands::keygen::run(flags),
        Command::Completions(flags) => commands::pages::completions(flags),
        Command::Man(flags) => commands::pages::man(flags),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("ftemu: {failure}");
            ExitCode::from(failure.status())
        }
    }
}
