//! The `transom` program.

use clap::Parser;

fn main() -> anyhow::Result<()> {
    transom::cli::Cli::parse().run()
}
