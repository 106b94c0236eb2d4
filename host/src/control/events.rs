//! Kubernetes Events about primaries, sent in the background: an Event that cannot be sent never delays a reconcile, and
//! while reconciles wait it takes little of the API server's time.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use crate::plan::check::shorten;
use crate::plan::contract::{Event, ObjectRef};
use crate::telemetry::metrics;

/// Events that wait to be sent; what comes on top is counted and dropped. Some hundred bytes each.
const WAITING: usize = 20_000;

/// Wait before an Event while primaries wait for a worker.
const PAUSE_WHILE_BUSY: Duration = Duration::from_millis(100);

/// events.k8s.io/v1: `note` is at most 1 kB.
const MAX_NOTE: usize = 1_024;

type Message = (ObjectReference, Event);

/// Sends Events. Equal ones are aggregated by the recorder.
pub struct Events {
    sender: mpsc::Sender<Message>,
}

impl Events {
    /// Starts the sender. `is_busy`: do reconciles wait?
    #[must_use]
    pub fn start(client: kube::Client, is_busy: impl Fn() -> bool + Send + 'static) -> Self {
        let (sender, mut receiver) = mpsc::channel::<Message>(WAITING);
        tokio::spawn(async move {
            let instance = std::env::var("POD_NAME").ok();
            let recorder = Recorder::new(client, Reporter { controller: "transom.dev/host".into(), instance });
            while let Some((about, event)) = receiver.recv().await {
                if is_busy() {
                    tokio::time::sleep(PAUSE_WHILE_BUSY).await;
                }
                let event = KubeEvent {
                    type_: if event.warning { EventType::Warning } else { EventType::Normal },
                    reason: shorten(&event.reason, 128),
                    note: Some(shorten(&event.note, MAX_NOTE)).filter(|note| !note.is_empty()),
                    action: "Reconcile".into(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &about).await {
                    metrics().event_dropped("Refused");
                    tracing::warn!(error = &error as &dyn std::error::Error, "event could not be sent");
                }
            }
        });
        Self { sender }
    }

    /// Sends an Event about an object, soon.
    pub fn send(&self, about: &ObjectRef, uid: &str, event: Event) {
        let about = ObjectReference {
            api_version: Some(about.kind.api_version.clone()),
            kind: Some(about.kind.kind.clone()),
            namespace: Some(about.namespace.clone()).filter(|ns| !ns.is_empty()),
            name: Some(about.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        if self.sender.try_send((about, event)).is_err() {
            metrics().event_dropped("QueueFull");
        }
    }
}
