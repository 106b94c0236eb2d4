//! `transom plugin`: from a crate to a version that serves.

pub(super) mod build;
pub(super) mod install;
mod new;
mod publish;
mod remote;
mod roles;
pub(super) mod rollout;
mod show;
pub(super) mod toolchain;
pub(super) mod wait;

use crate::plugin::Cache;

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes the project of a new plugin, which builds, tests and runs at once.
    New(new::Args),
    /// Builds a crate to a component.
    Build(build::Args),
    /// Pushes a component to an OCI registry.
    Push(publish::PushArgs),
    /// Signs a component in a registry, or a file, with a key, as cosign does.
    Sign(publish::SignArgs),
    /// Creates or updates a Plugin record, and waits until the version serves.
    Install(Box<install::Args>),
    /// Lists the Plugin records.
    List(show::ListArgs),
    /// Shows a Plugin record: what serves, from where, and what is wrong.
    Show(show::ShowArgs),
    /// Deletes a Plugin record; kinds and objects stay.
    Remove(show::RemoveArgs),
    #[command(flatten)]
    Rollout(rollout::Command),
}

impl Command {
    pub(super) async fn run(self, cache: Cache) -> anyhow::Result<()> {
        match self {
            Self::New(args) => args.run(),
            Self::Build(args) => args.run().await,
            Self::Push(args) => args.run(cache).await,
            Self::Sign(args) => args.run().await,
            Self::Install(args) => args.run(cache).await,
            Self::List(args) => args.run().await,
            Self::Show(args) => args.run().await,
            Self::Remove(args) => args.run().await,
            Self::Rollout(command) => command.run().await,
        }
    }
}

/// How a result looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// For people.
    Text,
    /// The objects as JSON.
    Json,
    /// The objects as YAML.
    Yaml,
}

impl Output {
    /// The value as JSON or YAML; none for text.
    pub(super) fn of(self, value: &impl serde::Serialize) -> anyhow::Result<Option<String>> {
        Ok(match self {
            Self::Text => None,
            Self::Json => Some(serde_json::to_string_pretty(value)?),
            Self::Yaml => Some(serde_saphyr::to_string(value)?.trim_end().to_owned()),
        })
    }
}
