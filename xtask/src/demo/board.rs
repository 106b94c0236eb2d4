//! The live table.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kubectl::{condition, text};
use crate::progress::duration;

/// Conditions that get a column, in their order, and what it is called.
const CONDITIONS: [(&str, &str); 4] =
    [("Ready", "READY"), ("DBReady", "DB"), ("WorkloadReady", "WORKLOAD"), ("MigrationSucceeded", "MIGRATION")];

/// Shows Domains: on a terminal as a table that is redrawn in place, elsewhere as a line whenever one changes.
pub(crate) struct Board {
    started: Instant,
    terminal: bool,
    /// Lines that the table takes on the screen now.
    drawn: usize,
    first_seen: BTreeMap<String, Instant>,
    last: BTreeMap<String, Row>,
}

/// What is shown of a Domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// `True`, `False`, `Unknown`, or `-` when nothing was said yet.
    conditions: [String; CONDITIONS.len()],
    message: String,
}

impl Row {
    fn of(domain: &Value) -> Self {
        let conditions = CONDITIONS.map(|(kind, _)| {
            let status = condition(domain, kind).map(|found| text(found, "/status")).unwrap_or_default();
            if status.is_empty() { "-".into() } else { status.to_owned() }
        });
        let message = condition(domain, "Ready").map(|ready| match text(ready, "/message") {
            "" => text(ready, "/reason"),
            message => message,
        });
        Self { conditions, message: message.unwrap_or_default().to_owned() }
    }

    /// Nothing was said about it yet.
    fn is_empty(&self) -> bool {
        self.conditions.iter().all(|status| status == "-")
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

    /// Shows the Domains as they are now.
    pub(crate) fn show(&mut self, domains: &BTreeMap<String, Value>) {
        let rows: BTreeMap<String, Row> =
            domains.iter().map(|(name, domain)| (name.clone(), Row::of(domain))).collect();
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

/// `orders: Ready=True DB=True …`
fn sentence(name: &str, row: &Row) -> String {
    let conditions: Vec<String> =
        CONDITIONS.iter().zip(&row.conditions).map(|((kind, _), status)| format!("{kind}={status}")).collect();
    format!("{name}: {}  {}", conditions.join(" "), row.message).trim_end().to_owned()
}

/// No line is longer than `width`: a line that the terminal breaks would spoil the redrawing.
fn table(rows: &BTreeMap<String, Row>, ages: impl Iterator<Item = Duration>, width: usize) -> String {
    let name_width = rows.keys().map(|name| name.chars().count()).max().unwrap_or_default().max("NAME".len());
    let line = |name: &str, conditions: [&str; CONDITIONS.len()], age: &str, message: &str| {
        let column = |((_, title), status): (&(&str, &str), &str)| {
            let width = title.len().max("Unknown".len());
            format!("{status:<width$}  ")
        };
        let conditions: String = CONDITIONS.iter().zip(conditions).map(column).collect();
        let line = format!("{name:<name_width$}  {conditions}{age:<6}  {message}");
        let line: String = line.trim_end().chars().take(width).collect();
        line + "\n"
    };
    let head = line("NAME", CONDITIONS.map(|(_, title)| title), "AGE", "MESSAGE");
    let body = rows.iter().zip(ages).map(|((name, row), age)| {
        line(name, row.conditions.each_ref().map(String::as_str), &format!("{}s", age.as_secs()), &row.message)
    });
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
        let domain = json!({ "status": { "conditions": [
            { "type": "Ready", "status": "False", "reason": "Waiting", "message": "secret shipping-app is missing" },
            { "type": "DBReady", "status": "False" },
        ]}});
        BTreeMap::from([("shipping".into(), Row::of(&domain))])
    }

    #[test]
    fn the_table_fits_the_terminal() {
        let ages = || std::iter::once(Duration::from_secs(12));
        assert_eq!(
            table(&rows(), ages(), 120),
            "NAME      READY    DB       WORKLOAD  MIGRATION  AGE     MESSAGE\n\
             shipping  False    False    -         -          12s     secret shipping-app is missing\n"
        );
        assert!(table(&rows(), ages(), 40).lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn without_a_terminal_a_change_is_one_line() {
        assert_eq!(
            sentence("shipping", &rows()["shipping"]),
            "shipping: Ready=False DBReady=False WorkloadReady=- MigrationSucceeded=-  secret shipping-app is missing"
        );
    }
}
