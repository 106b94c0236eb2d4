//! `transom-migrator`: brings the schema `DB_SCHEMA` up to date from the SQL files in `MIGRATIONS_DIR`
//! (`/migrations` unless set) and writes the version to the termination message path; `transom-migrator drop` drops the
//! schema.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use transom_migrator::{Settings, drop_schema, migrate, read, write_termination_message};

fn main() -> ExitCode {
    match run() {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            let _ = write_termination_message(&format!("{error:#}")); // the log says the same
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let message = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => runtime.block_on(up())?,
        ["drop"] => runtime.block_on(down())?,
        _ => bail!("usage: transom-migrator [drop]"),
    };
    write_termination_message(&message)?;
    Ok(message)
}

async fn up() -> Result<String> {
    let folder = std::env::var_os("MIGRATIONS_DIR").map_or_else(|| PathBuf::from("/migrations"), PathBuf::from);
    let migrations = read(&folder)?;
    let settings = Settings::from_environment()?;
    migrate(&mut settings.connect().await?, &settings.schema, &migrations).await
}

async fn down() -> Result<String> {
    let settings = Settings::from_environment()?;
    drop_schema(&settings.connect().await?, &settings.schema).await?;
    Ok(format!("dropped {}", settings.schema))
}
