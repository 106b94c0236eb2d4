//! Admission: what an author may say before an object is stored.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::object::HasSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bindings::admission::exports::transom::plugin::admission as wit;
use crate::bindings::exports::transom::plugin::reconciler::Violation;
use crate::failure::Violations;
use crate::json;
use crate::kind::{Kind, TypeMeta};
use crate::manifest::{Manifest, Plugin, Primary};

/// What a plugin has to say about objects of kind `K` before they are stored. Both functions are pure, see the object and
/// nothing else, and hold up whoever writes it: keep them quick. What a schema or a CEL rule in the CRD can say belongs
/// there.
///
/// Called for creates, and for updates that change the spec. A plugin that has this names it in its manifest
/// ([`Manifest::admission`]) and in `export!(MyPlugin, admission)`.
pub trait Admission<K: Validated>: Plugin {
    /// Fills in what was left out. Fields of the spec that the type does not know stay as they are. The type must be
    /// able to hold an object without the fields that are filled in; when it is not, nothing is.
    fn default(spec: &mut K::Spec, review: &Review<'_, K>) {
        let _ = (spec, review);
    }

    /// Says what is wrong with what is about to be stored.
    fn validate(primary: &K, review: &Review<'_, K>) -> Verdict {
        let _ = (primary, review);
        Verdict::default()
    }
}

/// A primary whose spec can be read and written: anything with `#[derive(CustomResource)]`.
pub trait Validated: Primary + HasSpec<Spec: Serialize + DeserializeOwned> {}

impl<K: Primary + HasSpec<Spec: Serialize + DeserializeOwned>> Validated for K {}

/// What surrounds the object under review.
#[derive(Debug)]
pub struct Review<'a, K> {
    metadata: &'a ObjectMeta,
    is_create: bool,
    old: Option<K>,
    config: &'a str,
}

impl<K> Review<'_, K> {
    /// True when the object is new.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.is_create
    }

    /// The object as it is stored. None when it is new, and when it is so old that it does not fit the type.
    #[must_use]
    pub fn old(&self) -> Option<&K> {
        self.old.as_ref()
    }

    /// Name, namespace, labels and annotations of the object.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        self.metadata
    }

    /// The plugin's configuration.
    ///
    /// # Errors
    ///
    /// When it does not fit the type, as text for people.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, String> {
        serde_json::from_str(self.config).map_err(|error| error.to_string())
    }
}

/// What `validate` says; without violations the object is admitted.
///
/// ```
/// # use transom_sdk::Verdict;
/// let mut verdict = Verdict::default();
/// verdict.require(3 <= 50, "spec.replicas", "must be at most 50");
/// verdict.warn("spec.image has the tag latest: nobody knows what will run");
/// assert!(verdict.is_admitted());
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Verdict {
    violations: Violations,
    warnings: Vec<String>,
}

impl Verdict {
    /// `field` (a path such as `spec.db.clusterRef`) cannot stay as it is; `message` says how to mend it.
    pub fn deny(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.violations.add(field, message);
    }

    /// [`deny`](Self::deny) unless `fine`.
    pub fn require(&mut self, fine: bool, field: &str, message: &str) {
        self.violations.require(fine, field, message);
    }

    /// Shown to whoever writes the object, which is not kept from being stored. At most 256 characters.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// True when nothing was denied.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.violations.0.is_empty()
    }

    /// Field and message of everything that was denied.
    #[must_use]
    pub fn denied(&self) -> Vec<(&str, &str)> {
        self.violations.0.iter().map(|(field, message)| (&**field, &**message)).collect()
    }

    /// Everything that was warned of.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn of_wire(verdict: wit::Verdict) -> Self {
        let mut violations = Violations::default();
        verdict.violations.into_iter().for_each(|violation| violations.add(violation.field, violation.message));
        Self { violations, warnings: verdict.warnings }
    }

    fn into_wire(self) -> wit::Verdict {
        let violation = |(field, message)| Violation { field, message };
        wit::Verdict { violations: self.violations.0.into_iter().map(violation).collect(), warnings: self.warnings }
    }
}

impl From<Violations> for Verdict {
    fn from(violations: Violations) -> Self {
        Self { violations, warnings: Vec::new() }
    }
}

/// Type-erased [`Admission`] of one kind.
pub(crate) struct AdmissionRoute {
    kind: TypeMeta,
    default: fn(&wit::Review) -> Option<String>,
    validate: fn(&wit::Review) -> wit::Verdict,
}

impl AdmissionRoute {
    pub(crate) fn new<P: Admission<K>, K: Validated>() -> Self {
        Self { kind: K::type_meta(), default: default::<P, K>, validate: validate::<P, K> }
    }
}

/// What the component exports as `default`.
pub(crate) fn default_of<P: Plugin>(review: &wit::Review) -> Option<String> {
    let manifest = P::manifest();
    (route(&manifest, &review.object)?.default)(review)
}

/// What the component exports as `validate`. A kind without admission is admitted.
pub(crate) fn verdict_of<P: Plugin>(review: &wit::Review) -> wit::Verdict {
    let manifest = P::manifest();
    match route(&manifest, &review.object) {
        Some(route) => (route.validate)(review),
        None => Verdict::default().into_wire(),
    }
}

fn route<'a, P: Plugin>(manifest: &'a Manifest<P>, object: &str) -> Option<&'a AdmissionRoute> {
    let (api_version, kind) = crate::component::header(object).ok()?;
    manifest.admissions.iter().find(|route| route.kind.is(&api_version, &kind))
}

fn around<'a, K: Validated>(review: &'a wit::Review, primary: &'a K) -> Review<'a, K> {
    Review {
        metadata: primary.meta(),
        is_create: review.operation == wit::Operation::Create,
        old: review.old_object.as_deref().and_then(|old| serde_json::from_str(old).ok()),
        config: &review.config,
    }
}

fn default<P: Admission<K>, K: Validated>(review: &wit::Review) -> Option<String> {
    // what does not fit the type is for the API server's schema to refuse
    let mut object: Value = serde_json::from_str(&review.object).ok()?;
    let primary: K = json::read(&object).ok()?;
    let before = json::write(primary.spec()).ok()?;
    let mut spec: K::Spec = json::read(object.get("spec")?).ok()?;
    P::default(&mut spec, &around(review, &primary));
    let after = json::write(&spec).ok()?;
    if before == after {
        return None;
    }
    json::carry(&before, &after, json::member(&mut object, "spec"));
    Some(object.to_string())
}

fn validate<P: Admission<K>, K: Validated>(review: &wit::Review) -> wit::Verdict {
    let verdict = match serde_json::from_str::<K>(&review.object) {
        Ok(primary) => P::validate(&primary, &around(review, &primary)),
        Err(error) => {
            let mut verdict = Verdict::default();
            verdict.deny("spec", format!("does not fit the plugin's type: {error}"));
            verdict
        }
    };
    verdict.into_wire()
}
