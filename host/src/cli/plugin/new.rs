//! `transom plugin new`

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// The files of a project, with `{{word}}` where something is filled in.
const FILES: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("new/Cargo.toml.txt")),
    ("src/lib.rs", include_str!("new/lib.rs.txt")),
    ("sample.yaml", include_str!("new/sample.yaml.txt")),
    ("README.md", include_str!("new/README.md.txt")),
    (".gitignore", include_str!("new/gitignore.txt")),
];

/// Names that cargo or rustc refuse for a crate, or that the project's dependencies have.
const TAKEN_NAMES: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "k8s-openapi",
    "kube",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "schemars",
    "self",
    "serde",
    "serde-json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "transom-sdk",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

/// Types that the project's code uses under these names.
const TAKEN_KINDS: &[&str] = &[
    "ChildExt",
    "Condition",
    "Container",
    "Context",
    "CustomResource",
    "Delivery",
    "Deployment",
    "Deserialize",
    "Err",
    "Failure",
    "Health",
    "JsonSchema",
    "Labels",
    "Manifest",
    "None",
    "Observed",
    "Ok",
    "Option",
    "Plan",
    "Planned",
    "Plugin",
    "PodSpec",
    "Protocol",
    "Reconcile",
    "Result",
    "Self",
    "Serialize",
    "Service",
    "Some",
    "String",
    "Vec",
    "Violations",
];

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    transom plugin new web --group shop.example --kind WebShop\n  \
    transom plugin new web --dir .                 # in this folder\n  \
    transom plugin new web --sdk ~/transom         # with the SDK of a checkout")]
pub struct Args {
    /// Name of the plugin and its crate: small letters, digits and `-`.
    name: String,
    /// API group of the kind: a domain name that is yours.
    #[arg(long, default_value = "example.com")]
    group: String,
    /// The kind that it serves (default: the name in capitals and small letters: web-shop is WebShop).
    #[arg(long)]
    kind: Option<String>,
    /// A folder with the SDK's sources or the repository's, or a version of the SDK (default: the version of this
    /// program).
    #[arg(long, value_name = "PATH|VERSION")]
    sdk: Option<String>,
    /// Where the project goes; files that are there are never overwritten (default: a folder with the plugin's name).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Args {
    pub(super) fn run(self) -> anyhow::Result<()> {
        check_name(&self.name)?;
        let kind = self.kind.unwrap_or_else(|| kind_of(&self.name));
        check_kind(&kind)?;
        check_group(&self.group)?;
        let sdk = dependency(self.sdk.as_deref())?;
        let words = [
            ("name", &*self.name),
            ("kind", &kind),
            ("group", &self.group),
            ("sdk", &sdk),
            ("module", &self.name.replace('-', "_")),
            ("repository", env!("CARGO_PKG_REPOSITORY")),
        ];
        let dir = self.dir.unwrap_or_else(|| PathBuf::from(&self.name));
        let files: Vec<(PathBuf, String)> =
            FILES.iter().map(|(path, text)| (dir.join(path), fill(text, &words))).collect();
        if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
            bail!("{} is there already: choose another --dir, or move it away", path.display());
        }
        for (path, text) in &files {
            create(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            println!("{}", path.display());
        }
        let cd = if dir == Path::new(".") { String::new() } else { format!("cd {} && ", dir.display()) };
        eprintln!("next: {cd}cargo test && transom plugin build");
        Ok(())
    }
}

fn create(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::File::create_new(path)?.write_all(text.as_bytes())
}

fn fill(template: &str, words: &[(&str, &str)]) -> String {
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(&format!("{{{{{word}}}}}"), value))
}

/// `web-shop` is `WebShop`.
fn kind_of(name: &str) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(capital).collect()
}

fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && !name.contains("--")
        && name.chars().all(plain);
    ensure!(
        is_label,
        "the name {name:?} must be small letters, digits and single `-`, begin with a letter, end with none of `-`, and \
         have at most 40 characters: web-shop"
    );
    ensure!(
        !TAKEN_NAMES.contains(&name),
        "the name {name:?} is a word of Rust or of a library that plugins use: {name}-plugin would do"
    );
    Ok(())
}

fn check_kind(kind: &str) -> anyhow::Result<()> {
    let is_kind = kind.len() <= 56
        && kind.starts_with(|c: char| c.is_ascii_uppercase())
        && kind.chars().all(|c| c.is_ascii_alphanumeric());
    ensure!(
        is_kind,
        "--kind {kind:?} must be letters and digits, begin with a capital, and have at most 56 characters: WebShop"
    );
    let is_taken = TAKEN_KINDS.contains(&kind);
    ensure!(!is_taken, "--kind {kind:?} is the name of something that plugins use: {kind}App would do");
    Ok(())
}

fn check_group(group: &str) -> anyhow::Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    ensure!(
        group.len() <= 190 && group.contains('.') && group.split('.').all(is_label),
        "--group {group:?} must be a domain name in small letters, with a dot: shop.example.com"
    );
    // the API server wants an approval by the Kubernetes project for these
    let of_kubernetes = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    ensure!(
        !of_kubernetes("k8s.io") && !of_kubernetes("kubernetes.io"),
        "--group {group:?} belongs to the Kubernetes project, and API servers refuse it: take a domain that is yours"
    );
    ensure!(group != "transom.dev", "--group {group:?} is the host's own: take a domain that is yours");
    Ok(())
}

/// What stands between the braces of the dependency in `Cargo.toml`.
fn dependency(sdk: Option<&str>) -> anyhow::Result<String> {
    let at_version = |version: &str| format!("git = \"{}\", tag = \"v{version}\"", env!("CARGO_PKG_REPOSITORY"));
    let Some(sdk) = sdk else { return Ok(at_version(env!("CARGO_PKG_VERSION"))) };
    let folder = Path::new(sdk);
    if folder.is_dir() {
        let places = [folder.to_owned(), folder.join("plugins/sdk")];
        let Some(found) = places.iter().find(|place| is_sdk(place)) else {
            bail!("--sdk {sdk} has no SDK: the folder must be plugins/sdk of the repository, or the repository");
        };
        let path = std::fs::canonicalize(found).with_context(|| format!("--sdk {sdk}"))?;
        let path = path.to_str().with_context(|| format!("--sdk {sdk} is no UTF-8"))?;
        // a string of JSON is one of TOML
        return Ok(format!("path = {}", serde_json::to_string(path)?));
    }
    let version = sdk.strip_prefix('v').unwrap_or(sdk);
    let numbers: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|n| n.parse::<u32>().is_ok());
    let plain = version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c));
    ensure!(
        is_version && plain,
        "--sdk {sdk:?} is neither a folder nor a version such as {}",
        env!("CARGO_PKG_VERSION")
    );
    Ok(at_version(version))
}

fn is_sdk(folder: &Path) -> bool {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    manifest.lines().any(|line| line.trim() == "name = \"transom-sdk\"")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn args(dir: &Path) -> Args {
        Args {
            name: "web-shop".into(),
            group: "shop.example".into(),
            kind: None,
            sdk: Some("1.2.3".into()),
            dir: Some(dir.into()),
        }
    }

    #[test]
    fn everything_is_filled_in() {
        let folder = tempfile::tempdir().unwrap();
        args(folder.path()).run().unwrap();
        for (path, _) in FILES {
            let text = std::fs::read_to_string(folder.path().join(path)).unwrap();
            assert!(!text.contains("{{") && !text.is_empty(), "{path}: {text}");
        }
        let sample = std::fs::read_to_string(folder.path().join("sample.yaml")).unwrap();
        assert!(sample.starts_with("apiVersion: shop.example/v1\nkind: WebShop\n"), "{sample}");
        let manifest = std::fs::read_to_string(folder.path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"web-shop\"") && manifest.contains("tag = \"v1.2.3\" }"), "{manifest}");
    }

    #[test]
    fn nothing_is_overwritten_and_then_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let readme = folder.path().join("README.md");
        std::fs::write(&readme, "mine").unwrap();
        let error = args(folder.path()).run().unwrap_err().to_string();
        assert!(error.contains("README.md is there already"), "{error}");
        assert_eq!(std::fs::read_to_string(&readme).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[rstest]
    #[case("web", true)]
    #[case("web-2", true)]
    #[case("", false)]
    #[case("Web", false)]
    #[case("2web", false)]
    #[case("web-", false)]
    #[case("web--shop", false)]
    #[case("web_shop", false)]
    #[case("match", false)]
    #[case("kube", false)]
    #[case("a2345678901234567890123456789012345678901", false)]
    fn a_name_is_a_label_and_a_crate(#[case] name: &str, #[case] is_fine: bool) {
        assert_eq!(check_name(name).is_ok(), is_fine);
    }

    #[rstest]
    #[case("Web", true)]
    #[case("Web2", true)]
    #[case("web", false)]
    #[case("Web-Shop", false)]
    #[case("2Web", false)]
    #[case("Plugin", false)]
    #[case("Deployment", false)]
    fn a_kind_is_a_type_that_is_not_taken(#[case] kind: &str, #[case] is_fine: bool) {
        assert_eq!(check_kind(kind).is_ok(), is_fine);
    }

    #[rstest]
    #[case("shop.example", true)]
    #[case("a-b.c2.example.com", true)]
    #[case("shop", false)]
    #[case("Shop.example", false)]
    #[case("shop..example", false)]
    #[case("-shop.example", false)]
    #[case("apps.k8s.io", false)]
    #[case("kubernetes.io", false)]
    #[case("transom.dev", false)]
    fn a_group_is_a_domain_of_ones_own(#[case] group: &str, #[case] is_fine: bool) {
        assert_eq!(check_group(group).is_ok(), is_fine);
    }

    #[test]
    fn the_kind_follows_from_the_name() {
        assert_eq!(kind_of("web-shop2-x"), "WebShop2X");
    }

    #[test]
    fn the_sdk_is_a_folder_or_a_version() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let path = format!("path = \"{}\"", root.join("plugins/sdk").display());
        assert_eq!(dependency(root.to_str()).unwrap(), path);
        assert_eq!(dependency(root.join("plugins/sdk").to_str()).unwrap(), path);
        assert!(dependency(root.join("plugins").to_str()).unwrap_err().to_string().contains("has no SDK"));
        assert!(dependency(Some("v2.0.1-rc.1")).unwrap().ends_with("tag = \"v2.0.1-rc.1\""));
        assert!(dependency(None).unwrap().ends_with(concat!("tag = \"v", env!("CARGO_PKG_VERSION"), "\"")));
        for wrong in ["", "2", "2.0", "/nowhere", "1.0.0\", x = \""] {
            assert!(dependency(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn dependencies_are_those_of_the_sdk() {
        let version = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} = {{ version"))).map(str::to_owned);
            line.and_then(|line| line.split('"').nth(1).map(str::to_owned)).unwrap_or_else(|| panic!("no {name}"))
        };
        let workspace = include_str!("../../../../Cargo.toml");
        let (_, project) = FILES[0];
        for name in ["k8s-openapi", "kube", "schemars", "serde", "serde_json"] {
            assert_eq!(version(project, name), version(workspace, name), "{name}");
        }
        let rust = |text: &str| text.lines().find(|line| line.starts_with("rust-version")).map(str::to_owned);
        assert_eq!(rust(project), rust(workspace));
    }
}
