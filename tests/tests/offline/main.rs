//! Tests that need the host's program and the guests, but no cluster.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails, and serde_json's index yields null where nothing is"
)]

mod command_line;
mod documents;
mod overlays;
mod purity;
mod replay;
