//! Where a version on its way goes next. Pure: from the record, its status and what was seen of the objects.

use std::time::Duration;

use jiff::Timestamp;

use super::health::Health;
use crate::api::rollout::{Rollout, RolloutState, RolloutStatus, Strategy};

/// What a person wants, from the annotation of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Wish {
    /// Go on from this step of this attempt.
    Approve { id: String, step: u32 },
    /// Take this attempt back.
    Abort { id: String },
    /// Let this version serve all at once: it has served before.
    Immediate { revision: String },
}

impl Wish {
    /// None when it is no wish; the annotation is people's.
    pub(in crate::registry) fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        Some(match words.as_slice() {
            ["approve", id, step] => Self::Approve { id: (*id).into(), step: step.parse().ok()? },
            ["abort", id] => Self::Abort { id: (*id).into() },
            ["immediate", revision] => Self::Immediate { revision: (*revision).into() },
            _ => return None,
        })
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::registry) enum Move {
    /// Nothing, for now.
    Stay,
    /// Serve the objects of this step.
    Enter(u32),
    /// Serve all objects.
    Promote,
    /// A person has to look at it.
    Stop(RolloutState, String),
    /// Serve none.
    Back(RolloutState, String),
}

/// The move of a version that was planned, or serves a part. `health` is none where it serves none.
pub(in crate::registry) fn next(
    policy: &Rollout,
    status: &RolloutStatus,
    wish: Option<&Wish>,
    health: Option<&Health>,
    now: Timestamp,
) -> Move {
    if status.state.is_over() {
        return Move::Stay;
    }
    if matches!(wish, Some(Wish::Abort { id }) if *id == status.id) {
        return Move::Back(RolloutState::Aborted, "aborted by a person".into());
    }
    let is_approved = matches!(wish, Some(Wish::Approve { id, step }) if *id == status.id && *step == status.step);
    let failed = health.and_then(|health| health.failure(&policy.gates));
    let stop = |why: String| {
        if policy.rollback { Move::Back(RolloutState::RolledBack, why) } else { Move::Stop(RolloutState::Paused, why) }
    };
    match status.state {
        RolloutState::Held | RolloutState::Paused | RolloutState::Waiting if is_approved => forward(policy, status),
        RolloutState::Waiting | RolloutState::Baking if failed.is_some() => stop(failed.unwrap_or_default()),
        RolloutState::Waiting if status.step == 0 || policy.strategy == Strategy::Manual => Move::Stay,
        // the last may have become automatic since
        RolloutState::Baking | RolloutState::Waiting => {
            let (Some(health), false) = (health, is_baking(policy, status, now)) else {
                return Move::Stay;
            };
            if health.pending > 0 {
                return Move::Stay;
            }
            match (health.loss(&policy.gates), policy.strategy) {
                (Some(why), _) => stop(why),
                (None, Strategy::Auto) => forward(policy, status),
                (None, Strategy::Manual) => Move::Stop(RolloutState::Waiting, approval(status)),
            }
        }
        _ => Move::Stay,
    }
}

/// The first move of a version whose plan is known. `held` is the gate that the plan does not pass.
pub(in crate::registry) fn first(policy: &Rollout, status: &RolloutStatus, held: Option<String>) -> Move {
    match (held, policy.strategy) {
        (Some(why), _) => Move::Stop(RolloutState::Held, why),
        (None, Strategy::Manual) => Move::Stop(RolloutState::Waiting, approval(status)),
        (None, Strategy::Auto) => forward(policy, status),
    }
}

fn forward(policy: &Rollout, status: &RolloutStatus) -> Move {
    let done = usize::try_from(status.step).unwrap_or(usize::MAX);
    if done < policy.steps.len() { Move::Enter(status.step + 1) } else { Move::Promote }
}

fn approval(status: &RolloutStatus) -> String {
    match status.step {
        0 => "planned; waits for transom plugin approve".into(),
        step => format!("step {step} of {} is well; waits for transom plugin approve", status.steps),
    }
}

/// The gates are to be watched for longer.
fn is_baking(policy: &Rollout, status: &RolloutStatus, now: Timestamp) -> bool {
    let index = usize::try_from(status.step).unwrap_or(usize::MAX).checked_sub(1);
    // a step that the record no longer has is over
    let step = index.and_then(|index| policy.steps.get(index));
    let (Some(step), Some(since)) = (step, &status.since) else {
        return false;
    };
    let passed = Duration::try_from(now.duration_since(since.0)).unwrap_or_default();
    passed < Duration::from_secs(step.bake_seconds.into())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::{Just, prop_assert, prop_assert_eq, prop_oneof, proptest};
    use rstest::rstest;

    use super::*;
    use crate::api::rollout::{Gates, RolloutStep};

    fn policy(strategy: Strategy, rollback: bool) -> Rollout {
        let step = RolloutStep { percent: Some(10), label_selector: None, bake_seconds: 60 };
        Rollout { strategy, steps: vec![step.clone(), step], gates: Gates::default(), rollback }
    }

    fn status(state: RolloutState, step: u32) -> RolloutStatus {
        RolloutStatus {
            id: "r-1".into(),
            revision: "r".into(),
            digest: String::new(),
            version: String::new(),
            state,
            step,
            steps: 2,
            since: Some(Time(Timestamp::from_second(1_000).unwrap())),
            generation: 1,
            objects: 0,
            message: String::new(),
        }
    }

    fn health(pending: usize, failed: usize, not_ready: usize) -> Health {
        Health { objects: 10, pending, failed: vec!["x".into(); failed], not_ready: vec!["y".into(); not_ready] }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000 + seconds).unwrap()
    }

    fn approve(step: u32) -> Option<Wish> {
        Some(Wish::Approve { id: "r-1".into(), step })
    }

    #[rstest]
    #[case::bakes(Strategy::Auto, 59, health(0, 0, 0), Move::Stay)]
    #[case::is_done(Strategy::Auto, 60, health(0, 0, 0), Move::Enter(2))]
    #[case::waits_for_the_last_object(Strategy::Auto, 600, health(1, 0, 0), Move::Stay)]
    #[case::waits_for_a_person(Strategy::Manual, 60, health(0, 0, 0),
        Move::Stop(RolloutState::Waiting, "step 1 of 2 is well; waits for transom plugin approve".into()))]
    #[case::fails_at_once(Strategy::Auto, 1, health(9, 1, 0),
        Move::Back(RolloutState::RolledBack, "1 of 10 objects fail, 0 may, first x".into()))]
    #[case::may_not_be_ready_for_a_while(Strategy::Auto, 59, health(0, 0, 5), Move::Stay)]
    #[case::is_not_ready_in_the_end(Strategy::Auto, 60, health(0, 0, 1),
        Move::Back(RolloutState::RolledBack, "1 of 10 objects were Ready and are not, 0 may, first y".into()))]
    fn a_step_that_bakes(#[case] strategy: Strategy, #[case] seconds: i64, #[case] health: Health, #[case] to: Move) {
        let status = status(RolloutState::Baking, 1);
        assert_eq!(next(&policy(strategy, true), &status, None, Some(&health), at(seconds)), to);
    }

    #[test]
    fn the_last_step_leads_to_all() {
        let status = status(RolloutState::Baking, 2);
        let health = health(0, 0, 0);
        assert_eq!(next(&policy(Strategy::Auto, true), &status, None, Some(&health), at(60)), Move::Promote);
    }

    #[test]
    fn without_roll_back_a_failing_version_stays_where_it_is() {
        let to =
            next(&policy(Strategy::Auto, false), &status(RolloutState::Baking, 1), None, Some(&health(0, 1, 0)), at(1));
        assert!(matches!(to, Move::Stop(RolloutState::Paused, _)), "{to:?}");
    }

    #[test]
    fn what_waits_goes_on_by_an_approval_of_this_very_step_only() {
        let policy = policy(Strategy::Manual, true);
        let planned = status(RolloutState::Waiting, 0);
        assert_eq!(next(&policy, &planned, approve(0).as_ref(), None, at(0)), Move::Enter(1));
        assert_eq!(next(&policy, &planned, approve(1).as_ref(), None, at(0)), Move::Stay);
        let other = Wish::Approve { id: "r-2".into(), step: 0 };
        assert_eq!(next(&policy, &planned, Some(&other), None, at(0)), Move::Stay);
        let held = status(RolloutState::Held, 0);
        assert_eq!(next(&policy, &held, approve(0).as_ref(), None, at(0)), Move::Enter(1));
        let last = status(RolloutState::Waiting, 2);
        assert_eq!(next(&policy, &last, approve(2).as_ref(), Some(&health(0, 0, 0)), at(0)), Move::Promote);
    }

    #[test]
    fn what_waits_is_still_watched() {
        let to = next(
            &policy(Strategy::Manual, true),
            &status(RolloutState::Waiting, 1),
            None,
            Some(&health(0, 1, 0)),
            at(999),
        );
        assert!(matches!(to, Move::Back(RolloutState::RolledBack, _)), "{to:?}");
    }

    #[test]
    fn a_plan_that_no_gate_holds_is_let_in() {
        let planned = status(RolloutState::Waiting, 0);
        assert_eq!(first(&policy(Strategy::Auto, true), &planned, None), Move::Enter(1));
        assert_eq!(first(&Rollout::default(), &planned, None), Move::Promote);
        let held = first(&Rollout::default(), &planned, Some("why".into()));
        assert_eq!(held, Move::Stop(RolloutState::Held, "why".into()));
        assert!(matches!(first(&policy(Strategy::Manual, true), &planned, None), Move::Stop(RolloutState::Waiting, _)));
    }

    #[rstest]
    #[case("approve r-1 2", approve(2))]
    #[case(" abort  r-1 ", Some(Wish::Abort { id: "r-1".into() }))]
    #[case("immediate r", Some(Wish::Immediate { revision: "r".into() }))]
    #[case("approve r-1", None)]
    #[case("approve r-1 x", None)]
    #[case("", None)]
    fn wishes_are_read(#[case] text: &str, #[case] wish: Option<Wish>) {
        assert_eq!(Wish::parse(text), wish);
    }

    proptest! {
        /// Whatever happens, a version that is over stays so, and no more is served than the next step.
        #[test]
        fn a_version_moves_by_one_step_or_back(
            state in prop_oneof![Just(RolloutState::Held), Just(RolloutState::Waiting), Just(RolloutState::Baking),
                Just(RolloutState::Paused), Just(RolloutState::RolledBack), Just(RolloutState::Aborted)],
            step in 0u32..4, approved in 0u32..4, manual: bool, rollback: bool,
            (pending, failed, lost) in (0usize..3, 0usize..3, 0usize..3), seconds in 0i64..120,
        ) {
            let policy = policy(if manual { Strategy::Manual } else { Strategy::Auto }, rollback);
            let status = status(state, step);
            let health = health(pending, failed, lost);
            let to = next(&policy, &status, approve(approved).as_ref(), Some(&health), at(seconds));
            match to {
                Move::Enter(n) => prop_assert_eq!(n, step + 1),
                Move::Promote => prop_assert!(step >= 2 && !state.is_over()),
                Move::Back(..) => prop_assert!(rollback && !state.is_over()),
                Move::Stop(to, _) => prop_assert!(to == RolloutState::Waiting || !rollback),
                Move::Stay => {}
            }
            if failed > 0 && state == RolloutState::Baking {
                prop_assert!(matches!(to_again(&policy, &status, &health, seconds), Move::Back(..) | Move::Stop(..)));
            }
        }
    }

    fn to_again(policy: &Rollout, status: &RolloutStatus, health: &Health, seconds: i64) -> Move {
        next(policy, status, None, Some(health), at(seconds))
    }
}
