//! Charts: the engine `helm`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{File, frame, sizes};

/// A chart and everything that decides what becomes of it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What to render.
    pub chart: Chart,
    /// Values over those of the chart, YAML or JSON, later ones over earlier ones; null takes a default away.
    pub values: Vec<Vec<u8>>,
    /// What templates see as `.Release`.
    pub release: Release,
    /// What templates see as `.Capabilities`.
    pub capabilities: Capabilities,
    /// The time that templates see, in seconds since 1970. Keep it for as long as the result shall be the same.
    pub now: i64,
    /// Secret that all random values are made from. A chart that draws some fails when it is empty.
    pub seed: String,
    /// What the cluster has for the chart's `lookup`. With none, `lookup` finds nothing; with a list, the engine asks for
    /// what is missing by [`Reply::wanted`]: answer all of that, keep the earlier answers, and ask again.
    pub lookups: Option<Vec<Lookup>>,
    /// Also give what is in `crds/`.
    pub include_crds: bool,
    /// Fail when a template reads a value that is not there.
    pub strict: bool,
    /// Also the notes of subcharts.
    pub sub_notes: bool,
    /// Give manifests as text.
    pub text: bool,
    /// Give manifests as JSON objects, by Helm's own rules of YAML.
    pub objects: bool,
}

/// A chart with its dependencies in it.
#[derive(Clone, Debug)]
pub enum Chart {
    /// As packaged: `.tgz`.
    Archive(Vec<u8>),
    /// Unpacked, with paths from its folder; `.helmignore` holds.
    Files(Vec<File>),
}

impl Default for Chart {
    fn default() -> Self {
        Self::Files(Vec::new())
    }
}

/// `.Release`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// `.Release.Name`
    pub name: String,
    /// `.Release.Namespace`
    pub namespace: String,
    /// `.Release.Revision`, from 1.
    pub revision: u32,
    /// `.Release.IsUpgrade`, and the contrary of `.Release.IsInstall`.
    pub is_upgrade: bool,
}

/// `.Capabilities`; Helm's own where nothing is said.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Of the cluster, such as `v1.36.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kube_version: Option<String>,
    /// All that the cluster has: `GROUP/VERSION` and `GROUP/VERSION/KIND`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_versions: Option<Vec<String>>,
    /// Others besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_api_versions: Vec<String>,
}

/// What a chart asks the cluster for. Without a name: all of the kind, in the namespace or, without one, everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// May be empty.
    pub namespace: String,
    /// May be empty.
    pub name: String,
}

/// A query and its answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// As it was asked.
    #[serde(flatten)]
    pub query: Query,
    /// The object, or the list for a query without a name; none for what is not there.
    pub object: Option<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    chart: Source<'a>,
    values: Vec<usize>,
    release: &'a Release,
    capabilities: &'a Capabilities,
    now: i64,
    seed: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookups: Option<&'a [Lookup]>,
    include_crds: bool,
    strict: bool,
    sub_notes: bool,
    text: bool,
    objects: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Source<'a> {
    Archive(usize),
    Files(Vec<crate::Sized<'a>>),
}

impl Request {
    /// The bytes for the engine.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let header = Header {
            chart: match &self.chart {
                Chart::Archive(bytes) => Source::Archive(crate::content::size(bytes)),
                Chart::Files(files) => Source::Files(sizes(files)),
            },
            values: self.values.iter().map(|values| crate::content::size(values)).collect(),
            release: &self.release,
            capabilities: &self.capabilities,
            now: self.now,
            seed: &self.seed,
            lookups: self.lookups.as_deref(),
            include_crds: self.include_crds,
            strict: self.strict,
            sub_notes: self.sub_notes,
            text: self.text,
            objects: self.objects,
        };
        let (archive, files): (&[u8], &[File]) = match &self.chart {
            Chart::Archive(bytes) => (bytes, &[]),
            Chart::Files(files) => (&[], files),
        };
        let files = files.iter().map(|(_, bytes)| bytes.as_slice());
        frame(&header, std::iter::once(archive).chain(files).chain(self.values.iter().map(Vec::as_slice)))
    }
}

/// What the engine says: an error, or queries, or else what the chart makes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reply {
    /// Why the chart does not render.
    pub error: Option<Error>,
    /// What the chart looked up and the request did not answer. Nothing else is given then.
    pub wanted: Vec<Query>,
    /// In Helm's order of installation.
    pub manifests: Vec<Manifest>,
    /// In Helm's order of kinds; see [`Reply::hooks_at`].
    pub hooks: Vec<Hook>,
    /// One for each file of `crds/`.
    pub crds: Vec<Manifest>,
    /// `NOTES.txt`.
    pub notes: String,
}

/// Why a chart does not render.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Error {
    /// `BadChart`, `BadValues` (not YAML), `InvalidValues` (`values.schema.json`), `IncompatibleCluster`, `TemplateFailed`,
    /// `BadManifest`, `BadRequest`.
    pub reason: String,
    /// In Helm's words.
    pub message: String,
    /// Path of the template, beginning with the chart's name; empty when it was none.
    pub template: String,
    /// From 1.
    pub line: Option<u32>,
    /// In bytes, from 0.
    pub column: Option<u32>,
}

/// One YAML document.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    /// Path of the template, beginning with the chart's name.
    pub source: String,
    /// Empty when there are only comments.
    pub api_version: String,
    /// Empty when there are only comments.
    pub kind: String,
    /// Empty when it has none.
    pub name: String,
    /// Empty when the manifest names none.
    pub namespace: String,
    /// If [`Request::text`] asks for it.
    pub text: String,
    /// If [`Request::objects`] asks for it: none when there are only comments, several from a list.
    pub objects: Vec<Value>,
}

/// A manifest that is applied at certain moments only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hook {
    /// What to apply.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// `pre-install`, `post-upgrade`, `test` and so on.
    pub events: Vec<String>,
    /// Lower ones first.
    pub weight: i64,
    /// As written; Helm's default for none is `before-hook-creation`.
    pub delete_policies: Vec<String>,
    /// `hook-failed`, `hook-succeeded`.
    pub output_log_policies: Vec<String>,
}

impl Reply {
    /// Reads an output.
    ///
    /// # Errors
    /// When the bytes are no output of this engine.
    pub fn decode(output: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(output)
    }

    /// The hooks for an event such as `pre-install`, in the order in which Helm runs them: by weight, then name, then kind.
    #[must_use]
    pub fn hooks_at(&self, event: &str) -> Vec<&Hook> {
        let mut hooks: Vec<&Hook> = self.hooks.iter().filter(|hook| hook.events.iter().any(|e| e == event)).collect();
        hooks.sort_by(|a, b| (a.weight, &a.manifest.name).cmp(&(b.weight, &b.manifest.name)));
        hooks
    }

    /// What `helm template` prints; [`Request::text`] must have been asked for.
    #[must_use]
    pub fn template(&self) -> String {
        let document = |manifest: &Manifest| format!("---\n# Source: {}\n{}\n", manifest.source, manifest.text);
        let body: String = self.crds.iter().chain(&self.manifests).map(document).collect();
        let hooks: String = self.hooks.iter().map(|hook| document(&hook.manifest)).collect();
        format!("{}\n{hooks}", body.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_header_and_bytes() {
        let chart = Chart::Files(vec![("Chart.yaml".into(), b"name: a".to_vec())]);
        let request = Request { chart, values: vec![b"b: 1".to_vec()], lookups: Some(vec![]), ..Request::default() };
        let input = request.encode().unwrap();
        let length = usize::try_from(u32::from_le_bytes(input[..4].try_into().unwrap())).unwrap();
        let header: Value = serde_json::from_slice(&input[4..4 + length]).unwrap();
        assert_eq!(header["chart"], serde_json::json!({ "files": [{ "path": "Chart.yaml", "size": 7 }] }));
        assert_eq!((&header["values"], &header["lookups"]), (&serde_json::json!([4]), &serde_json::json!([])));
        assert_eq!(&input[4 + length..], b"name: ab: 1");
        let archive = Request { chart: Chart::Archive(vec![1, 2]), ..Request::default() }.encode().unwrap();
        assert!(String::from_utf8_lossy(&archive).contains(r#""archive":2"#) && archive.ends_with(&[1, 2]));
    }

    #[test]
    fn files_by_handle_are_measured_by_their_contents() {
        let handle = format!("transom-content:sha256:{}:12000000", "ab".repeat(32));
        let files = vec![("big.json".into(), handle.clone().into_bytes()), ("Chart.yaml".into(), b"name: a".to_vec())];
        let input = Request { chart: Chart::Files(files), ..Request::default() }.encode().unwrap();
        let text = String::from_utf8_lossy(&input);
        assert!(text.contains(r#"[{"path":"big.json","size":12000000},{"path":"Chart.yaml","size":7}]"#), "{text}");
        assert!(text.starts_with("transom-parts/1\n") && text.contains(&handle) && input.len() < 1_000);
    }

    #[test]
    fn hooks_run_by_weight_and_name() {
        let hook = |name: &str, weight, event: &str| serde_json::json!({ "name": name, "kind": "Job", "weight": weight, "events": [event], "deletePolicies": [] });
        let before = |name, weight| hook(name, weight, "pre-install");
        let hooks = [before("b", 1), before("a", 1), before("z", -5), hook("x", 0, "test")];
        let reply = serde_json::json!({ "hooks": hooks });
        let reply = Reply::decode(&serde_json::to_vec(&reply).unwrap()).unwrap();
        let names: Vec<&str> = reply.hooks_at("pre-install").iter().map(|hook| hook.manifest.name.as_str()).collect();
        assert_eq!(names, ["z", "a", "b"]);
    }
}
