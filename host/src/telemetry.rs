//! Logs, metrics and health.

mod http;
mod log;
mod metrics;

pub use self::http::{Readiness, serve};
pub use log::{LogFormat, init};
pub use metrics::{Metrics, metrics};
