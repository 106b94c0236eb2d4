//! `transom compile IN OUT`

use std::path::PathBuf;

use crate::plugin::compile_to_file;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component.
    input: PathBuf,
    /// Where the machine code goes.
    output: PathBuf,
    /// Count fuel.
    #[arg(long)]
    fuel: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        Ok(compile_to_file(&self.input, &self.output, self.fuel)?)
    }
}
