//! What keeps pods from running.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use transom_sdk::Answer;
use transom_sdk::prelude::*;

/// Characters of a log that go into a condition.
const LOG_TAIL: usize = 1_500;

/// The first container of these pods that has failed or cannot start, with the end of its log; none when all is well.
/// Asked only when something is wrong: in the steady state nobody looks at pods.
pub(crate) fn trouble(cx: &Context, namespace: &str, selector: &str) -> Result<Option<String>, Failure> {
    let pods = match cx.try_list_in::<Pod>(namespace, selector)? {
        Answer::Found(pods) => pods,
        Answer::Denied(message) | Answer::Failed { message, .. } => return Ok(Some(message)),
        _ => return Ok(None),
    };
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    Ok(statuses.into_iter().find_map(why))
}

fn why(status: &ContainerStatus) -> Option<String> {
    let ended = [status.state.as_ref(), status.last_state.as_ref()];
    let ended = ended.into_iter().flatten().filter_map(|state| state.terminated.as_ref());
    if let Some(ended) = ended.into_iter().find(|ended| ended.exit_code != 0) {
        let said = ended.message.as_deref().map(str::trim).filter(|said| !said.is_empty());
        let said = said.map_or_else(|| ended.reason.clone().unwrap_or_default(), |said| tail(said).to_owned());
        return Some(format!("container {} ended with {}: {said}", status.name, ended.exit_code));
    }
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason =
        waiting.reason.as_deref().filter(|reason| !matches!(*reason, "PodInitializing" | "ContainerCreating"))?;
    Some(format!("container {} waits: {reason} {}", status.name, waiting.message.as_deref().unwrap_or_default()))
}

fn tail(text: &str) -> &str {
    let skipped = text.chars().count().saturating_sub(LOG_TAIL);
    text.char_indices().nth(skipped).and_then(|(at, _)| text.get(at..)).unwrap_or(text)
}
