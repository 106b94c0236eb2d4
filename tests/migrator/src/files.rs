use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// One step of a schema, from a file `V<number>__<words>.sql`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The number: steps run in its order.
    pub number: u32,
    /// The file's name without `.sql`, as it is recorded and reported.
    pub version: String,
    /// What the file says.
    pub sql: String,
}

/// The migrations of a folder in order of their numbers. Other files are not looked at.
///
/// # Errors
///
/// When a file cannot be read, a name that ends in `.sql` is none of a migration, or two have one number.
pub fn read(folder: &Path) -> Result<Vec<Migration>> {
    let mut migrations = Vec::new();
    let entries = std::fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read {}", folder.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(version) = name.strip_suffix(".sql") else { continue };
        let number = number(version)
            .with_context(|| format!("{name} must be called V<number>__<words>.sql, V3__add_status_column.sql"))?;
        let sql = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        migrations.push(Migration { number, version: version.to_owned(), sql });
    }
    migrations.sort_by_key(|migration| migration.number);
    for (one, other) in migrations.iter().zip(migrations.iter().skip(1)) {
        if one.number == other.number {
            bail!("{} and {} have the same number", one.version, other.version);
        }
    }
    ensure!(!migrations.is_empty(), "there are no migrations in {}", folder.display());
    Ok(migrations)
}

/// 3 of `V3__add_status_column`.
fn number(version: &str) -> Option<u32> {
    let (number, words) = version.strip_prefix('V')?.split_once("__")?;
    (!words.is_empty()).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), format!("-- {name}")).unwrap());
        folder
    }

    #[test]
    fn migrations_come_in_order_of_their_numbers() {
        let folder = folder(&["V10__c.sql", "V2__b.sql", "V1__a.sql", "README"]);
        let versions: Vec<String> = read(folder.path()).unwrap().into_iter().map(|m| m.version).collect();
        assert_eq!(versions, ["V1__a", "V2__b", "V10__c"]);
    }

    #[test]
    fn what_cannot_be_ordered_is_refused() {
        let cases = [
            (&["V1__a.sql", "V01__b.sql"][..], "have the same number"),
            (&["first.sql"], "must be called V<number>__<words>.sql"),
            (&["V__a.sql"], "must be called V<number>__<words>.sql"),
            (&["V1__.sql"], "must be called V<number>__<words>.sql"),
            (&[], "there are no migrations"),
        ];
        for (names, expected) in cases {
            let error = read(folder(names).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{names:?}: {error}");
        }
    }
}
