//! Pages of `docs/` whose commands are run as a reader would.
//!
//! A fenced block is run when its first word is `console`, applied when it is `diff`, and awaited when it is `text dev`:
//!
//! | block | what is done |
//! | --- | --- |
//! | `console` | each line that begins with `$ ` is run; the lines below it must be in what it prints, in their order |
//! | `console background` | its one command is started, and the lines must come in time |
//! | `console setup` | nothing: it is done by whoever runs the test |
//! | `diff` | its hunks are applied; what they take away must be there exactly once |
//! | `text NAME` | the background command whose second word is `NAME` must print these lines from now on |
//! | `text NAME ends` | the same, after it was interrupted |
//!
//! In expected lines `…` stands for anything, and runs of spaces for one.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::Terminal;
use crate::terminal::without_cargo;

/// How long one command may take: cargo builds some hundred crates.
const DEADLINE: Duration = Duration::from_secs(1200);

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// Number of its first line, from 1.
    line: usize,
    info: String,
    text: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (number, line) in page.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if is_open => is_open = false,
            Some(info) => {
                is_open = true;
                blocks.push(Block { line: number + 1, info: info.to_owned(), text: Vec::new() });
            }
            None if is_open => blocks.last_mut().expect("it was opened").text.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!is_open, "the last block does not end");
    blocks
}

/// The commands of a block, each with the lines that it prints.
fn commands(text: &[String]) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in text {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command.to_owned(), Vec::new())),
            None => commands.last_mut().expect("a block begins with a command").1.push(line.clone()),
        }
    }
    commands
}

/// The first of these lines that is not in the text behind the ones before it.
pub(crate) fn missing<'a>(expected: &'a [String], text: &str) -> Option<&'a String> {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(squeeze).collect();
    let mut at = 0;
    expected.iter().find(|wanted| {
        let found = lines[at..].iter().position(|line| contains(line, &squeeze(wanted)));
        at += found.map_or(0, |skipped| skipped + 1);
        found.is_none()
    })
}

/// All parts between `…`, one after the other.
fn contains(line: &str, wanted: &str) -> bool {
    let mut rest = Some(line);
    for part in wanted.split('…') {
        rest = rest.and_then(|rest| Some(&rest[rest.find(part)? + part.len()..]));
    }
    rest.is_some()
}

/// A page with a folder and an environment of its own.
pub struct Page {
    title: String,
    blocks: Vec<Block>,
    folder: PathBuf,
    environment: Vec<(String, String)>,
    /// With the commands that run there.
    background: Vec<(String, Terminal)>,
}

impl Page {
    /// A page of `docs/`. Its commands begin in `folder`, with these variables beside the test's own.
    ///
    /// # Panics
    ///
    /// When there is no such page.
    #[must_use]
    pub fn new(name: &str, folder: &Path, environment: &[(&str, &str)]) -> Self {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let path = docs.join(name);
        let page = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self {
            title: name.to_owned(),
            blocks: blocks(&page),
            folder: folder.to_owned(),
            environment: environment.iter().map(owned).collect(),
            background: Vec::new(),
        }
    }

    /// Does all that the page says, in its order.
    ///
    /// # Panics
    ///
    /// At the first thing that is not as the page says, with its line.
    pub async fn follow(mut self) {
        for block in std::mem::take(&mut self.blocks) {
            let at = format!("docs/{}:{}", self.title, block.line);
            let words: Vec<&str> = block.info.split(' ').collect();
            match words[..] {
                ["console"] => {
                    for (command, expected) in commands(&block.text) {
                        self.run(&at, &command, &expected).await;
                    }
                }
                ["console", "background"] => {
                    let mut all = commands(&block.text);
                    let (command, expected) = all.pop().expect("a command");
                    assert!(all.is_empty(), "{at}: one command for each terminal");
                    let mut terminal = Terminal::start(self.shell(&format!("exec {command}")));
                    terminal.hear(&at, &expected).await;
                    self.background.push((command, terminal));
                }
                ["diff"] => self.edit(&at, &block.text),
                ["text", name] => {
                    let which = self.named(&at, name);
                    self.background[which].1.hear(&at, &block.text).await;
                }
                ["text", name, "ends"] => {
                    let which = self.named(&at, name);
                    let (_, mut terminal) = self.background.remove(which);
                    terminal.interrupt(&at).await;
                    terminal.hear(&at, &block.text).await;
                }
                ["console", "setup"] | ["yaml" | "rust"] => {}
                _ => panic!("{at}: what is a block of {:?}?", block.info),
            }
        }
    }

    fn named(&self, at: &str, name: &str) -> usize {
        let is_named = |(command, _): &(String, Terminal)| command.split(' ').nth(1) == Some(name);
        self.background.iter().position(is_named).unwrap_or_else(|| panic!("{at}: {name} does not run"))
    }

    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", script]).current_dir(&self.folder);
        shell.envs(self.environment.iter().map(|(name, value)| (name, value)));
        without_cargo(&mut shell);
        shell.stdin(Stdio::null()).kill_on_drop(true);
        shell
    }

    async fn run(&mut self, at: &str, command: &str, expected: &[String]) {
        // The folder stays changed for the next command.
        let mark = self.folder.join(".folder-of-the-next-command");
        let script = format!("{command}\npwd > '{}'", mark.display());
        let started = Instant::now();
        let output = self.shell(&script).output();
        let output =
            tokio::time::timeout(DEADLINE, output).await.unwrap_or_else(|_| panic!("{at}: {command} does not end"));
        let output = output.expect("bash can be run");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        let background: String =
            self.background.iter().map(|(command, terminal)| format!("--- {command}\n{}\n", terminal.said())).collect();
        assert!(output.status.success(), "{at}: {command}\n{}\n{stdout}{stderr}\n{background}", output.status);
        if let Some(line) = missing(expected, &stdout) {
            panic!("{at}: {command} does not print {line:?} (or not there):\n{stdout}{stderr}\n{background}");
        }
        eprintln!("{at}: {:6.1} s  {command}", started.elapsed().as_secs_f64());
        self.folder = PathBuf::from(std::fs::read_to_string(&mark).expect("it was written").trim_end());
        std::fs::remove_file(&mark).expect("it was written");
    }

    fn edit(&self, at: &str, text: &[String]) {
        let mut file: Option<PathBuf> = None;
        let (mut old, mut new) = (String::new(), String::new());
        let apply = |file: &Option<PathBuf>, old: &mut String, new: &mut String| {
            let (old, new) = (std::mem::take(old), std::mem::take(new));
            if old.is_empty() && new.is_empty() {
                return;
            }
            let path = file.as_ref().unwrap_or_else(|| panic!("{at}: a hunk without a file"));
            let before =
                std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{at}: {}: {error}", path.display()));
            let times = before.matches(&old).count();
            assert_eq!(times, 1, "{at}: this is {times} times in {}:\n{old}", path.display());
            std::fs::write(path, before.replace(&old, &new)).unwrap();
        };
        for line in text {
            if let Some(name) = line.strip_prefix("+++ b/") {
                file = Some(self.folder.join(name));
            } else if line.starts_with("--- a/") || line.starts_with("@@") {
                apply(&file, &mut old, &mut new);
            } else {
                let (sign, rest) = line.split_at(usize::from(!line.is_empty()));
                assert!(["", " ", "+", "-"].contains(&sign), "{at}: no line of a diff: {line}");
                for (text, other) in [(&mut old, "+"), (&mut new, "-")] {
                    if sign != other {
                        text.push_str(rest);
                        text.push('\n');
                    }
                }
            }
        }
        apply(&file, &mut old, &mut new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn blocks_have_their_words_and_lines() {
        let found = blocks("# a\n```console setup\n$ x\n```\ntext\n```diff\n```\n");
        let block = |line, info: &str, text: &str| Block { line, info: info.into(), text: lines(text) };
        assert_eq!(found, [block(2, "console setup", "$ x"), block(6, "diff", "")]);
    }

    #[test]
    fn commands_have_the_lines_below_them() {
        let found = commands(&lines("$ a b\none\ntwo\n$ c"));
        assert_eq!(found, [("a b".to_owned(), lines("one\ntwo")), ("c".to_owned(), vec![])]);
    }

    #[test]
    fn expected_lines_are_found_in_their_order_only() {
        let text = "one   two\nthree sha256:abc end\n";
        assert_eq!(missing(&lines("two\nsha256:…end"), text), None);
        assert_eq!(missing(&lines("three\none"), text), Some(&"one".to_owned()));
        assert_eq!(missing(&lines("one\none"), text), Some(&"one".to_owned()));
        assert_eq!(missing(&lines("a…b"), "ba"), Some(&"a…b".to_owned()));
    }

    #[test]
    fn hunks_are_applied_where_their_old_lines_are() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("f"), "a\n\nb\nc\n").unwrap();
        let page = Page {
            title: String::new(),
            blocks: vec![],
            folder: folder.path().into(),
            environment: vec![],
            background: vec![],
        };
        page.edit("here", &lines("--- a/f\n+++ b/f\n@@\n a\n+x\n \n@@\n-c\n+d"));
        assert_eq!(std::fs::read_to_string(folder.path().join("f")).unwrap(), "a\nx\n\nb\nd\n");
    }
}
