//! A `Parcel` becomes a ConfigMap. It is served in v1 and v2 and stored as v2; each has a field that the other has no
//! place for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use transom_sdk::objects;
use transom_sdk::prelude::*;

/// The first version.
pub mod v1 {
    use transom_sdk::prelude::*;

    /// A parcel with its size in one word.
    #[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
    #[kube(group = "tests.transom.dev", version = "v1", kind = "Parcel", namespaced)]
    #[serde(rename_all = "camelCase")]
    pub struct ParcelSpec {
        /// Width and height: `3x4`.
        pub size: String,
        /// Who gets it.
        pub to: String,
        /// v2 has no place for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub remark: Option<String>,
    }
}

/// The second version.
pub mod v2 {
    use transom_sdk::prelude::*;

    /// A parcel with numbers.
    #[derive(CustomResource, JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
    #[kube(group = "tests.transom.dev", version = "v2", kind = "Parcel", namespaced)]
    #[serde(rename_all = "camelCase")]
    pub struct ParcelSpec {
        /// In any unit.
        pub width: u32,
        /// In the same one.
        pub height: u32,
        /// Who gets it.
        pub recipient: Recipient,
        /// v1 has no place for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub insurance: Option<u32>,
    }

    /// Who gets it.
    #[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
    pub struct Recipient {
        /// As it is written on the parcel.
        pub name: String,
    }
}

/// Serves `Parcel`.
pub struct ParcelPlugin;
#[cfg(not(feature = "old"))]
transom_sdk::export!(ParcelPlugin, admission, conversion);
#[cfg(feature = "old")]
transom_sdk::export!(ParcelPlugin);

impl Plugin for ParcelPlugin {
    fn manifest() -> Manifest<Self> {
        let version = if cfg!(feature = "old") { "1.0.0" } else { "2.0.0" };
        let manifest = Manifest::new("parcel", version).child::<ConfigMap>(Delivery::Metadata);
        if cfg!(feature = "old") {
            manifest.primary::<v1::Parcel>()
        } else {
            manifest.primary::<v2::Parcel>().version::<v1::Parcel, v2::Parcel>().admission::<v2::Parcel>()
        }
    }
}

fn plan(name: Option<&str>, size: String, cx: &Context) -> Plan {
    let mut plan = cx.plan();
    plan.apply(ConfigMap {
        metadata: objects::metadata(name.unwrap_or_default(), &BTreeMap::new()),
        data: Some(BTreeMap::from([("size".into(), size)])),
        ..Default::default()
    });
    plan.condition(Condition::new("Ready", true, "Packed", ""));
    plan
}

impl Reconcile<v1::Parcel> for ParcelPlugin {
    fn reconcile(parcel: &v1::Parcel, cx: &Context) -> Result<Plan, Failure> {
        Ok(plan(parcel.metadata.name.as_deref(), parcel.spec.size.clone(), cx))
    }
}

impl Reconcile<v2::Parcel> for ParcelPlugin {
    fn reconcile(parcel: &v2::Parcel, cx: &Context) -> Result<Plan, Failure> {
        let size = format!("{}x{}", parcel.spec.width, parcel.spec.height);
        Ok(plan(parcel.metadata.name.as_deref(), size, cx))
    }
}

impl Admission<v2::Parcel> for ParcelPlugin {
    fn validate(parcel: &v2::Parcel, _: &Review<'_, v2::Parcel>) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.require(parcel.spec.width <= 100, "spec.width", "must be at most 100");
        verdict
    }
}

impl Convert<v1::Parcel, v2::Parcel> for ParcelPlugin {
    fn convert(spec: v1::ParcelSpec) -> Result<v2::ParcelSpec, Unconvertible> {
        let numbers =
            spec.size.split_once('x').and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
        let (width, height) =
            numbers.ok_or_else(|| Unconvertible::new("spec.size", "must be two numbers, such as 3x4"))?;
        Ok(v2::ParcelSpec { width, height, recipient: v2::Recipient { name: spec.to }, insurance: None })
    }
}

impl Convert<v2::Parcel, v1::Parcel> for ParcelPlugin {
    fn convert(spec: v2::ParcelSpec) -> Result<v1::ParcelSpec, Unconvertible> {
        Ok(v1::ParcelSpec { size: format!("{}x{}", spec.width, spec.height), to: spec.recipient.name, remark: None })
    }
}

#[cfg(all(test, not(feature = "old")))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]
mod tests {
    use serde_json::Value;
    use transom_sdk::testing;

    use super::*;

    fn first(remark: Option<&str>) -> v1::Parcel {
        let remark = remark.map(ToOwned::to_owned);
        v1::Parcel::new("a", v1::ParcelSpec { size: "3x4".into(), to: "Ada".into(), remark })
    }

    fn up(parcel: &v1::Parcel) -> v2::Parcel {
        testing::converted::<ParcelPlugin, _, _>(parcel).unwrap()
    }

    fn down(parcel: &v2::Parcel) -> v1::Parcel {
        testing::converted::<ParcelPlugin, _, _>(parcel).unwrap()
    }

    #[test]
    fn a_parcel_without_anything_special_leaves_no_trace() {
        let second = up(&first(None));
        assert_eq!((second.spec.width, second.spec.height), (3, 4));
        assert_eq!(second.metadata.annotations, None);
        let back = down(&second);
        assert_eq!((back.spec, back.metadata), (first(None).spec, first(None).metadata));
    }

    #[test]
    fn what_the_other_version_has_no_place_for_survives_edits_in_it() {
        let mut second = up(&first(Some("fragile")));
        second.spec.width = 7;
        second.spec.insurance = Some(100);
        // an old client edits, too
        let mut back = down(&second);
        assert_eq!(back.spec.remark.as_deref(), Some("fragile"));
        assert_eq!(back.spec.size, "7x4");
        back.spec.to = "Grace".into();
        let again = up(&back);
        assert_eq!(again.spec.insurance, Some(100));
        assert_eq!((again.spec.width, &*again.spec.recipient.name), (7, "Grace"));
        let again = down(&again);
        assert_eq!(again.spec.remark.as_deref(), Some("fragile"));
    }

    #[test]
    fn what_an_old_client_takes_away_is_gone() {
        let second = up(&first(Some("fragile")));
        let mut back = down(&second);
        back.spec.remark = None;
        assert_eq!(down(&up(&back)).spec.remark, None);
        assert_eq!(up(&back).metadata.annotations, None);
    }

    #[test]
    fn what_has_no_form_in_the_other_version_is_named() {
        let mut odd = first(None);
        odd.spec.size = "large".into();
        let refused = testing::converted::<ParcelPlugin, _, v2::Parcel>(&odd).unwrap_err();
        assert_eq!(refused, "spec.size must be two numbers, such as 3x4");
    }

    #[test]
    fn the_definition_has_both_versions_and_stores_the_second() {
        let manifest = testing::manifest::<ParcelPlugin>();
        let crd: Value = serde_json::from_str(&manifest.crds[0]).unwrap();
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let seen: Vec<(&Value, &Value)> = versions.iter().map(|v| (&v["name"], &v["storage"])).collect();
        assert_eq!(seen, [(&Value::from("v2"), &Value::from(true)), (&Value::from("v1"), &Value::from(false))]);
        assert!(versions[1].pointer("/schema/openAPIV3Schema/properties/status/properties/conditions").is_some());
    }
}
