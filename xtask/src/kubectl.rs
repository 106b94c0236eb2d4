//! The cluster, through kubectl.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// kubectl with a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a watch reports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// The object as it is now.
    Seen(Value),
    /// The object as it was last.
    Gone(Value),
}

/// A running `kubectl get --watch`; dropping it ends it.
pub(crate) struct Watch {
    child: Child,
}

impl Drop for Watch {
    fn drop(&mut self) {
        command::end(&mut self.child).ok();
    }
}

impl Kubectl {
    pub(crate) fn new(program: &Path, kubeconfig: PathBuf) -> Self {
        Self { program: program.into(), kubeconfig }
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// Runs it with these arguments and returns what it wrote.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        command::output(self.command().args(arguments))
    }

    /// Creates the objects in `manifest`, which must not be there.
    pub(crate) fn create(&self, manifest: &str) -> Result<()> {
        command::output_with(self.command().args(["create", "-f", "-"]), Some(manifest)).map(drop)
    }

    /// Applies the objects in `manifest` on the server's side.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "--field-manager=xtask", "-f", "-"];
        command::output_with(self.command().args(arguments), Some(manifest)).map(drop)
    }

    /// Deletes the objects in `manifest` that are there, and waits until they are gone.
    pub(crate) fn delete(&self, manifest: &str) -> Result<()> {
        let arguments = ["delete", "--ignore-not-found", "--timeout=60s", "-f", "-"];
        command::output_with(self.command().args(arguments), Some(manifest)).map(drop)
    }

    /// Waits with `kubectl wait` until `condition` (`condition=Ready`, `create`, …) holds.
    pub(crate) fn wait(&self, object: &str, condition: &str, seconds: u32) -> Result<()> {
        self.run(&["wait", object, &format!("--for={condition}"), &format!("--timeout={seconds}s")]).map(drop)
    }

    /// Reports the objects that `arguments` select, as they are and from then on as they change.
    ///
    /// The stream ends when the API server does, or the watch is dropped.
    pub(crate) fn watch<T: Send + 'static>(
        &self,
        arguments: &[&str],
        report: Sender<T>,
        wrap: impl Fn(Change) -> T + Send + 'static,
    ) -> Result<Watch> {
        let mut command = self.command();
        command.arg("get").args(arguments).args(["--output=json", "--watch", "--output-watch-events"]);
        let mut child = command::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let stdout = child.stdout.take().context("kubectl without output")?;
        thread::spawn(move || {
            let events = serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>();
            for event in events.map_while(Result::ok) {
                if let Some(change) = change(event)
                    && report.send(wrap(change)).is_err()
                {
                    return;
                }
            }
        });
        Ok(Watch { child })
    }
}

fn change(mut event: Value) -> Option<Change> {
    let object = event.get_mut("object").map(Value::take)?;
    match event.get("type")?.as_str()? {
        "ADDED" | "MODIFIED" => Some(Change::Seen(object)),
        "DELETED" => Some(Change::Gone(object)),
        _ => None,
    }
}

/// The condition of an object by its type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|condition| text(condition, "/type") == kind)
}

/// The text at `pointer` (RFC 6901), empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_apart() {
        let event = |kind: &str| change(json!({ "type": kind, "object": { "a": 1 } }));
        assert_eq!(event("ADDED"), Some(Change::Seen(json!({ "a": 1 }))));
        assert_eq!(event("DELETED"), Some(Change::Gone(json!({ "a": 1 }))));
        assert_eq!(event("BOOKMARK"), None);
    }

    #[test]
    fn conditions_are_found_by_type() {
        let object = json!({ "status": { "conditions": [{ "type": "A" }, { "type": "B", "status": "True" }] } });
        assert_eq!(condition(&object, "B").map(|found| text(found, "/status")), Some("True"));
        assert_eq!(condition(&object, "C"), None);
        assert_eq!(condition(&json!({}), "A"), None);
    }
}
