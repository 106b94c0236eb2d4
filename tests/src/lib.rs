//! What the tests against real servers are written with.
//!
//! Each test has a namespace and hosts of its own; control plane and compiled plugins are shared. Hosts watch their
//! namespace only, and select the `Plugin` records of their test by label, so tests run side by side.
//!
//! ```text
//! let ns = TestCluster::shared().await.namespace("drift").await;
//! let host = ns.host().await;
//! ns.install(&component("web").await).await;
//! let web = ns.create(sample::web("shop")).await;
//! ns.wait_for(&web, condition("Ready", "True")).await;
//! ```
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod apiserver;
mod audit;
mod charts;
mod cluster;
mod command;
mod component;
mod document;
mod environment;
mod host;
pub mod kubelet;
mod metrics;
mod namespace;
pub mod native;
mod object;
mod port;
mod postgres;
mod proxy;
mod recording;
mod registry;
mod rpc;
pub mod sample;
pub mod temporal;
mod terminal;
mod transformation;

use std::time::Duration;

pub use apiserver::ApiServer;
pub use audit::{Audit, Mark, Requests};
pub use charts::{Outcome, Report, Trial, Writes};
pub use cluster::TestCluster;
pub use command::{Output, cosign, helm, transom, transom_as, transom_with_cluster};
pub use component::{Component, cache, cache_dir, component, component_at, engine, unique, variant};
pub use document::Page;
pub use environment::{Environment, from_environment, kube_tools, program};
pub use host::{Host, HostOptions, Immortal};
pub use metrics::Metrics;
pub use namespace::Namespace;
pub use object::{Condition, Target, condition, condition_of, of, stripped, up_to_date};
pub use port::free_port;
pub use postgres::Postgres;
pub use proxy::{Fault, Proxy, Seen};
pub use recording::Recording;
pub use registry::{Registry, Stopped};
pub use rpc::{Answers, Asked, Rpc};
pub use temporal::Temporal;
pub use terminal::{Terminal, without_cargo};
pub use transformation::{Behaviour, Transformation};

/// How long anything may take that a test waits for. On an idle machine nothing takes more than a few seconds, except
/// Kubernetes' garbage collector, which learns of a new kind after up to 30.
pub const DEADLINE: Duration = Duration::from_secs(90);
