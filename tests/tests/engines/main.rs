//! The engines as the host runs them, beside the programs that they come from.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod helm;
mod kustomize;

use std::path::Path;
use std::time::Duration;

use transom::api::plugin::Bounds;
use transom::plugin::EngineComponent;

/// The engine with this name, loaded as the host loads it.
async fn engine(name: &str, bounds: Bounds) -> EngineComponent {
    let plugins = std::env::var_os("TRANSOM_TEST_PLUGINS").expect("set by `cargo xtask test`");
    let component = transom_tests::component_at(&Path::new(&plugins).join(name).with_extension("wasm"));
    transom_tests::native::engine(&component, bounds).await
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
