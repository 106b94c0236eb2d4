use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::OnceCell;
use transom::api::plugin::Bounds;
use transom::plugin::{Cache, Seal};

use crate::{environment, transom};

/// A guest that was built, and compiled for the host beforehand.
#[derive(Clone, Debug)]
pub struct Component {
    /// Its name without `.wasm`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// `sha256:…`
    pub digest: String,
}

impl Component {
    /// `spec` of a `Plugin` record that loads it from its file.
    #[must_use]
    pub fn spec(&self) -> Value {
        json!({ "source": { "file": { "path": self.path } }, "digest": self.digest })
    }
}

/// Where hosts keep compiled plugins, unless a test says otherwise.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let plugins = environment::plugins();
    plugins.parent().unwrap_or(&plugins).join("test-cache")
}

/// The same with its key, as hosts use it.
///
/// # Panics
///
/// When the key cannot be read or made.
#[must_use]
pub fn cache() -> Cache {
    Cache { dir: cache_dir(), seal: Seal::in_file(&cache_key()).unwrap() }
}

/// The key by which hosts know what is in it.
pub(crate) fn cache_key() -> PathBuf {
    cache_dir().with_extension("key")
}

/// A component by its file, as it is.
///
/// # Panics
///
/// When the file cannot be read.
#[must_use]
pub fn component_at(path: &Path) -> Component {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digest = ::transom::registry::digest_of(&bytes);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Component { name, path: path.to_owned(), digest }
}

/// The guest of this name. It is compiled once for all tests: all hosts doing it at the same time would take minutes.
///
/// # Panics
///
/// When it was not built, or cannot be compiled.
pub async fn component(name: &str) -> Component {
    static READY: Mutex<Option<HashMap<String, Arc<OnceCell<Component>>>>> = Mutex::new(None);
    let cell = READY.lock().unwrap().get_or_insert_default().entry(name.to_owned()).or_default().clone();
    let compile = async || {
        let component = component_at(&environment::plugins().join(name).with_extension("wasm"));
        let path = component.path.display().to_string();
        transom(&["crds", &path], "").await.succeeded();
        component
    };
    cell.get_or_init(compile).await.clone()
}

/// The engine of this name, compiled like a guest.
///
/// # Panics
///
/// When it was not built, or cannot be compiled.
pub async fn engine(name: &str) -> Component {
    let component = component_at(&environment::plugins().join(name).with_extension("wasm"));
    crate::native::engine(&component, Bounds::default()).await;
    component
}

/// The same component with other bytes, so another digest: no cache of compiled plugins knows it.
///
/// # Panics
///
/// When the file cannot be written.
#[must_use]
pub fn unique(component: &Component, salt: &str, folder: &Path) -> Component {
    let mut bytes = std::fs::read(&component.path).unwrap();
    // A custom section, which means nothing: id 0, size, length of the name, name.
    let length = u8::try_from(salt.len()).expect("a short name");
    bytes.extend([0, length + 1, length]);
    bytes.extend(salt.as_bytes());
    let path = folder.join(&component.name).with_extension("wasm");
    std::fs::write(&path, bytes).unwrap();
    component_at(&path)
}

/// A version of the plugin `chameleon` that does what this JSON says; see its sources.
///
/// # Panics
///
/// When the plugin was not built, or the JSON is too long.
#[must_use]
pub async fn variant(says: &Value, folder: &Path) -> Component {
    const MARK: &[u8] = b"the variant of the chameleon follows:";
    const SIZE: usize = 4096;
    let mut bytes = std::fs::read(component("chameleon").await.path).unwrap();
    let found: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(MARK)).collect();
    let [at] = found[..] else { panic!("{} places for a variant, there must be one", found.len()) };
    let place = &mut bytes[at + MARK.len()..at + SIZE];
    let text = says.to_string();
    assert!(text.len() <= place.len(), "the variant is too long: {text}");
    place.fill(b' ');
    place[..text.len()].copy_from_slice(text.as_bytes());
    let digest = ::transom::registry::digest_of(&bytes);
    let path = folder.join(digest.trim_start_matches("sha256:")).with_extension("wasm");
    std::fs::write(&path, bytes).unwrap();
    Component { name: "chameleon".into(), path, digest }
}
