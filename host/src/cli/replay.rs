//! `transom replay`

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::progress;
use crate::api::plugin::Bounds;
use crate::overlay::{self, Overlaid};
use crate::plugin::{Cache, Engine};
use crate::record::{self, Bundle, Difference, Outcome};
use crate::registry::{Loader, digest_of};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom replay shop.json                       # the same plan, byte for byte\n  \
    transom replay shop.json --plugin next.wasm    # what another version would do")]
pub struct Args {
    /// What `transom record` wrote.
    file: PathBuf,
    /// The component; by default the recorded one from the cache of the host (`--cache-dir`).
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// How the result looks.
    #[arg(long, short, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
    Yaml,
}

impl Args {
    pub(super) async fn run(self, cache: Cache) -> anyhow::Result<()> {
        let shown = self.file.display();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {shown}"))?;
        let bundle = Bundle::parse(&text).with_context(|| shown.to_string())?;
        let recorded = &bundle.plugin.digest;
        let path = self.plugin.clone().unwrap_or_else(|| super::record::cached(&cache.dir, recorded));
        let wasm = std::fs::read(&path)
            .with_context(|| format!("cannot read {}: name the component by --plugin", path.display()))?;
        let digest = digest_of(&wasm);
        if self.plugin.is_none() && digest != *recorded {
            bail!(
                "{} has the digest {digest}, recorded was {recorded}: name the component by --plugin",
                path.display()
            );
        }
        let loader = Loader { engine: Engine::metered()?, program: std::env::current_exe()?, cache };
        // what takes a second in a host may take longer here
        let bounds = Bounds { deadline: Bounds::default().deadline * 10, ..Bounds::default() };
        let loaded = progress::slow("compiling the plugin", loader.load(&bundle.plugin.name, &wasm, &digest, bounds))
            .await
            .with_context(|| format!("{} is no plugin", path.display()))?;
        let first = record::replay(&loaded.plugin, &bundle.request, &bundle.rounds).await.masked();
        let second = record::replay(&loaded.plugin, &bundle.request, &bundle.rounds).await.masked();
        if first != second {
            bail!("the plugin is no pure function: two runs differ in answer or fuel");
        }
        let mut differences = record::differences(&bundle.outcome, &first.outcome);
        if first.rounds != bundle.rounds {
            let value = |rounds| serde_json::to_value(rounds).ok();
            let (before, after) = (value(&bundle.rounds), value(&first.rounds));
            differences.push(Difference { of: "lookups".into(), path: String::new(), before, after });
        }
        let overlays = bundle.overlays.as_ref().map(|overlays| laid(overlays, &bundle, &first.outcome)).transpose()?;
        let overlays = overlays.map(|(outcomes, more)| {
            differences.extend(more);
            outcomes
        });
        let result = json!({
            "same": differences.is_empty(), "recorded": bundle.plugin,
            "replayed": {"name": loaded.manifest.name, "version": loaded.manifest.version, "digest": digest},
            "rounds": first.rounds.len(), "fuel": first.fuel, "differences": differences, "redaction": bundle.redaction,
            "overlays": overlays,
        });
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&result)?),
            Output::Yaml => print!("{}", serde_saphyr::to_string(&result)?),
            Output::Text => {
                if digest != *recorded {
                    println!("another component: recorded {recorded}, replayed {digest}");
                }
                for outcome in overlays.iter().flatten() {
                    let state = outcome.refused.as_ref().map_or("applied", |refused| &refused.reason);
                    println!("overlay {}: {state}", outcome.overlay);
                }
                print_text(&differences, &first.fuel, &bundle.redaction.differs);
            }
        }
        if !differences.is_empty() {
            bail!("{} differences from the recording", differences.len());
        }
        Ok(())
    }
}

/// Lays the recorded overlays on the plan of now. What became of each, and where that is not what was recorded.
fn laid(
    overlays: &Overlaid,
    bundle: &Bundle,
    outcome: &Outcome,
) -> anyhow::Result<(Vec<overlay::Outcome>, Vec<Difference>)> {
    let (Outcome::Planned(before), Outcome::Planned(after)) = (&bundle.outcome, outcome) else {
        return Ok((Vec::new(), Vec::new())); // no plan, nothing to lay them on: the outcomes differ, or none had one
    };
    let lay = |plan| overlays.on_plan(plan, &bundle.primary.namespace).map_err(anyhow::Error::msg);
    let (before, after) = (lay(before)?, lay(after)?);
    let mut differences = Vec::new();
    for outcome in &after.outcomes {
        let recorded = overlays.outcomes.iter().find(|recorded| recorded.uid == outcome.uid);
        if recorded != Some(outcome) {
            let of = format!("overlay {}", outcome.overlay);
            let (before, after) = (recorded.map(serde_json::to_value).transpose()?, serde_json::to_value(outcome)?);
            differences.push(Difference { of, path: String::new(), before, after: Some(after) });
        }
    }
    for child in &after.children {
        let old = before.children.iter().find(|old| old.reference == child.reference);
        let is_overlaid = after.outcomes.iter().any(|outcome| outcome.children.contains(&child.reference));
        if let (Some(old), true) = (old, is_overlaid)
            && old.body != child.body
        {
            let of = format!("{} with overlays", child.reference);
            let (before, after) = (Some(old.body.clone()), Some(child.body.clone()));
            differences.push(Difference { of, path: String::new(), before, after });
        }
    }
    Ok((after.outcomes, differences))
}

fn print_text(differences: &[Difference], fuel: &[u64], real: &[String]) {
    let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "(none)".to_owned(), Value::to_string);
    for Difference { of, path, before, after } in differences {
        println!("{of} {path}\n  - {}\n  + {}", shown(before), shown(after));
    }
    if differences.is_empty() {
        println!("same plan, byte for byte; {} calls, fuel {}", fuel.len(), fuel.iter().sum::<u64>());
    }
    if !real.is_empty() {
        println!(
            "without values of Secrets the plugin decided otherwise than it did in the cluster: {}",
            real.join(", ")
        );
    }
}
