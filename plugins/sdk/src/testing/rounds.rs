//! Are lookups asked together that could be?

use serde_json::{Value, json};

use super::{Case, ROUNDS, call, wire};
use crate::bindings::transom::plugin::types::{Answer, Answered, Lookup, Problem};
use crate::manifest::Plugin;

/// A lookup and the round after which it was asked.
struct Asked {
    lookup: Lookup,
    round: u32,
}

impl<P: Plugin> Case<P> {
    /// Checks that lookups which do not depend on each other are asked in one round. A plugin that asks for one in each
    /// round (`?` in a loop, or behind the first lookup of several) works with a few of them, and fails with
    /// `TooManyRounds` with more.
    ///
    /// All rounds are run. When lookups of the same sort (objects of one kind, runs of one engine, questions to one
    /// endpoint) were asked in different rounds, the later one's round is run again with other answers to the earlier
    /// one: a lookup that is asked all the same did not have to wait for it. The time is not checked: asking for it
    /// late is how a plan avoids to be made again when it passes.
    ///
    /// Give the case several of everything that is looked up: what is asked once is not late.
    ///
    /// # Panics
    ///
    /// When a lookup could have been asked earlier, or the plugin asks without end.
    pub fn asks_together(&self) {
        let late = self.late_lookups();
        assert!(late.is_empty(), "ask for all of these before the first `?`:\n{}", late.join("\n"));
    }

    /// Lookups that could have been asked in an earlier round.
    fn late_lookups(&self) -> Vec<String> {
        let (asked, answers) = self.all_rounds();
        let mut late = Vec::new();
        for (index, later) in asked.iter().enumerate() {
            let earlier = asked.iter().take(index).rev().find(|earlier| {
                earlier.round < later.round
                    && sort(&earlier.lookup).is_some()
                    && sort(&earlier.lookup) == sort(&later.lookup)
            });
            let Some(earlier) = earlier else { continue };
            let known = asked.iter().zip(&answers).filter(|(asked, _)| asked.round < later.round);
            let known: Vec<&Answered> = known.map(|(_, answered)| answered).collect();
            if self.is_asked_anyway(&known, earlier, later) {
                late.push(format!(
                    "{} is asked in round {}, and does not depend on {}, which is asked in round {}",
                    title(&later.lookup),
                    later.round + 1,
                    title(&earlier.lookup),
                    earlier.round + 1
                ));
            }
        }
        late
    }

    /// What is asked in which round, and all answers in their order.
    fn all_rounds(&self) -> (Vec<Asked>, Vec<Answered>) {
        let (mut request, mut asked) = (self.first_request(), Vec::new());
        while let Ok(wire::Step::Ask(lookups)) = call::<P>(request.clone()) {
            assert!(request.round < ROUNDS, "the plugin still asks in round {ROUNDS}: {lookups:#?}");
            for lookup in lookups {
                request.answers.push(Answered { answer: self.answer(&lookup), lookup: lookup.clone() });
                asked.push(Asked { lookup, round: request.round });
            }
            request.round += 1;
        }
        (asked, request.answers)
    }

    /// Whether `later` is asked when `earlier` is answered otherwise.
    fn is_asked_anyway(&self, known: &[&Answered], earlier: &Asked, later: &Asked) -> bool {
        let Some(real) = known.iter().find(|answered| answered.lookup == earlier.lookup) else { return false };
        others(&real.answer, &earlier.lookup).into_iter().any(|other| {
            let answer = |answered: &&Answered| {
                let is_earlier = answered.lookup == earlier.lookup;
                Answered {
                    lookup: answered.lookup.clone(),
                    answer: if is_earlier { other.clone() } else { answered.answer.clone() },
                }
            };
            let request = wire::Request {
                answers: known.iter().map(answer).collect(),
                round: later.round,
                ..self.first_request()
            };
            matches!(call::<P>(request), Ok(wire::Step::Ask(lookups)) if lookups.contains(&later.lookup))
        })
    }
}

/// What kind of thing is asked for; none for the time.
fn sort(lookup: &Lookup) -> Option<String> {
    Some(match lookup {
        Lookup::Object(which) => format!("object {} {}", which.api_version, which.kind),
        Lookup::Objects(query) => format!("objects {} {}", query.kind.api_version, query.kind.kind),
        Lookup::Grpc(query) => format!("grpc {} {}", query.endpoint, query.path),
        Lookup::Http(query) => format!("http {}", query.endpoint),
        Lookup::Image(_) => "image".to_owned(),
        Lookup::Artifact(query) => format!("artifact {}", query.endpoint),
        Lookup::Engine(query) => format!("engine {}", query.engine),
        Lookup::Random(_) => "random".to_owned(),
        Lookup::Clock(_) => return None,
    })
}

fn title(lookup: &Lookup) -> String {
    match lookup {
        Lookup::Object(which) => format!("{} {}/{}", which.kind, which.namespace, which.name),
        Lookup::Objects(query) => format!("the list of {} ({})", query.kind.kind, query.label_selector),
        Lookup::Grpc(query) => format!("{} of {}", query.path, query.endpoint),
        Lookup::Http(query) => format!("{} of {}", query.path, query.endpoint),
        Lookup::Image(query) => format!("image {}", query.reference),
        Lookup::Artifact(query) => format!("artifact {} of {}", query.reference, query.endpoint),
        Lookup::Engine(query) => format!("a run of engine {} ({} bytes)", query.engine, query.input.len()),
        Lookup::Random(query) => format!("random bytes {}", query.label),
        Lookup::Clock(granularity) => format!("the time ({granularity} s)"),
    }
}

/// Answers that have nothing of the real one. Beside absence and failure there is only something that is found: what is
/// asked when the first place has nothing is asked in its turn.
fn others(real: &Answer, lookup: &Lookup) -> Vec<Answer> {
    let problem = Problem { reason: "Unavailable".to_owned(), message: "no route".to_owned() };
    let nothing = [Answer::Absent, Answer::Denied("not allowed".to_owned()), Answer::Failed(problem)];
    let found = empty(lookup, real).map(Answer::Found).filter(|found| found != real);
    let is_found = matches!(real, Answer::Found(_));
    found.into_iter().chain(nothing.into_iter().filter(|_| is_found)).collect()
}

/// As little as can be found.
fn empty(lookup: &Lookup, real: &Answer) -> Option<wire::Value> {
    Some(match lookup {
        Lookup::Object(which) => wire::Value::Object(bare(which, real).to_string()),
        Lookup::Objects(_) => wire::Value::Objects(Vec::new()),
        Lookup::Grpc(_) => wire::Value::Bytes(Vec::new()),
        Lookup::Engine(_) => wire::Value::Bytes(b"{}".to_vec()),
        Lookup::Http(_) => wire::Value::Http(wire::HttpResponse { status: 200, headers: Vec::new(), body: Vec::new() }),
        Lookup::Image(_) => wire::Value::Digest(format!("sha256:{}", "0".repeat(64))),
        Lookup::Artifact(_) => wire::Value::Files(Vec::new()),
        Lookup::Random(query) => wire::Value::Bytes(vec![0; query.length as usize]),
        Lookup::Clock(_) => return None,
    })
}

/// An object of the same shape, in which every text is empty: a type that requires fields can still be made of it.
fn bare(which: &wire::ObjectRef, real: &Answer) -> Value {
    let mut object = match real {
        Answer::Found(wire::Value::Object(text)) => serde_json::from_str(text).unwrap_or_default(),
        _ => json!({}),
    };
    blank(&mut object);
    object["apiVersion"] = json!(which.api_version);
    object["kind"] = json!(which.kind);
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = json!(which.name);
    object["metadata"]["namespace"] = json!(which.namespace);
    object
}

fn blank(value: &mut Value) {
    match value {
        Value::String(text) => text.clear(),
        Value::Object(fields) => {
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("creationTimestamp");
                metadata.remove("deletionTimestamp");
            }
            fields.values_mut().for_each(blank);
        }
        Value::Array(items) => items.iter_mut().for_each(blank),
        _ => {}
    }
}
