//! `transom compile`: component on stdin, machine code on stdout.

use std::io::{Read, Write};

use crate::plugin::compile;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Count fuel.
    #[arg(long)]
    fuel: bool,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut wasm = Vec::new();
        std::io::stdin().lock().read_to_end(&mut wasm)?;
        let code = compile(&wasm, self.fuel)?;
        let mut out = std::io::stdout().lock();
        out.write_all(&code)?;
        Ok(out.flush()?)
    }
}
