//! The deciding part: data in, data out. No client, no clock, no wasmtime; the controller, `render` and the tests use
//! the same functions.
//!
//! ```text
//! Snapshot ─► request::build ─► (plugin call ⇄ lookups: rounds) ─► contract::Plan
//!    contract::Plan ─► check ─► decide: Desired × live = Decision (applies, prunes, status)
//! ```

pub mod check;
pub mod contract;
pub mod decide;
pub mod diff;
pub mod filled_in;
pub(crate) mod glob;
pub mod object;
pub mod owners;
pub mod path;
pub mod quantity;
pub mod request;
pub mod review;
pub mod rounds;
pub mod status;
