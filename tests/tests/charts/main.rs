//! `cargo xtask test --charts DIR`: charts of a folder on a real API server. No part of `cargo test`: it takes as long as
//! somebody wants to watch, and needs charts that are not ours to ship.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::time::Duration;

use transom_tests::{TestCluster, Trial, from_environment};

/// Folder with charts.
const FOLDER: &str = "TRANSOM_TEST_CHARTS";
/// How many minutes nothing may be written.
const MINUTES: &str = "TRANSOM_TEST_CHARTS_MINUTES";

#[tokio::test]
async fn every_chart_runs_or_is_refused_and_then_nothing_is_written() {
    let folder: PathBuf = from_environment(FOLDER).unwrap_or_else(|| panic!("{FOLDER} names a folder with charts"));
    let minutes = from_environment::<u64>(MINUTES).unwrap_or(10);
    let ns = TestCluster::shared().await.namespace("charts").await;
    let trial = Trial { folder, quiet: Duration::from_secs(60 * minutes), restarts: 3 };
    let report = trial.run(&ns).await;
    println!("{report}");
    assert_eq!(report.faults(), Vec::<String>::new());
}
