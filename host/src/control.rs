//! The rim: watches, queue, writes. Everything that talks to the API server about primaries and children is here; what
//! to write is decided in [`crate::plan`].

pub mod access;
pub mod account;
pub mod backoff;
pub mod cache;
pub mod calls;
pub mod cluster;
pub mod controller;
pub mod damper;
pub mod events;
pub mod key;
pub mod kinds;
mod overlays;
pub mod pace;
pub mod queue;
pub mod reconcile;
mod refusals;
pub mod serving;
pub mod watch;
