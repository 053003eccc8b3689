//! `ptth completions` and `ptth man`: shell completions and manual pages, from the same source as
//! the help texts.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use crate::output::print;
use crate::{Failure, failed, usage};

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum For {
    Bash,
    Zsh,
    Fish,
}

/// Prints the completions for a shell.
pub(crate) fn completions(shell: For) -> Result<(), Failure> {
    let shell = match shell {
        For::Bash => Shell::Bash,
        For::Zsh => Shell::Zsh,
        For::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::command(), "ptth", &mut script);
    print(&script)
}

#[derive(Args)]
pub(crate) struct ManArgs {
    /// The page of this command: gateway, device, ...; without: that of ptth itself
    command: Option<String>,
    /// Write all pages into this directory, ptth.1, ptth-gateway.1 and so on
    #[arg(long, value_name = "PATH", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints one manual page, or writes all.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let mut whole = crate::command()
        .disable_help_subcommand(true)
        .propagate_version(true)
        .mut_subcommands(|subcommand| subcommand.disable_version_flag(true));
    whole.build();
    if let Some(dir) = &args.dir {
        return clap_mangen::generate_to(whole, dir)
            .map_err(|e| failed(format_args!("--dir {}: {e}", dir.display())));
    }
    let page = match &args.command {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name);
            found.ok_or_else(|| usage(format!("ptth has no command {name}")))?.clone()
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(failed)?;
    print(&text)
}
