use futures::StreamExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::{DEADLINE, Namespace, Target};

/// Every state that an object was in.
pub struct Recording {
    target: Target,
    states: watch::Receiver<Vec<Option<Value>>>,
    task: AbortHandle,
}

impl Recording {
    /// The first state is noted before this returns.
    pub(crate) async fn start(ns: &Namespace, target: &Target) -> Self {
        let mut watch = Box::pin(ns.states(target));
        let first = watch.next().await.expect("a watch never ends");
        let (noted, states) = watch::channel(vec![first]);
        let task = tokio::spawn(async move {
            while let Some(state) = watch.next().await {
                noted.send_modify(|states| states.push(state));
            }
        });
        Self { target: target.clone(), states, task: task.abort_handle() }
    }

    /// What `look` sees in each state, without repetitions, until and with the state for which `is_last` holds. None: it
    /// did not exist.
    ///
    /// Another watch may have shown that state before: this one is waited for.
    ///
    /// # Panics
    ///
    /// When there is no such state within the deadline.
    pub async fn changes_until(
        mut self,
        is_last: impl Fn(Option<&Value>) -> bool,
        look: impl Fn(&Value) -> Value,
    ) -> Vec<Option<Value>> {
        let is_last = |state: &Option<Value>| is_last(state.as_ref());
        let came = self.states.wait_for(|states| states.iter().any(is_last));
        let is_late = tokio::time::timeout(DEADLINE, came).await.is_err();
        if is_late {
            panic!("waited {DEADLINE:?} for the last state of {}; seen: {:#?}", self.target, *self.states.borrow());
        }
        let states = self.states.borrow();
        let last = states.iter().position(is_last).unwrap_or_default();
        let mut seen: Vec<Option<Value>> = states.iter().take(last + 1).map(|s| s.as_ref().map(&look)).collect();
        seen.dedup();
        seen
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}
