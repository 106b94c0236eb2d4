//! Tests against a real API server, with real components, each with a namespace and hosts of its own.
//!
//! One program, so that they run side by side: they wait for servers most of the time, and one watches a host do
//! nothing for a minute.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod access;
mod calls;
mod catalog;
mod chart;
mod charts;
mod children;
mod compatibility;
mod crash;
mod deletion;
mod describe;
mod dev;
mod domain;
mod domain_database;
mod domain_jobs;
mod domain_workload;
mod drift;
mod durability;
mod environment;
mod environment_jobs;
mod faults;
mod hostile;
mod identity;
mod instance;
mod instance_charts;
mod instance_refused;
mod instance_upgrade;
mod instance_values;
mod kinds;
mod leader;
mod loading;
mod lookups;
mod model;
mod others;
mod overlays;
mod ownership;
mod process;
mod process_drain;
mod record;
mod refusals;
mod restart;
mod rollout;
mod samples;
mod seeds;
mod signatures;
mod sources;
mod steady;
mod swap;
mod traces;
mod tutorial;
mod verify;
mod webhooks;

use std::collections::BTreeMap;

use serde_json::Value;
use transom_tests::{Namespace, condition, sample};

/// What a host wrote: `writes(&[("patch deployments", 1)])`.
fn writes(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
}

/// A Web that is Ready.
async fn ready_web(ns: &Namespace, name: &str) -> Value {
    let web = ns.create(sample::web(name)).await;
    ns.wait_for(&web, condition("Ready", "True")).await
}

/// A Domain that is Ready, and its database.
async fn ready_domain(ns: &Namespace, name: &str) -> Value {
    ns.create(sample::database(name)).await;
    ns.create(sample::credentials(name)).await;
    let domain = ns.create(sample::domain(name)).await;
    ns.wait_for(&domain, condition("Ready", "True")).await
}
