use std::sync::{Arc, Mutex};

use futures::StreamExt;
use serde_json::Value;
use tokio::task::AbortHandle;

use crate::{Namespace, Target};

/// Every state that an object was in.
pub struct Recording {
    states: Arc<Mutex<Vec<Option<Value>>>>,
    task: AbortHandle,
}

impl Recording {
    /// The first state is noted before this returns.
    pub(crate) async fn start(ns: &Namespace, target: &Target) -> Self {
        let mut watch = Box::pin(ns.states(target));
        let first = watch.next().await.expect("a watch never ends");
        let states = Arc::new(Mutex::new(vec![first]));
        let noted = states.clone();
        let task = tokio::spawn(async move {
            while let Some(state) = watch.next().await {
                noted.lock().unwrap().push(state);
            }
        });
        Self { states, task: task.abort_handle() }
    }

    /// What `look` sees in each state, without repetitions. None: it did not exist.
    ///
    /// # Panics
    ///
    /// When a state was noted halfway.
    #[must_use]
    pub fn changes(&self, look: impl Fn(&Value) -> Value) -> Vec<Option<Value>> {
        let states = self.states.lock().unwrap();
        let mut seen: Vec<Option<Value>> = states.iter().map(|state| state.as_ref().map(&look)).collect();
        seen.dedup();
        seen
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.task.abort();
    }
}
