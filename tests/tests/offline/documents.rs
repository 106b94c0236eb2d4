//! Every command in the documentation is one that the programs understand. `cluster/tutorial.rs` runs a page of them.

use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use transom::cli::Cli;

/// `README.md`, the pages of `docs/` and those of the chart, but not decisions, which say what once was.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut paths =
        vec![root.join("README.md"), root.join("deploy/README.md"), root.join("deploy/chart/templates/NOTES.txt")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths.retain(|path| path.is_file());
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// What is typed at a prompt, one command each: of `$ A=b transom x | kubectl y   # why` it is `transom x`.
fn typed(page: &str) -> Vec<String> {
    let page = page.replace("\\\n", " ");
    let lines = page.lines().filter_map(|line| line.strip_prefix("$ "));
    let commands = lines.flat_map(|line| line.split(" #").next().unwrap_or_default().split("&&"));
    let commands = commands.map(|command| command.split(['|', '>', '<']).next().unwrap_or_default());
    let words = commands.map(|command| command.split_whitespace().skip_while(|word| word.contains('=')));
    words.map(|words| words.collect::<Vec<_>>().join(" ").replace(['"', '\''], "")).collect()
}

/// Commands that are named in a sentence, where arguments may be left out or stand for something.
fn named(page: &str) -> Vec<&str> {
    let spans = page.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    spans.filter(|span| span.starts_with("transom ")).collect()
}

/// What of a command that is named does not exist.
fn unknown(span: &str) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    for word in span.split_whitespace().skip(1) {
        if command.has_subcommands() {
            let Some(inner) = command.find_subcommand(word) else { return Some(word.to_owned()) };
            command = inner.clone();
        } else if let Some(flag) = word.trim_start_matches('[').strip_prefix("--") {
            let flag = flag.split(['=', ']']).next().unwrap_or_default();
            if !command.get_arguments().any(|argument| argument.get_long() == Some(flag)) {
                return Some(word.to_owned());
            }
        }
    }
    None
}

#[test]
fn commands_that_are_typed_are_understood() {
    let mut found = 0;
    for (path, page) in pages() {
        for command in typed(&page).iter().filter(|command| command.starts_with("transom ")) {
            found += 1;
            let parsed = Cli::command().try_get_matches_from(command.split(' '));
            assert!(parsed.is_ok(), "{}: {command}\n{}", path.display(), parsed.unwrap_err());
        }
    }
    assert!(found > 30, "{found} commands were found");
}

#[test]
fn commands_that_are_named_exist() {
    let mut found = 0;
    for (path, page) in pages() {
        for span in named(&page) {
            found += 1;
            assert_eq!(unknown(span), None, "{}: `{span}`", path.display());
        }
    }
    assert!(found > 20, "{found} commands were found");
}

#[test]
fn a_command_is_found_among_what_the_shell_does_with_it() {
    let page =
        "text\n$ A=1 transom plugin list -o json | jq . # all\n$ cd x && transom run \\\n  --listen \"$PLACE\"\n";
    assert_eq!(typed(page), ["transom plugin list -o json", "cd x", "transom run --listen $PLACE"]);
    assert_eq!(
        named("`transom run`, `kubectl`\n```console\n$ `transom x`\n```\n`transom dev`"),
        ["transom run", "transom dev"]
    );
    assert_eq!(unknown("transom plugin rollback NAME [--to VERSION]"), None);
    assert_eq!(unknown("transom plugin undo NAME"), Some("undo".into()));
    assert_eq!(unknown("transom run --nothing"), Some("--nothing".into()));
}
