//! Charts with the features of public ones that were seen to go wrong; `cargo xtask test --charts DIR` tries those.

use std::path::Path;
use std::time::Duration;

use transom_tests::{TestCluster, Trial};

#[tokio::test]
async fn charts_with_features_of_public_ones_run_and_then_nothing_is_written() {
    let ns = TestCluster::shared().await.namespace("charts").await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/public");
    let trial = Trial { folder, quiet: Duration::from_secs(10), restarts: 2 };
    let report = trial.run(&ns).await;
    assert_eq!(report.faults(), Vec::<String>::new(), "{report}");
    let running = report.charts.iter().filter(|outcome| outcome.phase == "Running").count();
    assert_eq!(running, report.charts.len(), "{report}");
}
