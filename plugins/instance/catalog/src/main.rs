//! `transom-catalog`: see `transom-catalog --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match transom_catalog::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
