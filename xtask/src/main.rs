//! Set-up, demo, tests and benchmarks: `cargo xtask`.

mod bench;
mod certificates;
mod command;
mod controlplane;
mod crds;
mod demo;
mod engines;
mod guests;
mod host;
mod interrupt;
mod kubectl;
mod postgres;
mod process;
mod progress;
mod test;
mod tools;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use controlplane::ControlPlane;

/// Set-up, demo, tests and benchmarks of this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the whole product on this machine: control plane, host, four plugins and their samples; ends with Ctrl-C
    Demo {
        /// Exit 0 when every sample is Ready and the plugin was exchanged without a flap, else say why not
        #[arg(long)]
        check: bool,
        /// Leave everything running at the end
        #[arg(long)]
        keep: bool,
        /// Use the cluster of KUBECONFIG (with kwok's nodes) instead of starting one
        #[arg(long)]
        use_kubeconfig: bool,
    },
    /// Run all tests, as CI does
    Test {
        /// Use the cluster of KUBECONFIG for the tests instead of starting one
        #[arg(long)]
        use_kubeconfig: bool,
        /// Try the Helm charts of this folder as live instances instead: each must run or be refused, and then nothing may be
        /// written, also by hosts that start
        #[arg(long, value_name = "DIR", conflicts_with = "arguments")]
        charts: Option<PathBuf>,
        /// How many minutes nothing may be written
        #[arg(long, default_value_t = 10, requires = "charts", value_name = "N")]
        minutes: u64,
        /// For `cargo test`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Start a control plane and print its KUBECONFIG
    Up {
        /// Its folder, `target/controlplane` by default
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Stop the control plane
    Down {
        /// Its folder, `target/controlplane` by default
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Build the programs of a control plane, or find them in the cache
    Tools,
    /// Build plugins to components, `target/plugins/NAME.wasm`
    Plugins {
        /// All when none is named
        names: Vec<String>,
        /// As tests have them, built in a fraction of the time and slower: `target/quick-plugins/NAME.wasm`
        #[arg(long)]
        quick: bool,
    },
    /// Generate `crds/` again
    Crds {
        /// Fail when it would change
        #[arg(long)]
        check: bool,
    },
    /// Compare what the engine `helm` and Helm's command line make of every chart in a folder
    Charts { dir: PathBuf },
    /// Run a benchmark of `tests/benches/` in release builds
    Bench {
        name: String,
        /// Write the figures to this file as one flat JSON object
        #[arg(long)]
        json: Option<PathBuf>,
        /// How many of what it counts
        #[arg(short = 'n')]
        count: Option<u32>,
        /// For the benchmark
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match interrupt::install().and_then(|()| run(Arguments::parse().task)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let folder = |dir: Option<PathBuf>| dir.unwrap_or_else(ControlPlane::default_folder);
    match task {
        Task::Demo { check, keep, use_kubeconfig } => demo::run(demo::Options { check, keep, use_kubeconfig }),
        Task::Test { use_kubeconfig, charts: Some(charts), minutes, .. } => {
            test::charts(&test::Charts { use_kubeconfig, folder: charts, minutes })
        }
        Task::Test { use_kubeconfig, arguments, .. } => test::run(&test::Options { use_kubeconfig, arguments }),
        Task::Up { dir } => controlplane::up(&folder(dir)),
        Task::Down { dir } => controlplane::down(&folder(dir)),
        Task::Tools => tools::Tools::prepare()?.folder().map(|folder| println!("{}", folder.display())),
        Task::Plugins { names, quick } => {
            let build = if quick { guests::Build::Quick } else { guests::Build::Shipped };
            guests::build(&names, build).map(|folder| println!("{}", folder.display()))
        }
        Task::Crds { check } => crds::run(check),
        Task::Charts { dir } => bench::charts(&dir),
        Task::Bench { name, json, count, arguments } => bench::run(&bench::Options { name, json, count, arguments }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
