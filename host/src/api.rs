//! What the host calls things in a cluster: its own resources, labels, annotations, condition types. No I/O here.

pub mod component;
pub mod names;
pub mod overlay;
pub mod plugin;
pub mod rollout;
