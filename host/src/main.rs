//! The `transom` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match transom::cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // one line with all causes; a stack trace (RUST_BACKTRACE) is of no use to whoever runs the program
            eprintln!("Error: {error:#}");
            ExitCode::from(transom::cli::exit_code(&error))
        }
    }
}
