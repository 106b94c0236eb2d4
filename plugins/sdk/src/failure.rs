use std::fmt;

use crate::bindings::exports::transom::plugin::reconciler as wit;
use crate::bindings::transom::plugin::types::Problem;

/// Why a reconcile ended without a plan. Pass it on with `?`.
#[derive(Debug)]
pub struct Failure(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    /// An answer is missing; the lookups are noted in the context. Not a failure: the host answers and calls again.
    Pending,
    Invalid(Violations),
    Transient {
        reason: String,
        message: String,
    },
    Internal(String),
}

impl Failure {
    pub(crate) const PENDING: Self = Self(Kind::Pending);

    /// The object cannot work until somebody changes `field` (a path such as `spec.db.clusterRef`). `message` says
    /// what is wrong and how to mend it: "must be at most 50". Children stay as they are.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut violations = Violations::default();
        violations.add(field, message);
        Self(Kind::Invalid(violations))
    }

    /// May get better by itself; the host tries again with exponential back-off. `reason` is a stable CamelCase word.
    pub fn transient(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self(Kind::Transient { reason: reason.into(), message: message.into() })
    }

    /// The plugin's own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self(Kind::Internal(message.into()))
    }

    /// True when nothing failed, but a lookup waits for its answer. Code that looks at failures passes these on.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self.0, Kind::Pending)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Pending => f.write_str("a lookup waits for its answer"),
            Kind::Invalid(violations) => {
                for (index, (field, message)) in violations.0.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{field} {message}")?;
                }
                Ok(())
            }
            Kind::Transient { reason, message } => write!(f, "{reason}: {message}"),
            Kind::Internal(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

/// Collects everything that is wrong with an object, so that its author mends it in one go.
///
/// ```
/// # use transom_sdk::{Failure, Violations};
/// # fn check(replicas: i32, schema: &str) -> Result<(), Failure> {
/// let mut violations = Violations::default();
/// violations.require(replicas <= 50, "spec.replicas", "must be at most 50");
/// violations.require(schema != "public", "spec.db.schema", "must be a schema of its own");
/// violations.into_result()
/// # }
/// # assert!(check(51, "public").is_err());
/// ```
#[derive(Debug, Default)]
pub struct Violations(pub(crate) Vec<(String, String)>);

impl Violations {
    /// Notes that `field` cannot stay as it is.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push((field.into(), message.into()));
    }

    /// Notes `message` about `field` unless `fine`.
    pub fn require(&mut self, fine: bool, field: &str, message: &str) {
        if !fine {
            self.add(field, message);
        }
    }

    /// Fine when nothing was noted.
    ///
    /// # Errors
    ///
    /// [`Failure::invalid`] with everything that was noted.
    pub fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure(Kind::Invalid(self))) }
    }
}

/// `None` for a pending lookup, which is no failure.
pub(crate) fn to_wit(failure: Failure) -> Option<wit::Failure> {
    Some(match failure.0 {
        Kind::Pending => return None,
        Kind::Invalid(Violations(list)) => {
            let violation = |(field, message)| wit::Violation { field, message };
            wit::Failure::Invalid(list.into_iter().map(violation).collect())
        }
        Kind::Transient { reason, message } => wit::Failure::Transient(Problem { reason, message }),
        Kind::Internal(message) => wit::Failure::Internal(message),
    })
}
