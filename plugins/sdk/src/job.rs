//! Runs of Jobs: once for each content, however long the Job itself stays.
//!
//! A Job that has finished may go: by `ttlSecondsAfterFinished`, or because somebody tidies up. Its absence is not drift,
//! so what it achieved is kept in the status of the primary.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::health::{Health, State};
use crate::names;

/// In one status: as many as a plan has room for, and in an order that has the latest first.
const MAX_RUNS: usize = 500;

/// What became of a Job (or of a pod that runs to its end). Part of the status of a primary.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct JobRun {
    /// Name of the Job.
    pub name: String,
    /// Hash of its `spec`: another spec is another run. Empty: whatever it was.
    pub content: String,
    /// How far the run is.
    pub outcome: JobOutcome,
    /// The Job is deleted by itself some time after it has finished (`ttlSecondsAfterFinished`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub expires: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// How far a run is.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobOutcome {
    /// It was seen, and had not finished.
    Running,
    /// It has succeeded.
    Complete,
    /// It has failed.
    Failed,
}

/// Runs of the Jobs of one primary, for [`Plan::run_once`](crate::Plan::run_once): those of its status before, and those
/// for its next status.
#[derive(Debug, Clone, Default)]
pub struct JobRuns {
    known: Vec<JobRun>,
    now: Vec<JobRun>,
}

impl JobRuns {
    /// With what the status says.
    #[must_use]
    pub fn new(known: &[JobRun]) -> Self {
        Self { known: known.to_vec(), now: Vec::new() }
    }

    /// The Job with this name has succeeded, whatever it consists of: for what older versions of a plugin remembered.
    pub fn complete(&mut self, name: &str) {
        if self.known.iter().all(|run| run.name != name) {
            let (outcome, message) = (JobOutcome::Complete, String::new());
            let run = JobRun { name: name.to_owned(), content: String::new(), outcome, expires: false, message };
            self.known.push(run);
        }
    }

    /// How the run of this Job ended, as far as the status says; none while it runs.
    #[must_use]
    pub fn ended(&self, name: &str) -> Option<Health> {
        self.known.iter().find(|run| run.name == name)?.health()
    }

    /// For the next status, when the plan has all Jobs that there should be: runs of other Jobs are forgotten.
    #[must_use]
    pub fn into_status(self) -> Vec<JobRun> {
        self.now
    }

    /// For the next status, when the plan was not made to its end: what is known of Jobs that it does not have stays.
    #[must_use]
    pub fn into_status_with_rest(self) -> Vec<JobRun> {
        let Self { known, mut now } = self;
        let is_open = |run: &JobRun, now: &[JobRun]| now.iter().all(|other| other.name != run.name);
        let rest: Vec<JobRun> = known.into_iter().filter(|run| is_open(run, &now)).collect();
        now.extend(rest);
        now.truncate(MAX_RUNS); // the oldest go
        now
    }

    /// What the status says of the Job with this name, if it had this content.
    pub(crate) fn known(&self, name: &str, content: &str) -> Option<&JobRun> {
        self.known.iter().find(|run| run.name == name && (run.content == content || run.content.is_empty()))
    }

    pub(crate) fn keep(&mut self, run: JobRun) {
        self.now.retain(|other| other.name != run.name);
        self.now.push(run);
    }
}

/// A live Job.
pub(crate) struct Live {
    pub(crate) health: Health,
    /// It has `ttlSecondsAfterFinished`.
    pub(crate) expires: bool,
    /// It was written as it is planned now.
    pub(crate) is_current: bool,
}

/// A planned Job: what it is and what is known of it.
pub(crate) struct Seen<'a> {
    pub(crate) name: &'a str,
    pub(crate) content: &'a str,
    /// By what is planned.
    pub(crate) expires: bool,
    pub(crate) live: Option<Live>,
    pub(crate) known: Option<&'a JobRun>,
}

/// What is to be remembered; none while nothing of this content was seen, or when it is to run (again).
pub(crate) fn judge(seen: &Seen<'_>) -> Option<JobRun> {
    let known = seen.known.map(|known| JobRun { content: seen.content.to_owned(), ..known.clone() });
    let run = |outcome: JobOutcome, expires: bool, message: String| {
        Some(JobRun { name: seen.name.to_owned(), content: seen.content.to_owned(), outcome, expires, message })
    };
    // it succeeded once: whatever lives now, of this content, has nothing left to do
    if known.as_ref().is_some_and(|known| known.outcome == JobOutcome::Complete) {
        return known;
    }
    let expired = seen.expires || known.as_ref().is_some_and(|known| known.expires);
    match (&seen.live, known.as_ref().map(|known| known.outcome)) {
        (Some(live), _) if live.is_current => {
            let (outcome, message) = match live.health.state {
                State::Ready => (JobOutcome::Complete, String::new()),
                State::Failed => (JobOutcome::Failed, format!("{}: {}", live.health.reason, live.health.message)),
                _ => (JobOutcome::Running, String::new()),
            };
            run(outcome, expired || live.expires, message)
        }
        // only its labels differ, or it has not been written yet
        (Some(_), _) => known,
        (None, Some(JobOutcome::Failed)) if expired => known,
        // Jobs expire once they have finished, and not before
        (None, Some(JobOutcome::Running)) if expired => run(JobOutcome::Complete, true, String::new()),
        // deleted while it ran, or after it had failed: it is tried again
        (None, _) => None,
    }
}

impl JobRun {
    /// As the Job itself would be judged, were it still there; none while it runs.
    pub(crate) fn health(&self) -> Option<Health> {
        let (state, reason, message) = match self.outcome {
            JobOutcome::Running => return None,
            JobOutcome::Complete => (State::Ready, "Complete", "it is complete"),
            JobOutcome::Failed => {
                let (reason, message) = self.message.split_once(": ").unwrap_or(("Failed", &self.message));
                (State::Failed, reason, message)
            }
        };
        Some(Health { state, reason: reason.to_owned(), message: message.to_owned() })
    }
}

/// Hash of what an object does: its `spec`.
pub(crate) fn content(object: &Value) -> String {
    let spec = object.get("spec").map(Value::to_string).unwrap_or_default();
    names::hash_text(&spec)
}

/// Does the object say that it is deleted once it has finished?
pub(crate) fn expires(object: &Value) -> bool {
    object.pointer("/spec/ttlSecondsAfterFinished").is_some_and(Value::is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(outcome: JobOutcome, expires: bool) -> JobRun {
        JobRun { name: "a".into(), content: "1".into(), outcome, expires, message: String::new() }
    }

    fn live(state: State) -> Option<Live> {
        let health = Health { state, reason: "R".into(), message: "m".into() };
        Some(Live { health, expires: false, is_current: true })
    }

    fn outcome(expires: bool, live: Option<Live>, known: Option<&JobRun>) -> Option<JobOutcome> {
        judge(&Seen { name: "a", content: "1", expires, live, known }).map(|run| run.outcome)
    }

    #[test]
    fn a_run_is_what_was_seen_of_it() {
        assert_eq!(outcome(false, None, None), None);
        assert_eq!(outcome(false, live(State::Progressing), None), Some(JobOutcome::Running));
        assert_eq!(outcome(false, live(State::Ready), None), Some(JobOutcome::Complete));
        assert_eq!(outcome(false, live(State::Failed), None), Some(JobOutcome::Failed));
    }

    #[test]
    fn a_job_that_is_gone_has_run_unless_it_was_stopped() {
        let cases = [
            (JobOutcome::Complete, false, Some(JobOutcome::Complete)),
            (JobOutcome::Complete, true, Some(JobOutcome::Complete)),
            (JobOutcome::Failed, true, Some(JobOutcome::Failed)),
            (JobOutcome::Failed, false, None),
            (JobOutcome::Running, true, Some(JobOutcome::Complete)),
            (JobOutcome::Running, false, None),
        ];
        for (before, expires, expected) in cases {
            assert_eq!(outcome(false, None, Some(&known(before, expires))), expected, "{before:?} {expires}");
            assert_eq!(
                outcome(expires, None, Some(&known(before, false))),
                expected,
                "{before:?} {expires}, as planned"
            );
        }
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_its_controller() {
        let mut run = known(JobOutcome::Failed, true);
        run.message = "BackoffLimitExceeded: Job has reached the specified backoff limit".into();
        let health = run.health().unwrap();
        assert_eq!((health.state, &*health.reason), (State::Failed, "BackoffLimitExceeded"));
        assert_eq!(health.message, "Job has reached the specified backoff limit");
    }

    #[test]
    fn what_a_plan_does_not_have_is_kept_only_when_it_is_not_whole() {
        let other = JobRun { name: "b".into(), ..known(JobOutcome::Complete, false) };
        let mut runs = JobRuns::new(&[known(JobOutcome::Running, false), other.clone()]);
        runs.keep(known(JobOutcome::Complete, false));
        assert_eq!(runs.clone().into_status(), [known(JobOutcome::Complete, false)]);
        assert_eq!(runs.into_status_with_rest(), [known(JobOutcome::Complete, false), other]);
    }

    #[test]
    fn what_is_remembered_by_name_alone_holds_for_any_content() {
        let mut runs = JobRuns::new(&[]);
        runs.complete("a");
        let run = judge(&Seen { name: "a", content: "2", expires: false, live: None, known: runs.known("a", "2") });
        assert_eq!(run.map(|run| (run.outcome, run.content)), Some((JobOutcome::Complete, "2".into())));
        assert!(runs.ended("a").is_some_and(|health| health.is_ready()) && runs.ended("b").is_none());
    }
}
