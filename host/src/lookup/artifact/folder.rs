//! A folder that the host can read.

use std::path::{Path, PathBuf};

use super::unpack::{Collector, Files, Refusal, plain_path};
use super::{MAX_FILES, blocking};
use crate::lookup::client::failed;
use crate::lookup::grants::Endpoint;
use crate::plan::contract::Answer;

/// Files and folders that are gone through, wanted or not.
const MAX_ENTRIES: usize = 10 * MAX_FILES;

/// `reference` is a folder below the endpoint; empty, `.` or `/` for all of it.
pub(super) async fn fetch(endpoint: &Endpoint, reference: &str, collector: Collector) -> Result<Option<Files>, Answer> {
    let below = match reference.trim_matches('/') {
        "" | "." => String::new(),
        path => plain_path(path.as_bytes()).map_err(|(_, message)| failed("InvalidArgument", message))?,
    };
    endpoint.allow(&format!("/{below}"))?;
    let (base, what) = (PathBuf::from(format!("{}/", endpoint.base)), reference.to_owned());
    blocking(move || read(&base, &below, collector).map_err(|(reason, text)| failed(reason, format!("{what}: {text}"))))
        .await
}

fn read(base: &Path, below: &str, mut collector: Collector) -> Result<Option<Files>, Refusal> {
    let io = |path: &Path, error: std::io::Error| ("Unreadable", format!("{}: {error}", path.display()));
    let base = base.canonicalize().map_err(|error| io(base, error))?;
    let root = match base.join(below).canonicalize() {
        Ok(root) => root,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(&base.join(below), error)),
    };
    if !root.starts_with(&base) {
        return Err(("Unsafe", "leads out of the endpoint's folder".into()));
    }
    let (mut open, mut seen) = (vec![root.clone()], 0);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|error| io(&folder, error))? {
            let entry = entry.map_err(|error| io(&folder, error))?;
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(("TooLarge", format!("more than {MAX_ENTRIES} files and folders")));
            }
            let path = entry.path();
            let kind = entry.file_type().map_err(|error| io(&path, error))?;
            if kind.is_dir() {
                open.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap_or(&path).as_os_str().as_encoded_bytes();
            let name = plain_path(name)?;
            if !collector.wants(&name) {
                continue;
            }
            if !kind.is_file() {
                return Err(("Unsafe", format!("{name} is no regular file: links and devices are refused")));
            }
            let file = std::fs::File::open(&path).map_err(|error| io(&path, error))?;
            collector.add(name, file)?;
        }
    }
    Ok(Some(collector.files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(base: &Path, below: &str, include: &[&str]) -> Result<Option<Vec<String>>, &'static str> {
        let include: Vec<String> = include.iter().map(ToString::to_string).collect();
        let files = read(base, below, Collector::new(&include)).map_err(|(reason, _)| reason)?;
        Ok(files.map(|files| files.into_keys().collect()))
    }

    #[test]
    fn files_of_a_folder_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("a/b/x.yaml"), "1").unwrap();
        std::fs::write(base.join("y.yaml"), "2").unwrap();
        std::fs::write(dir.path().join("outside"), "3").unwrap();
        assert_eq!(names(&base, "", &[]), Ok(Some(vec!["a/b/x.yaml".into(), "y.yaml".into()])));
        assert_eq!(names(&base, "a", &[]), Ok(Some(vec!["b/x.yaml".into()])));
        assert_eq!(names(&base, "missing", &[]), Ok(None));
        std::os::unix::fs::symlink("../outside", base.join("link")).unwrap();
        std::os::unix::fs::symlink("..", base.join("up")).unwrap();
        assert_eq!(names(&base, "", &["*.yaml"]), Ok(Some(vec!["y.yaml".into()])));
        assert_eq!(names(&base, "", &[]), Err("Unsafe"));
        assert_eq!(names(&base, "up", &[]), Err("Unsafe"));
    }
}
