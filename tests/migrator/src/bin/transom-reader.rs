//! `transom-reader`: what stands for a Domain's server in tests. It reads the versions that its schema has, prints them
//! as a JSON list in one line, and stays up until it is told to end.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use transom_migrator::{Settings, quoted};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let settings = Settings::from_environment()?;
    let client = settings.connect().await?;
    let query = format!("SELECT version FROM {}.schema_version ORDER BY number", quoted(&settings.schema));
    let rows = client.query(&query, &[]).await?;
    let versions: Vec<String> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    println!("{}", serde_json::to_string(&versions)?);
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}
