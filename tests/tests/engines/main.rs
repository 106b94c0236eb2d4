//! The engines as the host runs them, beside the programs that they come from.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod helm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::OnceCell;
use transom::api::plugin::Bounds;
use transom::plugin::{Engine, EngineComponent, compile_in_child};

/// The component with this name, compiled once for all tests and kept for the next ones.
async fn engine(name: &str, bounds: Bounds) -> EngineComponent {
    static ENGINE: OnceCell<Engine> = OnceCell::const_new();
    let engine = ENGINE.get_or_init(async || Engine::new().unwrap()).await;
    let variable = |name| PathBuf::from(std::env::var_os(name).expect("set by `cargo xtask test`"));
    let plugins = variable("TRANSOM_TEST_PLUGINS");
    let bytes = std::fs::read(plugins.join(name).with_extension("wasm")).unwrap();
    let digest = transom::registry::digest_of(&bytes);
    let cache = transom_tests::cache_dir();
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = ONE.lock().await;
    let compiled = compile_in_child(engine, &variable("TRANSOM_BIN"), &cache, &digest, &bytes).await.unwrap();
    EngineComponent::new(engine, &compiled, name, bounds).unwrap()
}

/// What a plugin record can allow at most.
fn bounds() -> Bounds {
    Bounds { memory_bytes: 1 << 30, deadline: Duration::from_secs(120), response_bytes: 17 << 20, ..Bounds::default() }
}

/// The files below a folder, with their paths from there.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
