//! Has anything been saved?
//!
//! By asking, ten times a second, for the times and sizes of a crate's files: that needs no library, works in containers and
//! on network file systems, where notices of changes do not, and costs less than a millisecond for some hundred files.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_millis(100);

/// The files that a component is made of.
pub(super) struct Sources {
    dir: PathBuf,
    /// Outside of the folder, as cargo found them: the sources of path dependencies.
    others: BTreeSet<PathBuf>,
}

/// The files as they are at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64);

impl Sources {
    /// Those in this folder.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.into(), others: BTreeSet::new() }
    }

    /// And those that cargo says this module was made of.
    pub(super) fn also(&mut self, module: &Path) {
        let Ok(text) = std::fs::read_to_string(module.with_extension("d")) else { return };
        self.others = dependencies(&text);
    }

    /// The files as they are now.
    pub(super) fn state(&self) -> State {
        let mut hasher = DefaultHasher::new();
        walk(&self.dir, &mut |path| note(path, &mut hasher));
        self.others.iter().for_each(|path| note(path, &mut hasher));
        State(hasher.finish())
    }

    /// Comes back when they are not as they were, and nothing is being written any more.
    pub(super) async fn changed(&self, seen: State) {
        let mut last = seen;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = self.state();
            if now != seen && now == last {
                return;
            }
            last = now;
        }
    }
}

fn note(path: &Path, hasher: &mut DefaultHasher) {
    // one that is gone counts as well
    let metadata = path.metadata().ok();
    let times = metadata.map(|metadata| (metadata.len(), metadata.modified().ok()));
    (path, times).hash(hasher);
}

/// Every file in the folder but hidden ones, components and what cargo has built.
fn walk(dir: &Path, each: &mut impl FnMut(&Path)) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name.ends_with(".wasm") {
            continue;
        }
        // a link to a folder may lead in circles
        let is_folder = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if !is_folder {
            each(&path);
        } else if !path.join("CACHEDIR.TAG").exists() {
            walk(&path, each);
        }
    }
}

/// The files behind `:` in what cargo writes for make, where a space is `\ `.
fn dependencies(text: &str) -> BTreeSet<PathBuf> {
    let files = text.lines().filter_map(|line| line.split_once(": ")).flat_map(|(_, files)| {
        let parts = files.replace("\\ ", "\0");
        parts.split_whitespace().map(|file| file.replace('\0', " ")).collect::<Vec<_>>()
    });
    files.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_make_is_told_is_read() {
        let text = "/t/web.wasm: /c/src/lib.rs /s\\ dk/lib.rs\n/t/libweb.rlib: /c/src/lib.rs\n";
        let files: Vec<PathBuf> = dependencies(text).into_iter().collect();
        assert_eq!(files, [Path::new("/c/src/lib.rs"), Path::new("/s dk/lib.rs")]);
    }

    #[test]
    fn sources_count_and_what_was_built_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("crate/src/lib.rs", "1");
        write("sdk/lib.rs", "1");
        write("t/web.d", &format!("x: {}/sdk/lib.rs\n", folder.path().display()));
        let mut sources = Sources::new(&folder.path().join("crate"));
        sources.also(&folder.path().join("t/web.wasm"));
        let mut last = sources.state();
        let mut differs = || {
            let now = sources.state();
            std::mem::replace(&mut last, now) != now
        };
        assert!(!differs(), "nothing was written");
        for (path, counts) in [
            ("crate/src/lib.rs", true),
            ("crate/src/new.rs", true),
            ("sdk/lib.rs", true),
            ("crate/out/CACHEDIR.TAG", false),
            ("crate/out/lib.rs", false),
            ("crate/.git/index", false),
            ("crate/web.wasm", false),
        ] {
            write(path, "another");
            assert_eq!(differs(), counts, "{path}");
        }
        std::fs::remove_file(folder.path().join("crate/src/new.rs")).unwrap();
        assert!(differs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_when_it_is_over() {
        let folder = tempfile::tempdir().unwrap();
        let sources = Sources::new(folder.path());
        let seen = sources.state();
        let waiting = tokio::time::timeout(INTERVAL * 10, sources.changed(seen)).await;
        assert!(waiting.is_err(), "nothing has changed");
        std::fs::write(folder.path().join("a.rs"), "1").unwrap();
        let started = tokio::time::Instant::now();
        sources.changed(seen).await;
        assert_eq!(started.elapsed(), INTERVAL * 2, "once to see it, once to see no more");
    }
}
