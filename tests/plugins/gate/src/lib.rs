//! A `Gate` becomes a ConfigMap. What counts is what its plugin says before it is stored.
#![allow(clippy::panic, reason = "failing is part of what it is for")]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use transom_sdk::objects;
use transom_sdk::prelude::*;

/// A gate in a wall.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(group = "tests.transom.dev", version = "v1", kind = "Gate", namespaced)]
#[serde(rename_all = "camelCase")]
pub struct GateSpec {
    /// The wall; a gate does not move.
    pub wall: String,
    /// Filled in when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    /// A matter of taste.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colour: Option<String>,
    /// What the plugin does wrong when it sees this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// What can go wrong.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// Panics in `default`.
    TrapInDefault,
    /// Panics in `validate`.
    TrapInValidate,
    /// Never ends in `validate`.
    Loop,
}

/// Configuration.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Copy, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The highest gate that is let through; 500 when it is 0.
    pub highest: u32,
}

/// Serves `Gate`.
pub struct GatePlugin;
#[cfg(not(feature = "old"))]
transom_sdk::export!(GatePlugin, admission);
#[cfg(feature = "old")]
transom_sdk::export!(GatePlugin);

impl Plugin for GatePlugin {
    fn manifest() -> Manifest<Self> {
        let version = if cfg!(feature = "old") { "0.9.0" } else { "1.0.0" };
        let manifest = Manifest::new("gate", version).primary::<Gate>().child::<ConfigMap>(Delivery::Metadata);
        let manifest = manifest.config::<Config>();
        if cfg!(feature = "old") { manifest } else { manifest.admission::<Gate>() }
    }
}

impl Reconcile<Gate> for GatePlugin {
    fn reconcile(gate: &Gate, cx: &Context) -> Result<Plan, Failure> {
        let height = gate.spec.height.map(|height| height.to_string()).unwrap_or_default();
        let name = gate.metadata.name.as_deref().unwrap_or_default();
        let mut plan = cx.plan();
        plan.apply(ConfigMap {
            metadata: objects::metadata(name, &BTreeMap::new()),
            data: Some(BTreeMap::from([("height".into(), height)])),
            ..Default::default()
        });
        plan.condition(Condition::new("Ready", true, "Built", ""));
        Ok(plan)
    }
}

impl Admission<Gate> for GatePlugin {
    fn default(spec: &mut GateSpec, review: &Review<'_, Gate>) {
        assert!(spec.fault != Some(Fault::TrapInDefault), "defaults are out of order");
        let low = review.metadata().name.as_deref().is_some_and(|name| name.starts_with("low"));
        spec.height.get_or_insert(if low { 10 } else { 100 });
    }

    fn validate(gate: &Gate, review: &Review<'_, Gate>) -> Verdict {
        match gate.spec.fault {
            Some(Fault::TrapInValidate) => panic!("validation is out of order"),
            Some(Fault::Loop) => loop {
                std::hint::black_box(0);
            },
            _ => {}
        }
        let highest = review.config::<Config>().unwrap_or_default().highest;
        let highest = if highest == 0 { 500 } else { highest };
        let mut verdict = Verdict::default();
        if gate.spec.height.is_some_and(|height| height > highest) {
            verdict.deny("spec.height", format!("must be at most {highest}"));
        }
        let moved = review.old().is_some_and(|old| old.spec.wall != gate.spec.wall);
        verdict.require(!moved, "spec.wall", "cannot change");
        if gate.spec.colour.as_deref() == Some("pink") {
            verdict.warn("spec.colour: pink is hard to keep clean");
        }
        verdict
    }
}

#[cfg(all(test, not(feature = "old")))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use transom_sdk::testing;

    use super::*;

    fn gate(name: &str, height: Option<u32>) -> Gate {
        Gate::new(name, GateSpec { wall: "north".into(), height, colour: None, fault: None })
    }

    #[test]
    fn a_height_that_was_left_out_is_filled_in_by_the_name() {
        let height = |name, height| testing::defaulted::<GatePlugin, _>(&gate(name, height)).spec.height;
        assert_eq!(height("main", None), Some(100));
        assert_eq!(height("low-one", None), Some(10));
        assert_eq!(height("main", Some(7)), Some(7));
    }

    #[test]
    fn everything_wrong_is_said_at_once_and_a_warning_denies_nothing() {
        let (old, mut new) = (gate("a", Some(1)), gate("a", Some(501)));
        new.spec.wall = "south".into();
        let verdict = testing::validated::<GatePlugin, _>(&new, Some(&old));
        assert_eq!(verdict.denied(), [("spec.height", "must be at most 500"), ("spec.wall", "cannot change")]);
        let mut pink = gate("a", Some(1));
        pink.spec.colour = Some("pink".into());
        let verdict = testing::validated::<GatePlugin, _>(&pink, None);
        assert!(verdict.is_admitted());
        assert_eq!(verdict.warnings(), ["spec.colour: pink is hard to keep clean"]);
    }

    #[test]
    fn the_configuration_counts() {
        let config = serde_json::json!({ "highest": 5 });
        let verdict = testing::validated_with::<GatePlugin, _>(&gate("a", Some(6)), None, &config);
        assert_eq!(verdict.denied(), [("spec.height", "must be at most 5")]);
    }
}
