use std::process::Command as Run;

use rstest::rstest;

use super::*;
use crate::lookup::grants::Protocol;
use crate::lookup::testing::{clients, endpoint, spec};
use crate::plan::contract::Problem;

/// A repository with a tag, a branch and a link.
fn repository() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut run = Run::new("git");
        run.args(["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]);
        run.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
        let done = run.env("HOME", dir.path()).args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    std::fs::create_dir_all(dir.path().join("chart/templates")).unwrap();
    std::fs::write(dir.path().join("chart/Chart.yaml"), "name: one").unwrap();
    std::fs::write(dir.path().join("chart/templates/a.yaml"), "a").unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "one"]);
    git(&["tag", "-a", "v1", "-m", "one"]);
    std::fs::write(dir.path().join("chart/Chart.yaml"), "name: two").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("chart/link")).unwrap();
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "two"]);
    git(&["branch", "-q", "feature/x"]);
    dir
}

async fn files(
    dir: &Path,
    cache: &Cache,
    reference: &str,
    include: &[&str],
) -> Result<Option<Vec<(String, String)>>, Answer> {
    let to = endpoint(Protocol::Git, spec(&format!("file://{}", dir.display())));
    let include: Vec<String> = include.iter().map(ToString::to_string).collect();
    let files = fetch(cache, &clients(&[]), &to, reference, Collector::new(&include)).await?;
    let text = |(path, bytes): (String, Vec<u8>)| (path, String::from_utf8(bytes).unwrap());
    Ok(files.map(|files| files.into_iter().map(text).collect()))
}

fn pairs(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
}

#[tokio::test]
async fn tags_branches_and_folders() {
    let (repository, work) = (repository(), tempfile::tempdir().unwrap());
    let cache = Cache::new(work.path().to_owned());
    let dir = repository.path();
    let one = pairs(&[("Chart.yaml", "name: one"), ("templates/a.yaml", "a")]);
    assert_eq!(files(dir, &cache, "v1:chart", &[]).await, Ok(one));
    let two = pairs(&[("chart/Chart.yaml", "name: two")]);
    assert_eq!(files(dir, &cache, "main", &["**/Chart.yaml"]).await, Ok(two.clone()));
    assert_eq!(files(dir, &cache, "feature/x", &["**/Chart.yaml"]).await, Ok(two));
    assert_eq!(files(dir, &cache, "missing", &[]).await, Ok(None));
    assert_eq!(files(dir, &cache, "v1:missing", &[]).await, Ok(None));
    assert!(matches!(files(dir, &cache, "main:chart", &[]).await, Err(Answer::Failed(p)) if p.reason == "Unsafe"));
}

#[tokio::test]
async fn an_endpoint_may_be_a_folder_of_repositories() {
    let (repository, work) = (repository(), tempfile::tempdir().unwrap());
    let cache = Cache::new(work.path().to_owned());
    let plain = work.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    std::os::unix::fs::symlink(repository.path(), plain.join("shop.git")).unwrap();
    let one = pairs(&[("Chart.yaml", "name: one")]);
    assert_eq!(files(&plain, &cache, "shop.git@v1:chart", &["Chart.yaml"]).await, Ok(one));
    assert!(
        matches!(files(&plain, &cache, "other.git@v1", &[]).await, Err(Answer::Failed(p)) if p.reason == "Unavailable")
    );
    for outside in ["../plain/shop.git@v1", "a/../../shop.git@v1", "@v1", "-x@v1"] {
        let refused = files(&plain, &cache, outside, &[]).await;
        assert!(matches!(refused, Err(Answer::Failed(p)) if p.reason == "InvalidArgument"), "{outside}");
    }
}

#[tokio::test]
async fn only_granted_repositories_are_read() {
    let work = tempfile::tempdir().unwrap();
    let mut granted = spec("file:///nowhere");
    granted.paths = vec!["/team/*".into()];
    let to = endpoint(Protocol::Git, granted);
    let cache = Cache::new(work.path().to_owned());
    let ask = async |reference: &str| fetch(&cache, &clients(&[]), &to, reference, Collector::new(&[])).await;
    assert!(matches!(ask("other/shop.git@main:team/a").await, Err(Answer::Denied(_))));
    assert!(matches!(ask("team/shop.git@main").await, Err(Answer::Failed(p)) if p.reason == "Unavailable"));
}

#[tokio::test]
async fn a_commit_that_was_fetched_needs_no_server() {
    let (repository, work) = (repository(), tempfile::tempdir().unwrap());
    let cache = Cache::new(work.path().to_owned());
    let commit = Run::new("git").args(["rev-parse", "v1^{commit}"]).current_dir(repository.path()).output().unwrap();
    let commit = String::from_utf8(commit.stdout).unwrap().trim().to_owned();
    let expected = pairs(&[("Chart.yaml", "name: one"), ("templates/a.yaml", "a")]);
    assert_eq!(files(repository.path(), &cache, &format!("{commit}:chart"), &[]).await, Ok(expected.clone()));
    let gone = repository.path().to_owned();
    drop(repository);
    assert_eq!(files(&gone, &cache, &format!("{commit}:chart"), &[]).await, Ok(expected));
    assert!(matches!(files(&gone, &cache, "main", &[]).await, Err(Answer::Failed(p)) if p.reason == "Unavailable"));
}

#[rstest]
#[case("--upload-pack=touch x")]
#[case("-x")]
#[case("a..b")]
#[case("a b")]
#[case("HEAD^")]
#[case("a/.hidden")]
#[case("")]
#[case("main:../x")]
#[tokio::test]
async fn what_git_could_take_for_something_else_is_refused(#[case] reference: &str) {
    let work = tempfile::tempdir().unwrap();
    let answer = files(work.path(), &Cache::new(work.path().to_owned()), reference, &[]).await;
    assert!(matches!(answer, Err(Answer::Failed(Problem { reason, .. })) if reason == "InvalidArgument"));
}
