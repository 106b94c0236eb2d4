//! Bytes on disk, by what they are: a digest, or a git commit and path.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

/// All files together; the oldest go first.
const MAX_DISK: u64 = 1 << 30;

/// A folder that belongs to the host alone.
pub(super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(hex(&Sha256::digest(key)))
    }

    /// What was kept under this key, whole: every file begins with the digest of the rest.
    pub(super) async fn get(&self, key: &str) -> Option<Vec<u8>> {
        let mut file = tokio::fs::read(self.path(key)).await.ok()?;
        let content = file.split_off(file.len().min(32));
        (Sha256::digest(&content).as_slice() == file.as_slice()).then_some(content)
    }

    /// Keeps bytes. A disk that is full costs a fetch the next time, no more.
    pub(super) async fn put(&self, key: &str, bytes: &[u8]) {
        let (dir, path) = (self.dir.clone(), self.path(key));
        let mut file = Sha256::digest(bytes).to_vec();
        file.extend_from_slice(bytes);
        let written = tokio::task::spawn_blocking(move || write(&dir, &path, &file)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(dir = %self.dir.display(), %error, "artifact cannot be kept in the cache");
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that is there whole or not at all.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::create_dir_all(dir)?;
    make_room(dir, MAX_DISK.saturating_sub(bytes.len() as u64))?;
    let mut part = tempfile::NamedTempFile::new_in(dir)?;
    part.write_all(bytes)?;
    part.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn make_room(dir: &Path, max: u64) -> std::io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_file() {
            files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), entry.path()));
        }
    }
    let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
    files.sort();
    for (_, size, path) in files {
        if total <= max {
            break;
        }
        std::fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_comes_back_and_what_was_damaged_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("artifacts"));
        assert_eq!(cache.get("a").await, None);
        cache.put("a", b"one").await;
        assert_eq!(cache.get("a").await.as_deref(), Some(b"one".as_slice()));
        let mut file = std::fs::read(cache.path("a")).unwrap();
        *file.last_mut().unwrap() = b'!';
        std::fs::write(cache.path("a"), file).unwrap();
        assert_eq!(cache.get("a").await, None);
    }

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 3), ("middle", 2), ("new", 1)] {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age * 60)).unwrap();
        }
        make_room(dir.path(), 15).unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["new"]);
    }
}
