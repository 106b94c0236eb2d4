//! Logs, traces, metrics and health.

mod http;
mod log;
mod metrics;
mod trace;

pub use self::http::{Readiness, serve};
pub use log::{LogFormat, init};
pub use metrics::{Metrics, metrics};
pub use trace::Traces;

/// An error with its causes in one line, for conditions and logs.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
