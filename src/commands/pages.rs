//! `ftemu completions` and `ftemu man`: made from the flag table.

use crate::cli::{Cli, CompletionsFlags, ManFlags};
use crate::failure::Failure;
use clap::CommandFactory;
use std::io::Write;

/// Prints a completion script.
pub fn completions(flags: &CompletionsFlags) -> Result<u8, Failure> {
    let mut page = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "ftemu", &mut page);
    print(&page);
    Ok(0)
}

/// Prints a manual page.
pub fn man(flags: &ManFlags) -> Result<u8, Failure> {
    let mut cli = Cli::command();
    cli.build();
    let command = match &flags.command {
        None => cli,
        Some(name) => {
            let found = cli.get_subcommands().find(|command| command.get_name() == name);
            let found = found.ok_or_else(|| Failure::Usage(format!("no command '{name}'")))?;
            let title = format!("ftemu-{name}");
            found.clone().display_name(title)
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|e| Failure::Host(format!("the page cannot be made: {e}")))?;
    print(&page);
    Ok(0)
}

/// Prints, and does not mind if nobody reads to the end.
fn print(page: &[u8]) {
    let _ = std::io::stdout().write_all(page);
}
