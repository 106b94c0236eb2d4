//! `transom completion`

use std::io::Write as _;

use anyhow::Context;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    source <(transom completion bash)              # in ~/.bashrc\n  \
    source <(transom completion zsh)               # in ~/.zshrc, after compinit\n  \
    transom completion fish > ~/.config/fish/completions/transom.fish")]
pub struct Args {
    /// Which shell.
    shell: Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Bash,
    Zsh,
    Fish,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let shell = match self.shell {
            Name::Bash => Shell::Bash,
            Name::Zsh => Shell::Zsh,
            Name::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::Cli::command(), "transom", &mut script);
        match std::io::stdout().write_all(&script) {
            // whoever reads it has seen enough
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written.context("cannot write to stdout"),
        }
    }
}
