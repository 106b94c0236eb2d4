//! How a new version is let in: planned against every live object, let serve a part, watched, and taken back.
//!
//! What is decided here is pure, but for the evaluation of a version ([`shadow`]), which reads and never writes. The record's
//! own task ([`super::records`]) carries out.

pub mod change;
pub(super) mod health;
pub mod plan;
pub(super) mod shadow;
pub(super) mod steps;
