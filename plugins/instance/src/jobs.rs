//! Jobs run once. The cluster must not clean one up before its end was seen and written down: what is gone would be
//! made again. So `ttlSecondsAfterFinished` is left out of what is applied, and followed here.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use serde_json::{Map, Value};
use transom_sdk::prelude::*;
use transom_sdk::{AnyObject, Observed};

pub(crate) fn is_job(object: &AnyObject) -> bool {
    object.type_meta().group() == "batch" && &*object.type_meta().kind == "Job"
}

/// Takes the seconds after which a Job goes once it has finished out of its manifest.
pub(crate) fn take_ttl(fields: &mut Map<String, Value>) -> Option<u32> {
    let is = |name: &str, value: &str| fields.get(name).and_then(Value::as_str) == Some(value);
    if !(is("kind", "Job") && is("apiVersion", "batch/v1")) {
        return None;
    }
    let spec = fields.get_mut("spec")?.as_object_mut()?;
    // what is no number is for the API server to refuse
    let ttl = spec.get("ttlSecondsAfterFinished")?.as_u64()?;
    spec.remove("ttlSecondsAfterFinished");
    Some(u32::try_from(ttl).unwrap_or(u32::MAX))
}

/// How exactly such a time is kept: the same for all Jobs of a release, so that the time is asked for once.
pub(crate) fn granularity(shortest: Option<u32>) -> Duration {
    Duration::from_secs(u64::from(shortest.unwrap_or(0) / 4).clamp(10, 3_600))
}

/// Has the Job finished so long ago that it is to go?
pub(crate) fn has_expired(
    cx: &Context,
    live: &Observed<AnyObject>,
    ttl: Option<u32>,
    granularity: Duration,
) -> Result<bool, Failure> {
    let Some(ttl) = ttl else { return Ok(false) };
    let status: JobStatus = live.status()?;
    let is_end = |c: &&JobCondition| ["Complete", "Failed"].contains(&c.type_.as_str()) && c.status == "True";
    let Some(ended) = status.conditions.iter().flatten().find(is_end) else { return Ok(false) };
    if ttl == 0 {
        return Ok(true);
    }
    let Some(at) = status.completion_time.as_ref().or(ended.last_transition_time.as_ref()) else { return Ok(true) };
    Ok(cx.now(granularity)?.as_second() >= at.0.as_second().saturating_add(ttl.into()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_job_has_a_time_to_live() {
        let manifest = |kind: &str, ttl: Value| {
            let object = json!({ "apiVersion": "batch/v1", "kind": kind, "spec": { "ttlSecondsAfterFinished": ttl } });
            object.as_object().cloned().unwrap_or_default()
        };
        for (kind, ttl, expected) in [
            ("Job", json!(0), Some(0)),
            ("Job", json!(86_400), Some(86_400)),
            ("Job", json!("soon"), None),
            ("CronJob", json!(5), None),
        ] {
            assert_eq!(take_ttl(&mut manifest(kind, ttl)), expected, "{kind}");
        }
        assert_eq!(take_ttl(&mut Map::new()), None);
    }

    #[test]
    fn the_shorter_the_time_the_more_often_the_clock_is_asked() {
        let seconds = |shortest| granularity(shortest).as_secs();
        assert_eq!([None, Some(0), Some(100), Some(u32::MAX)].map(seconds), [10, 10, 25, 3_600]);
    }
}
