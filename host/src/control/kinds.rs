//! Kinds of children that a plugin makes without having named them.
//!
//! The inventory of a primary is the label on its children, so a kind that nobody knows of after a crash is a kind whose
//! children are lost. Before the first object of such a kind is made, it is written into the status of the `Plugin`
//! record: the record's task does that, because it alone writes there.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::plan::contract::TypeMeta;

/// Of one plugin at a time: the record and the watches must stay small.
pub const MAX_KINDS: usize = 256;

/// A record's task may have a component to fetch first.
const RECORDED_WITHIN: Duration = Duration::from_secs(10);

/// Why a kind is not on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    /// No more fit.
    #[error("the plugin has made {MAX_KINDS} kinds of children, and makes no more")]
    TooMany,
    /// Nobody wrote it in time.
    #[error("the kind could not be written into the status of the Plugin record within {RECORDED_WITHIN:?}")]
    NotRecorded,
}

/// The kinds of one plugin, shared by all of its versions.
pub struct Kinds {
    recorded: watch::Sender<BTreeSet<TypeMeta>>,
    asked: Mutex<BTreeSet<TypeMeta>>,
    wake: Notify,
}

impl Default for Kinds {
    fn default() -> Self {
        Self { recorded: watch::Sender::new(BTreeSet::new()), asked: Mutex::default(), wake: Notify::new() }
    }
}

impl Kinds {
    /// Waits until a kind is on record.
    ///
    /// # Errors
    /// When there are too many, or nobody wrote it in time.
    pub async fn record(&self, kind: &TypeMeta) -> Result<(), KindError> {
        let mut recorded = self.recorded.subscribe();
        let room = {
            let known = recorded.borrow();
            if has(&known, kind) {
                return Ok(());
            }
            MAX_KINDS.saturating_sub(known.len())
        };
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() >= room && !asked.contains(kind) {
                return Err(KindError::TooMany);
            }
            asked.insert(kind.clone());
        }
        self.wake.notify_one();
        let written = recorded.wait_for(|known| has(known, kind));
        match tokio::time::timeout(RECORDED_WITHIN, written).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(KindError::NotRecorded),
        }
    }

    /// Resolves when somebody has asked since the last time.
    pub async fn asked(&self) {
        self.wake.notified().await;
    }

    /// What is to be written.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<TypeMeta> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is asked for cannot be written now.
    pub fn forget(&self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// These, and no others, are on record.
    pub fn are(&self, kinds: BTreeSet<TypeMeta>) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).retain(|kind| !has(&kinds, kind));
        self.recorded.send_if_modified(|known| {
            let changed = *known != kinds;
            *known = kinds;
            changed
        });
    }
}

/// Is the kind among these, in whatever version? Its objects are the same.
fn has(kinds: &BTreeSet<TypeMeta>, kind: &TypeMeta) -> bool {
    kinds.contains(kind) || kinds.iter().any(|known| known.is_same_kind(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(number: usize) -> TypeMeta {
        TypeMeta::new("v1", format!("Kind{number}"))
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_waits_until_the_kind_is_on_record() {
        let kinds = Kinds::default();
        let (a, b) = (kind(1), kind(2));
        let write = async {
            kinds.asked().await;
            assert_eq!(kinds.wanted(), [a.clone()].into());
            kinds.are([a.clone()].into());
        };
        let (asked, ()) = tokio::join!(kinds.record(&a), write);
        assert_eq!(asked, Ok(()));
        assert_eq!(kinds.wanted(), BTreeSet::new());
        assert_eq!(kinds.record(&a).await, Ok(()));
        assert_eq!(kinds.record(&b).await, Err(KindError::NotRecorded));
        // forgotten ones have to be asked for again
        kinds.are(BTreeSet::new());
        assert_eq!(kinds.record(&a).await, Err(KindError::NotRecorded));
    }

    #[tokio::test]
    async fn there_is_an_end_to_them() {
        let kinds = Kinds::default();
        kinds.are((0..MAX_KINDS).map(kind).collect());
        assert_eq!(kinds.record(&kind(7)).await, Ok(()));
        assert_eq!(kinds.record(&kind(MAX_KINDS)).await, Err(KindError::TooMany));
    }
}
