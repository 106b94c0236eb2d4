use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::document::missing;

/// How long its words may take, a build of some hundred crates included.
const WORDS: Duration = Duration::from_secs(900);

/// A program that runs while a test does other things, and what it prints. Dropping it kills it.
pub struct Terminal {
    child: Child,
    output: Arc<Mutex<String>>,
    /// Up to where it was heard.
    seen: usize,
}

impl Terminal {
    /// Starts a program.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it can be run");
        let output = Arc::<Mutex<String>>::default();
        tokio::spawn(copy(child.stdout.take().expect("it is piped"), output.clone()));
        tokio::spawn(copy(child.stderr.take().expect("it is piped"), output.clone()));
        Self { child, output, seen: 0 }
    }

    /// All that it has printed, stdout and stderr as they came.
    #[must_use]
    pub fn said(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until it has printed these lines, in this order, behind those that were heard before. Returns what was heard.
    ///
    /// # Panics
    ///
    /// When it does not, with `at`.
    pub async fn hear<L: AsRef<str>>(&mut self, at: &str, expected: &[L]) -> String {
        let expected: Vec<String> = expected.iter().map(|line| line.as_ref().to_owned()).collect();
        let started = Instant::now();
        loop {
            let text = self.said();
            let new = &text[self.seen..];
            let Some(line) = missing(&expected, new) else {
                let heard = new.to_owned();
                self.seen = text.rfind('\n').map_or(0, |at| at + 1);
                return heard;
            };
            assert!(started.elapsed() < WORDS, "{at}: it does not print {line:?}:\n{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ctrl-C, and its end.
    ///
    /// # Panics
    ///
    /// When it has ended before, or does not end well.
    pub async fn interrupt(&mut self, at: &str) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
        let pid = pid.unwrap_or_else(|| panic!("{at}: it has ended before:\n{}", self.said()));
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{at}: it does not end:\n{}", self.said())).expect("it is ours");
        assert!(status.success(), "{at}: {status}:\n{}", self.said());
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, to: Arc<Mutex<String>>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

/// Takes out what cargo has set for the tests and is not for a cargo that a test runs.
pub fn without_cargo(command: &mut Command) {
    for (name, _) in std::env::vars() {
        let is_of_crate = name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if is_of_crate || ["CARGO", "CARGO_CRATE_NAME", "CARGO_BIN_NAME", "LD_LIBRARY_PATH"].contains(&&*name) {
            command.env_remove(name);
        }
    }
}
