use transom_sdk::prelude::*;

use crate::spec::Process;

/// A Domain, as far as others depend on it.
#[derive(Deserialize)]
pub(crate) struct Domain {
    #[serde(flatten)]
    primitive: Primitive,
}
transom_sdk::foreign!(Domain, "ameide.io/v1", "Domain");

/// An Agent, as far as others depend on it. Its kind may not be there at all.
#[derive(Deserialize)]
pub(crate) struct Agent {
    #[serde(flatten)]
    primitive: Primitive,
}
transom_sdk::foreign!(Agent, "ameide.io/v1", "Agent");

#[derive(Deserialize)]
struct Primitive {
    status: Option<PrimitiveStatus>,
}

#[derive(Deserialize)]
struct PrimitiveStatus {
    #[serde(default)]
    conditions: Vec<PrimitiveCondition>,
}

#[derive(Deserialize)]
struct PrimitiveCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
}

/// What a Process lacks: a condition reason and a sentence; none when all is there.
pub(crate) fn missing(process: &Process, cx: &Context) -> Result<Option<(&'static str, String)>, Failure> {
    let dependencies = &process.spec.dependencies;
    // all asked together
    let domains: Vec<_> = dependencies
        .domains
        .iter()
        .map(|dependency| {
            let found = cx.get::<Domain>(&dependency.name);
            ("Domain", &dependency.name, found.map(|found| found.map(|found| found.primitive)))
        })
        .collect();
    let agents = dependencies.agents.iter().map(|dependency| {
        let found = cx.get::<Agent>(&dependency.name);
        ("Agent", &dependency.name, found.map(|found| found.map(|found| found.primitive)))
    });
    let asked: Vec<_> = domains.into_iter().chain(agents).collect();
    let (mut absent, mut unready) = (Vec::new(), Vec::new());
    for (kind, name, found) in asked {
        match found? {
            None => absent.push(format!("{kind} {name}")),
            Some(primitive) => unready.extend(why_unready(&primitive).map(|why| format!("{kind} {name} ({why})"))),
        }
    }
    Ok(if !absent.is_empty() {
        Some(("DependencyMissing", format!("not there: {}", absent.join(", "))))
    } else if !unready.is_empty() {
        Some(("DependencyNotReady", format!("not ready: {}", unready.join(", "))))
    } else {
        None
    })
}

fn why_unready(primitive: &Primitive) -> Option<String> {
    let mut conditions = primitive.status.iter().flat_map(|status| &status.conditions);
    match conditions.find(|condition| condition.kind == "Ready") {
        Some(ready) if ready.status == "True" => None,
        Some(ready) if !ready.reason.is_empty() => Some(ready.reason.clone()),
        _ => Some("it has not said yet that it is".into()),
    }
}
