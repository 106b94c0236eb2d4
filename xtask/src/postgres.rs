//! PostgreSQL for the tests: what is installed, else the distribution's packages, unpacked into the user's cache folder.
//!
//! Nothing is installed and no cluster of the distribution is touched: packages are downloaded and unpacked as any user
//! may, and the tests start servers of their own.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Task;
use crate::{command, tools};

/// The folder of `initdb` and `postgres`, for the tests. Set by the user it is used as it is.
pub(crate) const BIN_VARIABLE: &str = "TRANSOM_POSTGRES_BIN";

/// Where Debian and its children put the programs of each major version.
const VERSIONS: &str = "usr/lib/postgresql";

/// The folder of PostgreSQL's programs.
pub(crate) fn prepare() -> Result<PathBuf> {
    if let Some(named) = env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(named.into());
    }
    if let Some(bin) = newest(Path::new("/")).or_else(from_pg_config) {
        return Ok(bin);
    }
    let cache = tools::cache_folder()?;
    let folder = cache.join("postgresql");
    let lock = File::create(cache.join("postgresql.lock"))?;
    lock.lock().context("failed to lock the tools' cache")?;
    if newest(&folder).is_none() {
        unpack(&folder).with_context(|| {
            format!("PostgreSQL is not installed: install it, or name the folder of initdb in {BIN_VARIABLE}")
        })?;
    }
    newest(&folder).with_context(|| format!("the packages in {} bring no initdb", folder.display()))
}

/// The programs of the highest version below `root`.
fn newest(root: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(root.join(VERSIONS)).ok()?.flatten();
    let numbered = versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let usable = numbered.map(|(number, path)| (number, path.join("bin"))).filter(|(_, bin)| has_programs(bin));
    usable.max_by_key(|(number, _)| *number).map(|(_, bin)| bin)
}

fn from_pg_config() -> Option<PathBuf> {
    let bin = command::output(Command::new("pg_config").arg("--bindir")).ok()?;
    Some(PathBuf::from(bin.trim())).filter(|bin| has_programs(bin))
}

fn has_programs(bin: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|program| bin.join(program).is_file())
}

/// Downloads the server's package and all that it needs and this machine lacks, and unpacks them beside each other.
fn unpack(folder: &Path) -> Result<()> {
    let task = Task::start("downloading PostgreSQL");
    let plan = command::output(Command::new("apt-get").args([
        "install",
        "--simulate",
        "--no-install-recommends",
        "--quiet=2",
        "postgresql",
    ]))?;
    let packages = lacking(&plan);
    if packages.is_empty() {
        bail!("the package postgresql is installed, but has no initdb below /{VERSIONS}");
    }
    let scratch = folder.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("failed to create {}", scratch.display()))?;
    let unpacked = download_and_unpack(&packages, &scratch)
        .and_then(|()| fs::rename(&scratch, folder).with_context(|| format!("failed to create {}", folder.display())));
    if unpacked.is_err() {
        fs::remove_dir_all(&scratch).ok();
    }
    unpacked?;
    task.done();
    Ok(())
}

fn download_and_unpack(packages: &[String], folder: &Path) -> Result<()> {
    command::output(Command::new("apt-get").current_dir(folder).args(["download", "--quiet=2"]).args(packages))?;
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            command::output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(folder))?;
            fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Packages in what `apt-get install --simulate` prints: lines such as `Inst libpq5 (15.18-0+deb12u1 Debian:12 [amd64])`.
fn lacking(plan: &str) -> Vec<String> {
    let names = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_with_programs_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for (version, programs) in
            [("9", &["initdb", "postgres"][..]), ("15", &["initdb", "postgres"]), ("17", &["psql"])]
        {
            let bin = root.path().join(VERSIONS).join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            programs.iter().for_each(|program| fs::write(bin.join(program), "").unwrap());
        }
        assert_eq!(newest(root.path()), Some(root.path().join(VERSIONS).join("15/bin")));
        assert_eq!(newest(&root.path().join("usr")), None);
    }

    #[test]
    fn packages_are_read_from_what_apt_would_do() {
        let plan = "Inst libpq5 (15.18-0+deb12u1 Debian:12 [amd64])\nInst postgresql-15 [15.1] (15.18 Debian)\nConf libpq5 (x)";
        assert_eq!(lacking(plan), ["libpq5", "postgresql-15"]);
    }
}
