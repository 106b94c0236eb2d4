//! What a benchmark prints, and the flat JSON object that it leaves.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// Figures so far. Each is printed as it comes.
#[derive(Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
}

impl Report {
    /// A headline.
    pub(crate) fn section(&self, title: &str) {
        println!("\n{title}");
    }

    /// One figure; the unit is the end of its name.
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        println!("  {name:<34} {:>12}", shown(value));
        self.keep(name, value);
    }

    /// A figure that must not exceed its bar.
    pub(crate) fn bar(&mut self, name: &str, value: f64, at_most: f64) {
        if at_most.is_infinite() {
            return self.figure(name, value);
        }
        let verdict = if value <= at_most { "ok" } else { "OVER" };
        println!("  {name:<34} {:>12}   at most {}: {verdict}", shown(value), shown(at_most));
        self.keep(name, value);
    }

    fn keep(&mut self, name: &str, value: f64) {
        // more digits than were measured are noise
        let rounded = (value * 10_000.0).round() / 10_000.0;
        self.figures.insert(name.to_owned(), rounded.into());
    }

    /// Writes all figures as one flat JSON object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, file: Option<&Path>) -> Result<()> {
        let Some(file) = file else { return Ok(()) };
        let text = serde_json::to_string_pretty(&self.figures)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
    }
}

fn shown(value: f64) -> String {
    match value.abs() {
        size if value.fract() == 0.0 || size >= 1_000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The value below which this part (0 to 1) of the samples lies; not a number when there are none.
pub(crate) fn percentile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the length"
    )]
    let index = (part * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
