//! What benchmarks of a running host have in common.

pub(crate) mod api;
pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod host;
pub(crate) mod load;
pub(crate) mod memory;
pub(crate) mod report;
pub(crate) mod usage;
pub(crate) mod workload;
