//! The time, rounded down, so that it changes seldom and a plan that used it can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::plan::contract::{Answer, Lookup, Value};

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The time as a multiple of `seconds`.
pub(super) fn answer(seconds: u32) -> Answer {
    let step = u64::from(seconds.max(1));
    Answer::Found(Value::Time(now().as_secs() / step * step))
}

/// How long a clock's answer still holds; none for other lookups.
pub(super) fn changes_in(lookup: &Lookup) -> Option<Duration> {
    let Lookup::Clock { seconds } = lookup else {
        return None;
    };
    let step = u64::from((*seconds).max(1));
    let now = now();
    Some(Duration::from_secs((now.as_secs() / step + 1) * step).saturating_sub(now))
}
