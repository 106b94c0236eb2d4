//! The live table.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::exhibits::EXHIBITS;
use crate::kubectl::{condition, text};
use crate::progress::duration;

/// Shows samples and plugins: on a terminal as a table that is redrawn in place, elsewhere as a line whenever one
/// changes.
pub(crate) struct Board {
    started: Instant,
    terminal: bool,
    /// Lines that the table takes on the screen now.
    drawn: usize,
    first_seen: BTreeMap<String, Instant>,
    last: BTreeMap<String, Row>,
}

/// What is shown of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// `Ready`: `True`, `False`, `Unknown`, or `-` when nothing was said yet.
    ready: String,
    /// What it consists of, with the same words.
    conditions: Vec<(&'static str, String)>,
    message: String,
}

impl Row {
    fn of(object: &Value) -> Self {
        let status = |kind: &str| {
            let status = condition(object, kind).map(|found| text(found, "/status")).unwrap_or_default();
            if status.is_empty() { "-".into() } else { status.to_owned() }
        };
        let exhibit = EXHIBITS.iter().find(|exhibit| exhibit.kind == text(object, "/kind"));
        let conditions = exhibit.map(|exhibit| exhibit.conditions).unwrap_or_default();
        let message = condition(object, "Ready").map(|ready| match text(ready, "/message") {
            "" => text(ready, "/reason"),
            message => message,
        });
        Self {
            ready: status("Ready"),
            conditions: conditions.iter().map(|kind| (*kind, status(kind))).collect(),
            message: message.unwrap_or_default().to_owned(),
        }
    }

    /// Nothing was said about it yet.
    fn is_empty(&self) -> bool {
        self.ready == "-" && self.conditions.iter().all(|(_, status)| status == "-")
    }

    /// The conditions that do not hold.
    fn open(&self) -> String {
        let open = self.conditions.iter().filter(|(_, status)| status != "True");
        open.map(|(kind, _)| *kind).collect::<Vec<_>>().join(" ")
    }
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            first_seen: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// How long it has been shown.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says something that happened once.
    pub(crate) fn note(&mut self, what: &str) {
        let elapsed = duration(self.elapsed());
        self.print(&format!("{elapsed:>7}  {what}\n"));
        self.draw();
    }

    /// Shows the objects as they are now.
    pub(crate) fn show(&mut self, objects: &BTreeMap<String, Value>) {
        let rows: BTreeMap<String, Row> =
            objects.iter().map(|(name, object)| (name.clone(), Row::of(object))).collect();
        let now = Instant::now();
        for name in rows.keys() {
            self.first_seen.entry(name.clone()).or_insert(now);
        }
        if !self.terminal {
            let is_news = |name: &String, row: &Row| self.last.get(name) != Some(row) && !row.is_empty();
            for (name, row) in rows.iter().filter(|(name, row)| is_news(name, row)) {
                println!("{:>7}  {}", duration(self.elapsed()), sentence(name, row));
            }
        }
        self.last = rows;
        self.draw();
    }

    /// Writes above the table.
    fn print(&mut self, lines: &str) {
        if self.terminal && self.drawn > 0 {
            // Up to the table's first line, and clear from there.
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
        print!("{lines}");
        io::stdout().flush().ok();
    }

    fn draw(&mut self) {
        if !self.terminal {
            return;
        }
        let ages = self.last.keys().map(|name| self.first_seen.get(name).map(Instant::elapsed).unwrap_or_default());
        let table = table(&self.last, ages, terminal_width());
        let lines = table.lines().count();
        self.print(&table);
        self.drawn = lines;
    }
}

/// `Domain orders: Ready=True DBReady=True …`
fn sentence(name: &str, row: &Row) -> String {
    let conditions: String = row.conditions.iter().map(|(kind, status)| format!(" {kind}={status}")).collect();
    format!("{name}: Ready={}{conditions}  {}", row.ready, row.message).trim_end().to_owned()
}

/// No line is longer than `width`: a line that the terminal breaks would spoil the redrawing.
fn table(rows: &BTreeMap<String, Row>, ages: impl Iterator<Item = Duration>, width: usize) -> String {
    let column = |title: &str, cell: &dyn Fn(&String, &Row) -> usize| {
        rows.iter().map(|(name, row)| cell(name, row)).max().unwrap_or_default().max(title.len())
    };
    let name_width = column("OBJECT", &|name, _| name.chars().count());
    let open_width = column("WAITS FOR", &|_, row| row.open().len());
    let line = |name: &str, ready: &str, age: &str, open: &str, message: &str| {
        let line = format!("{name:<name_width$}  {ready:<7}  {age:<5}  {open:<open_width$}  {message}");
        let line: String = line.trim_end().chars().take(width).collect();
        line + "\n"
    };
    let head = line("OBJECT", "READY", "AGE", "WAITS FOR", "MESSAGE");
    let body = rows
        .iter()
        .zip(ages)
        .map(|((name, row), age)| line(name, &row.ready, &format!("{}s", age.as_secs()), &row.open(), &row.message));
    head + &body.collect::<String>()
}

fn terminal_width() -> usize {
    // Some terminals have no idea, and say 0.
    let columns = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
    if columns == 0 { 80 } else { usize::from(columns) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> BTreeMap<String, Row> {
        let domain = json!({ "kind": "Domain", "status": { "conditions": [
            { "type": "Ready", "status": "False", "reason": "Waiting", "message": "secret shipping-app is missing" },
            { "type": "DBReady", "status": "False" },
            { "type": "MigrationSucceeded", "status": "True" },
        ]}});
        BTreeMap::from([("Domain shipping".into(), Row::of(&domain))])
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let ages = || std::iter::once(Duration::from_secs(12));
        assert_eq!(
            table(&rows(), ages(), 120),
            "OBJECT           READY    AGE    WAITS FOR              MESSAGE\n\
             Domain shipping  False    12s    DBReady WorkloadReady  secret shipping-app is missing\n"
        );
        assert!(table(&rows(), ages(), 40).lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn without_a_terminal_a_change_is_one_line() {
        assert_eq!(
            sentence("Domain shipping", &rows()["Domain shipping"]),
            "Domain shipping: Ready=False DBReady=False MigrationSucceeded=True WorkloadReady=-  secret \
             shipping-app is missing"
        );
    }
}
