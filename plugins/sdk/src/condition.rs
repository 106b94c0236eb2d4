use crate::bindings::transom::plugin::types as wit;
use crate::health::{Health, State};

/// A condition of the primary. The host keeps `lastTransitionTime` and `observedGeneration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    pub(crate) kind: String,
    pub(crate) status: Status,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The three values of `status` of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// Nobody can tell at the moment.
    Unknown,
}

impl From<bool> for Status {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl Condition {
    /// A condition of type `kind` (CamelCase; `Ready` should always be there, `Synced` belongs to the host) with a
    /// stable CamelCase `reason` and a sentence for people.
    pub fn new(
        kind: impl Into<String>,
        status: impl Into<Status>,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind: kind.into(), status: status.into(), reason: reason.into(), message: message.into() }
    }

    /// Holds when `health` is ready; reason and message are those of `health`.
    pub fn from_health(kind: impl Into<String>, health: &Health) -> Self {
        Self::new(kind, health.state == State::Ready, health.reason.clone(), health.message.clone())
    }

    /// True when it holds.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == Status::True
    }

    pub(crate) fn into_wit(self) -> wit::Condition {
        let status = match self.status {
            Status::True => wit::ConditionStatus::True,
            Status::False => wit::ConditionStatus::False,
            Status::Unknown => wit::ConditionStatus::Unknown,
        };
        wit::Condition { type_: self.kind, status, reason: self.reason, message: self.message }
    }
}
