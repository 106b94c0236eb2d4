//! What the tests' images run against PostgreSQL: a migrator, and a server that reads what was migrated.
//!
//! Both find the database where every container of a Domain finds it: in libpq's variables `PGHOST`, `PGPORT`,
//! `PGUSER`, `PGPASSWORD` and `PGDATABASE`, and the schema in `DB_SCHEMA`.

mod database;
mod files;
mod migrate;

pub use database::{Settings, quoted};
pub use files::{Migration, read};
pub use migrate::{drop_schema, migrate};

/// Where what a program writes at its end becomes the termination message of its container; Kubernetes' default path
/// unless `TERMINATION_MESSAGE_PATH` names another.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_termination_message(message: &str) -> anyhow::Result<()> {
    let path = std::env::var("TERMINATION_MESSAGE_PATH").unwrap_or_else(|_| "/dev/termination-log".into());
    std::fs::write(&path, message).map_err(|error| anyhow::anyhow!("failed to write {path}: {error}"))
}
