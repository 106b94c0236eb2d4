//! The Transom host: runs Kubernetes reconcilers that are sandboxed WebAssembly components.
//!
//! A plugin is a pure function from (object, live children, answers) to (children, status), and the host is the only
//! thing that acts. [`plan`] decides and knows no client; [`plugin`] runs components and is the only place that knows
//! wasmtime; [`registry`] loads versions; [`lookup`] answers their questions; [`control`] watches and writes;
//! [`shard`] sees to it that one replica does.

pub mod api;
pub mod cli;
pub mod control;
pub mod lookup;
pub mod overlay;
pub mod plan;
pub mod plugin;
pub mod record;
pub mod registry;
pub mod shard;
pub mod telemetry;
pub mod webhook;
