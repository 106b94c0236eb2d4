//! The command line.

mod rotate;
mod serve;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};

use crate::api::openapi;
use crate::database::Database;
use crate::seal::{self, Keyring};
use crate::telemetry::{self, LogFormat};

/// Keeps instances and template versions in PostgreSQL, serves them by HTTP and mirrors them to the cluster.
#[derive(Debug, Parser)]
#[command(name = "transom-catalog", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which log lines are written to stderr: `info`, `warn,transom_catalog=debug`.
    #[arg(long, global = true, env = "CATALOG_LOG", default_value = "info", value_name = "FILTER")]
    pub log_level: String,
    /// How log lines look.
    #[arg(long, global = true, env = "CATALOG_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serves the API and mirrors, until it is told to stop. Brings the schema up to date first.
    Serve(Box<serve::ServeArgs>),
    /// Brings the database's schema up to date.
    Migrate(DatabaseArgs),
    /// Seals all secrets under the first key of the file of keys; then the others can go.
    Rotate(rotate::RotateArgs),
    /// Writes a line for the file of keys, with a new key.
    Key {
        /// What the key is called, such as `2026-11`.
        id: String,
    },
    /// Writes the OpenAPI document.
    Openapi,
}

/// Which database.
#[derive(Args, Debug)]
pub struct DatabaseArgs {
    /// File with the database's URL, such as `postgres://user:password@host/catalog?sslmode=require`.
    #[arg(long, env = "CATALOG_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: PathBuf,
    /// File with the authorities that the database's certificate may be from, in PEM (default: the system's).
    #[arg(long, env = "CATALOG_DATABASE_CA_FILE", value_name = "FILE")]
    pub database_ca_file: Option<PathBuf>,
}

impl DatabaseArgs {
    fn database(&self) -> anyhow::Result<Database> {
        Database::new(&read(&self.database_url_file)?, self.database_ca_file.as_deref())
    }
}

/// Which keys.
#[derive(Args, Debug)]
pub struct KeyArgs {
    /// File with a key a line, `ID BASE64`: the first seals, all open. `transom-catalog key ID` writes a line.
    #[arg(long, env = "CATALOG_KEYS_FILE", value_name = "FILE")]
    pub keys_file: PathBuf,
}

impl KeyArgs {
    fn keyring(&self) -> anyhow::Result<Keyring> {
        let text = zeroize::Zeroizing::new(read(&self.keys_file)?);
        Keyring::parse(&text).with_context(|| format!("{} cannot be used", self.keys_file.display()))
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

impl Cli {
    /// Does it.
    ///
    /// # Errors
    ///
    /// What went wrong, for people.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match self.command {
            Command::Serve(args) => {
                telemetry::init(self.log_format, &self.log_level)?;
                runtime.block_on(args.run())
            }
            Command::Migrate(args) => {
                telemetry::init(self.log_format, &self.log_level)?;
                Ok(runtime.block_on(args.database()?.migrate())?)
            }
            Command::Rotate(args) => runtime.block_on(args.run()),
            Command::Key { id } => match seal::new_line(&id) {
                Ok(line) => {
                    println!("{}", *line);
                    Ok(())
                }
                Err(seal::Error::Line { why, .. }) => bail!("{why}"),
                Err(error) => Err(error.into()),
            },
            Command::Openapi => {
                println!("{}", serde_json::to_string_pretty(&openapi::document())?);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
