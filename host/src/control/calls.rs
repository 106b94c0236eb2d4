//! The calls of a plan: what is to be done outside Kubernetes, once.
//!
//! What became of the calls of the last plan is kept in memory, for as long as a plan has them: a call that succeeded is
//! not made again while it stays as it is. After a restart of the host it may be, which is why calls must be idempotent.
//!
//! # One that fails
//! The plugin is called again and sees the failure first. If its plan asks for the same again, the reconcile has
//! failed, and it is made again after the usual wait.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::plan::contract::{Answer, Call, CallOutcome, CallResult, Problem, Value};

/// Of one response that is kept for the plugin: at most 256 KiB for one primary.
const MAX_RESPONSE: usize = 16 << 10;

/// Calls of one primary. At most as many as a plan can have.
#[derive(Debug, Default)]
pub struct Calls {
    /// The primary's. Another of the same name knows nothing of these.
    uid: String,
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    /// Of endpoint, path and message.
    digest: [u8; 32],
    outcome: CallOutcome,
    /// It was made in this reconcile.
    tried: bool,
}

/// What is to be done about the calls of a plan.
#[derive(Debug, PartialEq)]
pub enum Next<'a> {
    /// All of them succeeded.
    Nothing,
    /// Make these.
    Make(Vec<&'a Call>),
    /// This one failed a moment ago, and the plugin asks for it again.
    Failed(&'a Call, Problem),
}

impl Calls {
    /// A reconcile of the primary with this UID begins.
    pub fn begin(&mut self, uid: &str) {
        if self.uid != uid {
            *self = Self { uid: uid.to_owned(), known: BTreeMap::new() };
        }
        self.known.values_mut().for_each(|known| known.tried = false);
    }

    /// For the plugin, sorted by key.
    #[must_use]
    pub fn results(&self) -> Vec<CallResult> {
        let result = |(key, known): (&String, &Known)| CallResult { key: key.clone(), outcome: known.outcome.clone() };
        self.known.iter().map(result).collect()
    }

    /// This is what the plan asks for now; what it does not ask for is forgotten.
    pub fn plan(&mut self, calls: &[Call]) {
        self.known.retain(|key, _| calls.iter().any(|call| call.key == *key));
        for call in calls {
            let digest = digest(call);
            let known = self.known.get(&call.key).is_some_and(|known| known.digest == digest);
            if !known {
                let open = Known { digest, outcome: CallOutcome::Pending, tried: false };
                self.known.insert(call.key.clone(), open);
            }
        }
    }

    /// What is to be done about the calls of a plan that was made known by [`plan`](Self::plan).
    #[must_use]
    pub fn next<'a>(&self, calls: &'a [Call]) -> Next<'a> {
        let (mut make, mut failed) = (Vec::new(), None);
        for call in calls {
            match self.known.get(&call.key) {
                Some(Known { outcome: CallOutcome::Succeeded(_), .. }) => {}
                Some(Known { outcome: CallOutcome::Failed(problem), tried: true, .. }) => {
                    failed = failed.or(Some((call, problem)));
                }
                _ => make.push(call),
            }
        }
        match failed {
            _ if !make.is_empty() => Next::Make(make),
            Some((call, problem)) => Next::Failed(call, problem.clone()),
            None => Next::Nothing,
        }
    }

    /// A call was answered. Returns why it failed.
    pub fn ended(&mut self, call: &Call, answer: Answer) -> Option<Problem> {
        let outcome = outcome(call, answer);
        let problem = match &outcome {
            CallOutcome::Failed(problem) => Some(problem.clone()),
            CallOutcome::Pending | CallOutcome::Succeeded(_) => None,
        };
        self.known.insert(call.key.clone(), Known { digest: digest(call), outcome, tried: true });
        problem
    }
}

fn outcome(call: &Call, answer: Answer) -> CallOutcome {
    let failed = |reason: &str, message: String| CallOutcome::Failed(Problem { reason: reason.into(), message });
    let path = &call.path;
    match answer {
        Answer::Found(Value::Bytes(message)) if message.len() <= MAX_RESPONSE => CallOutcome::Succeeded(message),
        Answer::Found(_) => failed("TooLarge", format!("{path}: the response is larger than {MAX_RESPONSE} bytes")),
        Answer::Absent => failed("NotFound", format!("{path}: NotFound")),
        Answer::Denied(message) => failed(DENIED, message),
        Answer::Failed(problem) => CallOutcome::Failed(problem),
    }
}

/// Reason of a call that the record does not grant.
pub const DENIED: &str = "CallDenied";

fn digest(call: &Call) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [call.endpoint.as_bytes(), call.path.as_bytes(), &call.message] {
        // the length keeps the end of one part from being read as the start of the next
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: &str, message: &str) -> Call {
        Call { key: key.into(), endpoint: "e".into(), path: "/p.S/M".into(), message: message.into() }
    }

    fn done() -> Answer {
        Answer::Found(Value::Bytes(b"ok".to_vec()))
    }

    fn down() -> Problem {
        Problem { reason: "Unavailable".into(), message: "down".into() }
    }

    #[test]
    fn a_call_that_succeeded_is_not_made_again_while_the_plan_has_it_as_it_is() {
        let (mut calls, plan) = (Calls::default(), [call("a", "1"), call("b", "1")]);
        calls.begin("u");
        calls.plan(&plan);
        assert_eq!(calls.next(&plan), Next::Make(plan.iter().collect()));
        assert_eq!(calls.ended(&plan[0], done()), None);
        calls.begin("u");
        calls.plan(&plan);
        assert_eq!(calls.next(&plan), Next::Make(vec![&plan[1]]));
        calls.ended(&plan[1], done());
        assert_eq!(calls.next(&plan), Next::Nothing);
        let changed = [call("a", "2"), call("b", "1")];
        calls.plan(&changed);
        assert_eq!(calls.next(&changed), Next::Make(vec![&changed[0]]));
        calls.plan(&[]);
        assert_eq!(calls.results(), []);
        calls.plan(&plan);
        assert_eq!(calls.next(&plan), Next::Make(plan.iter().collect()), "left out and asked for again");
    }

    #[test]
    fn the_plugin_sees_a_failure_before_the_call_is_made_again() {
        let (mut calls, plan) = (Calls::default(), [call("a", "1")]);
        calls.begin("u");
        calls.plan(&plan);
        assert_eq!(calls.ended(&plan[0], Answer::Failed(down())), Some(down()));
        let seen = CallResult { key: "a".into(), outcome: CallOutcome::Failed(down()) };
        assert_eq!(calls.results(), [seen]);
        calls.plan(&plan);
        assert_eq!(calls.next(&plan), Next::Failed(&plan[0], down()));
        let more = [call("a", "1"), call("b", "1")];
        calls.plan(&more);
        assert_eq!(calls.next(&more), Next::Make(vec![&more[1]]), "others are made first");
        calls.begin("u");
        calls.plan(&plan);
        assert_eq!(calls.next(&plan), Next::Make(vec![&plan[0]]), "the next reconcile tries again");
    }

    #[test]
    fn another_object_of_the_same_name_has_calls_of_its_own() {
        let (mut calls, plan) = (Calls::default(), [call("a", "1")]);
        calls.begin("u");
        calls.plan(&plan);
        calls.ended(&plan[0], done());
        calls.begin("v");
        assert_eq!(calls.results(), []);
    }

    #[test]
    fn answers_that_are_no_success_have_a_reason() {
        let mut calls = Calls::default();
        let mut reason = |answer| calls.ended(&call("a", "1"), answer).map(|problem| problem.reason);
        assert_eq!(reason(Answer::Absent).as_deref(), Some("NotFound"));
        assert_eq!(reason(Answer::Denied("no".into())).as_deref(), Some(DENIED));
        let large = Answer::Found(Value::Bytes(vec![0; MAX_RESPONSE + 1]));
        assert_eq!(reason(large).as_deref(), Some("TooLarge"));
    }
}
