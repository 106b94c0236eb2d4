//! The conversation with a plugin within one reconcile: it asks, the host answers and calls again, a bounded number of
//! times.

use super::contract::{Answered, Failure, Lookup, Plan, Request, Step};
use crate::api::plugin::Bounds;

/// Why a conversation was broken off.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundsError {
    /// The plugin would have to be called once more than allowed, or asked only for what it had been told.
    #[error("asked for more after {0} calls without finishing a plan")]
    TooManyRounds(u32),
    /// More lookups than allowed.
    #[error("asked for {asked} lookups, at most {limit} are allowed")]
    TooManyLookups {
        /// How many it came to.
        asked: usize,
        /// `spec.limits.lookups`
        limit: usize,
    },
}

/// Why there is no plan; `E` is how a call can fail to give an answer.
#[derive(Debug)]
pub enum NoPlan<E> {
    /// A call gave no answer.
    Call(E),
    /// The plugin asked without end.
    Rounds(RoundsError),
    /// The plugin says that it failed.
    Failed(Failure),
}

/// The two sides that a conversation needs: a plugin to call and somebody who knows the answers.
pub trait Session: Sync {
    /// How a call can fail to give an answer.
    type Error;

    /// Calls the plugin.
    fn call(&self, request: &Request) -> impl Future<Output = Result<Result<Step, Failure>, Self::Error>> + Send;

    /// Answers lookups, in their order.
    fn answer(&self, lookups: Vec<Lookup>) -> impl Future<Output = Vec<Answered>> + Send;
}

/// What was said in one conversation.
#[derive(Debug)]
pub struct Conversation<E> {
    /// The request of the last call: with the answers of all rounds.
    pub request: Request,
    /// One for each call, in their order.
    pub rounds: Vec<Round>,
    /// The plan and the answers that it says it rests on.
    pub end: Result<(Plan, Vec<Answered>), NoPlan<E>>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Round {
    /// How many of the request's answers the plugin had then.
    pub answers: usize,
    /// What it asked for; empty when it ended the conversation.
    pub asked: Vec<Lookup>,
}

/// Calls a plugin until it has a plan. Returns the plan and the answers that it says it rests on.
///
/// # Errors
/// See [`NoPlan`].
pub async fn converse<S: Session>(
    session: &S,
    request: Request,
    bounds: Bounds,
) -> Result<(Plan, Vec<Answered>), NoPlan<S::Error>> {
    conversation(session, request, bounds).await.end
}

/// As [`converse`], with all that was said. Nothing large is copied for it.
pub async fn conversation<S: Session>(session: &S, request: Request, bounds: Bounds) -> Conversation<S::Error> {
    let mut rounds = Rounds::new(request, bounds);
    let mut said = Vec::new();
    let end = loop {
        let answers = rounds.request().answers.len();
        let step = match session.call(rounds.request()).await {
            Ok(Ok(step)) => step,
            Ok(Err(failure)) => {
                said.push(Round { answers, asked: Vec::new() });
                break Err(NoPlan::Failed(failure));
            }
            Err(error) => {
                said.push(Round { answers, asked: Vec::new() });
                break Err(NoPlan::Call(error));
            }
        };
        match step {
            Step::Done(plan) => {
                said.push(Round { answers, asked: Vec::new() });
                let used = rounds.used(&plan.uses);
                break Ok((*plan, used));
            }
            Step::Ask(lookups) => {
                said.push(Round { answers, asked: lookups.clone() });
                match rounds.ask(lookups) {
                    Ok(open) => rounds.answer(session.answer(open).await),
                    Err(error) => break Err(NoPlan::Rounds(error)),
                }
            }
        }
    };
    Conversation { request: rounds.request, rounds: said, end }
}

/// One reconcile's conversation.
#[derive(Debug)]
pub struct Rounds {
    request: Request,
    bounds: Bounds,
}

impl Rounds {
    /// Begins with a request of round 0.
    #[must_use]
    pub fn new(request: Request, bounds: Bounds) -> Self {
        Self { request, bounds }
    }

    /// What to call the plugin with now.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// What is still to be answered of what the plugin asked for, each once.
    ///
    /// # Errors
    /// When the bounds are exceeded, or nothing new was asked for (the plugin would ask the same for ever).
    pub fn ask(&mut self, lookups: Vec<Lookup>) -> Result<Vec<Lookup>, RoundsError> {
        let mut open: Vec<Lookup> = Vec::new();
        for lookup in lookups {
            if !self.request.answers.iter().any(|known| known.lookup == lookup) && !open.contains(&lookup) {
                open.push(lookup);
                let asked = self.request.answers.len() + open.len();
                if asked > self.bounds.lookups {
                    return Err(RoundsError::TooManyLookups { asked, limit: self.bounds.lookups });
                }
            }
        }
        let calls = self.request.round + 1;
        if open.is_empty() || calls >= self.bounds.rounds {
            return Err(RoundsError::TooManyRounds(calls));
        }
        Ok(open)
    }

    /// Adds answers and goes on to the next round.
    pub fn answer(&mut self, answers: Vec<Answered>) {
        self.request.answers.extend(answers);
        self.request.round += 1;
    }

    /// The answers that a finished plan says it rests on, or all of them when it names one that does not exist.
    #[must_use]
    pub fn used(&self, uses: &[u32]) -> Vec<Answered> {
        let answers = &self.request.answers;
        if uses.iter().any(|&i| i as usize >= answers.len()) {
            return answers.clone();
        }
        answers
            .iter()
            .enumerate()
            .filter(|(i, _)| uses.iter().any(|&used| used as usize == *i))
            .map(|(_, answered)| answered.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contract::Answer;

    fn clock(seconds: u32) -> Lookup {
        Lookup::Clock { seconds }
    }

    fn rounds(bounds: Bounds) -> Rounds {
        let request = Request {
            object: "{}".into(),
            deleting: false,
            children: vec![],
            answers: vec![],
            calls: vec![],
            refusals: vec![],
            config: "{}".into(),
            round: 0,
        };
        Rounds::new(request, bounds)
    }

    fn answered(seconds: u32) -> Answered {
        Answered { lookup: clock(seconds), answer: Answer::Absent }
    }

    #[test]
    fn what_is_known_is_not_asked_again() {
        let mut rounds = rounds(Bounds::default());
        assert_eq!(rounds.ask(vec![clock(1), clock(2), clock(1)]), Ok(vec![clock(1), clock(2)]));
        rounds.answer(vec![answered(1), answered(2)]);
        assert_eq!(rounds.ask(vec![clock(2), clock(3)]), Ok(vec![clock(3)]));
    }

    #[test]
    fn asking_for_nothing_new_ends_it() {
        let mut rounds = rounds(Bounds::default());
        rounds.answer(vec![answered(1)]);
        assert_eq!(rounds.ask(vec![clock(1)]), Err(RoundsError::TooManyRounds(2)));
    }

    #[test]
    fn rounds_and_lookups_are_bounded() {
        let mut few = rounds(Bounds { rounds: 3, lookups: 2, ..Bounds::default() });
        assert_eq!(
            few.ask(vec![clock(1), clock(2), clock(3)]),
            Err(RoundsError::TooManyLookups { asked: 3, limit: 2 })
        );
        few.answer(vec![answered(1)]);
        few.answer(vec![]);
        assert_eq!(few.ask(vec![clock(9)]), Err(RoundsError::TooManyRounds(3)));
    }

    #[test]
    fn only_what_the_plan_used_is_remembered() {
        let mut rounds = rounds(Bounds::default());
        rounds.answer(vec![answered(1), answered(2)]);
        assert_eq!(rounds.used(&[1]), vec![answered(2)]);
    }
}
