//! Programs that are run to their end.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt;

/// How long a program may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `command` with our own output streams.
///
/// # Errors
/// When it cannot be started or fails; [`interrupt::Interrupted`] after Ctrl-C, when the program and all that it
/// started have been ended.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = wait(spawn(command)?)?;
    expect_success(command, status)
}

/// Runs `command` and returns what it wrote to its standard output; its error output is shown only when it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    output_with(command, None)
}

/// The same with `input` on its standard input.
pub(crate) fn output_with(command: &mut Command, input: Option<&str>) -> Result<String> {
    use std::io::Write as _;

    interrupt::check()?;
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // What these programs read is smaller than what they may have written before they read it all.
        stdin.write_all(text.as_bytes()).with_context(|| format!("failed to write to {}", name(command)))?;
    }
    let output = child.wait_with_output().with_context(|| format!("failed to wait for {}", name(command)))?;
    if !output.status.success() {
        // Ctrl-C reaches only us, but a SIGTERM for the whole container reaches everyone.
        interrupt::check()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(command), describe(output.status), stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} wrote something that is not text", name(command)))
}

/// Starts `command` in a process group of its own, so that Ctrl-C reaches it through us: in order, and with all that it
/// started itself.
pub(crate) fn spawn(command: &mut Command) -> Result<Child> {
    command.process_group(0).spawn().with_context(|| format!("failed to start `{}`: is it installed?", name(command)))
}

/// Waits for `child`; ends it and its whole group on Ctrl-C.
pub(crate) fn wait(mut child: Child) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            // Its own group was interrupted with us, or it was the group's leader that told the others.
            interrupt::check()?;
            return Ok(status);
        }
        if interrupt::asked() {
            end(&mut child)?;
            return Err(interrupt::Interrupted.into());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Ends `child` and all that it started: asks first, then insists.
pub(crate) fn end(child: &mut Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map_or(Ok(()), |group| kill_process_group(group, signal));
    if child.try_wait()?.is_none() {
        signal(Signal::TERM).ok();
        let deadline = Instant::now() + GRACE;
        while child.try_wait()?.is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        signal(Signal::KILL).ok();
        child.wait()?;
    }
    Ok(())
}

/// An error that names the program and its arguments unless `status` is a success.
pub(crate) fn expect_success(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({})", line(command), describe(status));
    }
    Ok(())
}

/// A command for cargo that does not see what `cargo run` set for us.
///
/// Build scripts watch some of these variables (`ring` watches `CARGO_MANIFEST_DIR`): with them, `cargo xtask test` and
/// `cargo test` would each rebuild what the other one had built.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    without_cargo_run(&mut command);
    command
}

/// Removes what `cargo run` added to the environment.
pub(crate) fn without_cargo_run(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if is_set_by_cargo_run(text) {
            command.env_remove(text);
        }
    }
}

fn is_set_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || matches!(name, "CARGO_PRIMARY_PACKAGE" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME")
}

/// The last `lines` lines of the file at `path`; what there is of it, also when that is nothing.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    // Enough for any such number of lines, and never a whole log.
    const MOST_BYTES: u64 = 256 << 10;

    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = fs::metadata(path)?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    last_lines(&String::from_utf8_lossy(&read().unwrap_or_default()), lines)
}

/// The last `count` lines of `text`.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(|part| part.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_what_it_said() {
        let error = output(Command::new("/bin/sh").args(["-c", "echo no such thing >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c echo no such thing >&2; exit 3` failed (exit code 3): no such thing");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(output_with(&mut Command::new("cat"), Some("one\ntwo\n")).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\n", 2), "a");
        assert_eq!(tail(Path::new("/nonexistent"), 2), "");
    }

    #[test]
    fn only_what_cargo_run_sets_is_removed() {
        assert!(is_set_by_cargo_run("CARGO_MANIFEST_DIR") && is_set_by_cargo_run("CARGO_PKG_NAME"));
        assert!(!is_set_by_cargo_run("CARGO_HOME") && !is_set_by_cargo_run("CARGO_TARGET_DIR"));
    }

    #[test]
    fn ending_takes_the_whole_group_along() {
        let mut child =
            spawn(Command::new("/bin/sh").args(["-c", "sleep 600 & echo $!; wait"]).stdout(Stdio::piped())).unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        end(&mut child).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", line.trim())).unwrap_or_default();
        let deadline = Instant::now() + GRACE;
        while !stat().is_empty() && !stat().contains(") Z ") && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(stat().is_empty() || stat().contains(") Z "), "still running: {}", stat());
    }
}
