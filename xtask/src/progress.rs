//! What is going on, on standard error: standard output is for results.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Something that takes long enough to be announced.
///
/// On a terminal the line is rewritten in place; elsewhere one line says that it began and one that it ended, with a
/// sign of life every minute, so that nobody who waits for a log thinks that it hangs.
pub(crate) struct Task {
    what: String,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl Task {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let now = Instant::now();
        let task = Self { what: what.into(), started: now, shown: now, terminal: io::stderr().is_terminal() };
        if task.terminal {
            task.rewrite("");
        } else {
            eprintln!("{} …", task.what);
        }
        task
    }

    /// Shows how far it is. May be called as often as is convenient.
    pub(crate) fn update(&mut self, how_far: &str) {
        let often = if self.terminal { Duration::from_millis(200) } else { Duration::from_mins(1) };
        if self.shown.elapsed() < often {
            return;
        }
        self.shown = Instant::now();
        let status = format!("{how_far} {}", duration(self.started.elapsed()));
        if self.terminal {
            self.rewrite(&status);
        } else {
            eprintln!("{} … {status}", self.what);
        }
    }

    /// It is over, and well.
    pub(crate) fn done(self) {
        let end = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{end}{}: {}", self.what, duration(self.started.elapsed()));
    }

    fn rewrite(&self, status: &str) {
        eprint!("\r\x1b[K{} … {status}", self.what);
        io::stderr().flush().ok();
    }
}

/// Steps that are run one after the other, and how long each took.
#[derive(Default)]
pub(crate) struct Steps {
    taken: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Runs one step under a headline.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n── {name}");
        let started = Instant::now();
        let result = step();
        self.taken.push((name.into(), started.elapsed(), result.is_ok()));
        result
    }

    /// A line for each step.
    pub(crate) fn table(&self) -> String {
        let width = self.taken.iter().map(|(name, ..)| name.chars().count()).max().unwrap_or_default().max(5);
        let total: Duration = self.taken.iter().map(|(_, took, _)| *took).sum();
        let line = |name: &str, took: Duration, ok: bool| {
            let failed = if ok { "" } else { "  FAILED" };
            format!("{name:width$}  {:>8}{failed}\n", duration(took))
        };
        let steps: String = self.taken.iter().map(|(name, took, ok)| line(name, *took, *ok)).collect();
        steps + &line("total", total, true)
    }
}

/// `3m 02s`, `4.2s`: as exact as is worth reading.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let of = |millis| duration(Duration::from_millis(millis));
        assert_eq!((of(4_230), of(182_000), of(3_700_000)), ("4.2s".into(), "3m 02s".into(), "1h 01m".into()));
    }

    #[test]
    fn the_table_shows_what_failed() {
        let taken = vec![("tools".into(), Duration::from_secs(61), true), ("cargo test".into(), Duration::ZERO, false)];
        let steps = Steps { taken };
        assert_eq!(steps.table(), "tools         1m 01s\ncargo test      0.0s  FAILED\ntotal         1m 01s\n");
    }
}
