//! `transom plugin`

mod rollout;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(flatten)]
    Rollout(rollout::Command),
}

impl Command {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Rollout(command) => command.run().await,
        }
    }
}
