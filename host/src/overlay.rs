//! Overlays: patches of tenants on what plugins ask for, laid between a plan and its apply.
//!
//! ```text
//! Overlay records ─► store (watch, access) ─► Given ─► lay(Given, Rails, children of the plan) ─► children, outcomes
//! ```
//!
//! [`lay`] and everything below it but [`store`] and [`access`] are pure: the controller, `render` and `explain` use the
//! same functions.

pub mod access;
pub mod change;
pub mod guard;
pub mod json;
mod lay;
pub mod policy;
pub mod schema;
pub mod store;
pub mod strategic;
#[cfg(test)]
mod testing;

pub use lay::{Basis, Given, Laid, Layer, MAX_OVERLAYS, Outcome, Overlaid, Stamp, Trace, condition, lay};
