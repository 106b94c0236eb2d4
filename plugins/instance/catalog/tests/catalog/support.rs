//! Real servers, and the catalog as a process between them.

mod cluster;
mod http;
mod operator;
mod postgres;
mod proxy;
mod service;

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use cluster::{Namespace, TestCluster};
pub(crate) use http::{Answer, Http};
pub(crate) use operator::{Operator, report};
pub(crate) use postgres::Postgres;
pub(crate) use proxy::Proxy;
pub(crate) use service::{Service, free_port};

/// For anything that should come about by itself.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(50);

/// Tokens of the tests' users.
pub(crate) const ALICE: &str = "token-of-alice-0123456789";
pub(crate) const BOB: &str = "token-of-bob-0123456789";
pub(crate) const ADMIN: &str = "token-of-admin-0123456789";

pub(crate) fn required(name: &str) -> PathBuf {
    match std::env::var_os(name).filter(|value| !value.is_empty()) {
        Some(value) => value.into(),
        None => panic!("{name} is not set: these tests need real servers, run them by `cargo xtask test`"),
    }
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        sleep(POLL).await;
    }
}
