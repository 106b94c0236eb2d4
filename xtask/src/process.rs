//! Programs that go on running after we end, and are found again by what was written down about them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to end by itself. The slowest, the API server, takes about a second.
const GRACE: Duration = Duration::from_secs(5);

/// Which process it is: a PID alone would be that of a stranger after the next reboot or enough other processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// What we call it: `etcd`.
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since the machine was: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    started: u64,
    /// What `/proc/PID/exe` points at.
    program: PathBuf,
}

impl Identity {
    /// The line in the file of PIDs.
    fn to_line(&self) -> String {
        format!("{} {} {} {}", self.name, self.pid, self.started, self.program.display())
    }

    fn from_line(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, ' ');
        Some(Self {
            name: fields.next()?.into(),
            pid: fields.next()?.parse().ok()?,
            started: fields.next()?.parse().ok()?,
            program: fields.next()?.into(),
        })
    }

    /// Whether this very process is still running (a zombie is not).
    pub(crate) fn is_running(&self) -> bool {
        let Some((started, program)) = look_up(self.pid) else {
            return false;
        };
        started == self.started && program == self.program
    }

    fn send(&self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_running(), Pid::from_raw(self.pid)) {
            // It may have ended in between, which is what was wanted.
            kill_process(pid, signal).ok();
        }
    }
}

/// Start time and program of a running process.
fn look_up(pid: i32) -> Option<(u64, PathBuf)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let started = start_time(&stat)?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // Linux marks a file that was replaced meanwhile, as a rebuilt binary is.
    let program =
        program.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map_or(program.clone(), PathBuf::from);
    Some((started, program))
}

/// Field 22 of `/proc/PID/stat`, or nothing for a zombie. The second field is a name in brackets that may contain
/// anything, brackets and blanks included: fields are counted from the last bracket.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Processes that belong together, written down in one file, and stopped together: the last one started goes first.
#[derive(Debug)]
pub(crate) struct Group {
    file: PathBuf,
    members: Vec<Identity>,
    /// Those that we started ourselves, which have to be waited for.
    children: Vec<Child>,
}

impl Group {
    /// The group that the file at `path` speaks of, with those of its processes that are still running.
    pub(crate) fn open(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let members = text.lines().filter_map(Identity::from_line).filter(Identity::is_running).collect();
        Self { file: path.into(), members, children: Vec::new() }
    }

    /// What runs.
    pub(crate) fn members(&self) -> &[Identity] {
        &self.members
    }

    /// Starts `command` with its output in the file `log`. It gets a process group of its own: Ctrl-C is for us.
    pub(crate) fn start(&mut self, name: &str, command: &mut Command, log: &Path) -> Result<Identity> {
        let output = File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
        let errors = output.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {name} ({})", command.get_program().to_string_lossy()))?;
        let pid = i32::try_from(child.id()).context("a PID that does not fit")?;
        self.children.push(child);
        let Some((started, program)) = look_up(pid) else {
            bail!("{name} ended at once; the end of {}:\n{}", log.display(), crate::command::tail(log, 20));
        };
        let identity = Identity { name: name.into(), pid, started, program };
        self.members.push(identity.clone());
        self.write()?;
        Ok(identity)
    }

    /// Leaves what runs running: it is in the file.
    ///
    /// Without this, dropping the group stops it.
    pub(crate) fn forget(&mut self) {
        self.members.clear();
        self.children.clear();
    }

    /// Stops all of them, and waits for them.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let members = std::mem::take(&mut self.members);
        self.end(&members);
        self.write()
    }

    /// One after the other: an API server whose etcd is gone does not end by itself.
    fn end(&mut self, members: &[Identity]) {
        for member in members.iter().rev() {
            member.send(Signal::TERM);
            let deadline = Instant::now() + GRACE;
            while member.is_running() {
                if Instant::now() > deadline {
                    member.send(Signal::KILL);
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn write(&self) -> Result<()> {
        let result = if self.members.is_empty() {
            match fs::remove_file(&self.file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            let lines: Vec<String> = self.members.iter().map(Identity::to_line).collect();
            fs::write(&self.file, lines.join("\n") + "\n")
        };
        result.with_context(|| format!("failed to write {}", self.file.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever only looked at what runs does not end it.
        if !self.children.is_empty()
            && let Err(error) = self.stop()
        {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path, group: &mut Group) -> Identity {
        group.start("sleeper", Command::new("sleep").arg("600"), &folder.join("log")).unwrap()
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(start_time(stat), Some(4711));
        assert_eq!(start_time(&stat.replace(" S ", " Z ")), None, "a zombie runs no more");
        assert_eq!(start_time("nonsense"), None);
    }

    #[test]
    fn an_identity_survives_being_written_down() {
        let identity = Identity { name: "etcd".into(), pid: 7, started: 4711, program: "/some where/etcd".into() };
        assert_eq!(Identity::from_line(&identity.to_line()), Some(identity));
        assert_eq!(Identity::from_line("etcd 7"), None);
    }

    #[test]
    fn what_was_started_is_found_by_the_next_one_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pids");
        let mut first = Group::open(&file);
        let sleeper = sleeper(folder.path(), &mut first);
        let mut second = Group::open(&file);
        assert_eq!(second.members(), std::slice::from_ref(&sleeper));
        second.stop().unwrap();
        assert!(!sleeper.is_running() && !file.exists());
    }

    #[test]
    fn a_stranger_with_the_same_pid_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut group = Group::open(&folder.path().join("pids"));
        let sleeper = sleeper(folder.path(), &mut group);
        for stranger in [
            Identity { started: sleeper.started + 1, ..sleeper.clone() },
            Identity { program: "/usr/bin/etcd".into(), ..sleeper.clone() },
        ] {
            assert!(!stranger.is_running());
            stranger.send(Signal::KILL);
        }
        assert!(sleeper.is_running());
    }
}
