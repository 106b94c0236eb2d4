//! `transom replay`

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::api::plugin::Bounds;
use crate::plugin::{Cache, Engine};
use crate::record::{self, Bundle, Difference};
use crate::registry::{Loader, digest_of};

/// Arguments.
#[derive(Debug, clap::Args)]
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
        let loaded = loader
            .load(&bundle.plugin.name, &wasm, &digest, bounds)
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
        let result = json!({
            "same": differences.is_empty(), "recorded": bundle.plugin,
            "replayed": {"name": loaded.manifest.name, "version": loaded.manifest.version, "digest": digest},
            "rounds": first.rounds.len(), "fuel": first.fuel, "differences": differences, "redaction": bundle.redaction,
        });
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&result)?),
            Output::Yaml => print!("{}", serde_saphyr::to_string(&result)?),
            Output::Text => {
                if digest != *recorded {
                    println!("another component: recorded {recorded}, replayed {digest}");
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
