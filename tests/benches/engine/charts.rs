//! Charts that are made up, and those of others.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use transom::plugin::EngineComponent;
use transom_engines::helm::Reply;

use crate::native::Native;
use crate::report::{Report, percentile};
use crate::{millis, request};

/// Makes a chart of this many templates with two manifests each: a workload with labels, values as YAML and a checksum,
/// and a ConfigMap with a dashboard of some kilobytes.
pub(crate) fn made_up(folder: &Path, name: &str, templates: usize) -> Result<PathBuf> {
    let chart = folder.join(name);
    fs::create_dir_all(chart.join("templates"))?;
    fs::create_dir_all(chart.join("files"))?;
    let mut dashboard = "{\"panels\": [\n".to_owned();
    for n in 0..60 {
        writeln!(
            dashboard,
            "  {{\"id\": {n}, \"title\": \"CPU {n}\", \"expr\": \"sum(rate(cpu{{{{job}}}}[5m])) by (pod)\"}},"
        )?;
    }
    fs::write(chart.join("files/dashboard.json"), dashboard + "  {}]}\n")?;
    fs::write(
        chart.join("Chart.yaml"),
        format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\nappVersion: \"2.1\"\n"),
    )?;
    fs::write(chart.join("templates/_helpers.tpl"), HELPERS)?;
    let mut values = String::from(VALUES);
    for n in 0..templates {
        write!(values, "part{n}:\n{PART}")?;
        fs::write(chart.join(format!("templates/part{n}.yaml")), TEMPLATE.replace("@N@", &n.to_string()))?;
    }
    fs::write(chart.join("values.yaml"), values)?;
    Ok(chart)
}

const HELPERS: &str = r#"{{- define "x.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name (default .Chart.Name .Values.nameOverride) | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- define "x.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
"#;

const VALUES: &str = "fullnameOverride: \"\"\nnameOverride: \"\"\ncommonLabels: {team: shop, tier: backend}\n";

const PART: &str = r#"  enabled: true
  replicas: 2
  image: {repository: registry.example/app, tag: ""}
  resources: {limits: {cpu: 500m, memory: 512Mi}, requests: {cpu: 50m, memory: 64Mi}}
  nodeSelector: {kubernetes.io/os: linux}
  env: {A: "1", B: two, C: "{{ .Release.Name }}"}
  tolerations: [{key: a, operator: Exists, effect: NoSchedule}, {key: b, operator: Exists}]
"#;

const TEMPLATE: &str = r#"{{- with .Values.part@N@ }}{{ if .enabled -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "x.fullname" $ }}-@N@
  namespace: {{ $.Release.Namespace }}
  labels: {{- include "x.labels" $ | nindent 4 }}
    {{- toYaml $.Values.commonLabels | nindent 4 }}
spec:
  replicas: {{ .replicas }}
  selector:
    matchLabels: {part: "@N@", app.kubernetes.io/instance: {{ $.Release.Name }}}
  template:
    metadata:
      labels: {{- include "x.labels" $ | nindent 8 }}
        part: "@N@"
      annotations:
        checksum/values: {{ toJson . | sha256sum }}
    spec:
      containers:
        - name: app
          image: "{{ .image.repository }}:{{ .image.tag | default $.Chart.AppVersion }}"
          env:
          {{- range $name, $value := .env }}
            - name: {{ $name }}
              value: {{ tpl $value $ | quote }}
          {{- end }}
          resources: {{- toYaml .resources | nindent 12 }}
      nodeSelector: {{- toYaml .nodeSelector | nindent 8 }}
      tolerations: {{- toYaml .tolerations | nindent 8 }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "x.fullname" $ }}-dashboard-@N@
  labels: {{- include "x.labels" $ | nindent 4 }}
data:
  dashboard.json: |- {{- $.Files.Get "files/dashboard.json" | nindent 4 }}
{{- end }}{{ end }}
"#;

/// How the engine's text compares with two runs of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    /// It differs where the two runs differ.
    SameButRandom,
    /// The first lines that differ: the engine's, the command line's.
    Different(String, String),
}

impl Verdict {
    pub(crate) fn is_equal(&self) -> bool {
        !matches!(self, Self::Different(..))
    }
}

pub(crate) fn verdict(engine: &str, first: &str, second: &str) -> Verdict {
    if engine == first {
        return Verdict::Same;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (ours, one, two) = (lines(engine), lines(first), lines(second));
    let longest = ours.len().max(one.len());
    let line = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
    let differing = (0..longest).find(|at| line(&ours, *at) != line(&one, *at) && line(&one, *at) == line(&two, *at));
    match differing {
        Some(at) => Verdict::Different(line(&ours, at), line(&one, at)),
        None if first == second => Verdict::Different("other line ends".into(), String::new()),
        None => Verdict::SameButRandom,
    }
}

/// All charts in a folder, wherever in it they are, but no subcharts.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if folder.join("Chart.yaml").is_file() {
        found.push(folder.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            find(&path, found)?;
        }
    }
    Ok(())
}

/// Compares all charts in a folder.
#[allow(clippy::cast_precision_loss, reason = "small counts")]
pub(crate) async fn compare(
    engine: &EngineComponent,
    native: &Native,
    folder: &Path,
    json: Option<&Path>,
) -> Result<()> {
    let mut charts = Vec::new();
    find(folder, &mut charts)?;
    charts.sort();
    anyhow::ensure!(!charts.is_empty(), "there is no chart in {}", folder.display());
    let (mut same, mut random, mut both_fail, mut bytes) = (0, 0, 0, 0);
    let (mut different, mut walls) = (Vec::new(), Vec::new());
    for chart in &charts {
        let name = chart.strip_prefix(folder).unwrap_or(chart).display().to_string();
        let (first, second) = (native.render(chart)?.text, native.render(chart)?.text);
        let input = request(chart, true)?.encode()?;
        let started = Instant::now();
        let reply = match engine.run(&input).await {
            Ok(Ok(output)) => Reply::decode(&output)?,
            Ok(Err(problem)) => {
                different.push(format!("{name}: {}: {}", problem.reason, problem.message));
                continue;
            }
            Err(error) => {
                different.push(format!("{name}: {error}"));
                continue;
            }
        };
        walls.push(millis(started));
        match (reply.error.as_ref(), first, second) {
            (Some(error), Err(said), _) if said.contains(error.message.trim()) => both_fail += 1,
            (None, Ok(first), Ok(second)) => match verdict(&reply.template(), &first, &second) {
                Verdict::Same => {
                    same += 1;
                    bytes += first.len();
                }
                Verdict::SameButRandom => {
                    random += 1;
                    bytes += first.len();
                }
                Verdict::Different(ours, theirs) => different.push(format!("{name}: {ours:?} instead of {theirs:?}")),
            },
            (Some(error), Ok(_), _) => different.push(format!("{name}: only the engine fails: {}", error.message)),
            (Some(error), Err(said), _) => different.push(format!("{name}: {:?} instead of {said:?}", error.message)),
            (None, ..) => different.push(format!("{name}: only the command line fails")),
        }
        println!("{name}: {:.0} ms", walls.last().copied().unwrap_or_default());
    }
    let mut report = Report::default();
    report.section("charts");
    report.figure("charts", charts.len() as f64);
    report.figure("same", f64::from(same));
    report.figure("same_but_random_lines", f64::from(random));
    report.figure("both_fail_with_the_same_words", f64::from(both_fail));
    report.figure("megabytes_compared", bytes as f64 / 1e6);
    report.figure("p50_ms", percentile(&walls, 0.5));
    report.figure("p90_ms", percentile(&walls, 0.9));
    report.figure("max_ms", percentile(&walls, 1.0));
    report.bar("different", different.len() as f64, 0.0);
    different.iter().for_each(|line| println!("{line}"));
    report.write(json)
}
