//! From a `Plugin` record to a serving version: fetch, digest, compile, describe, check, custom resource definitions,
//! watches. Every step is a condition with a stable reason; while one fails, the version before goes on serving.

mod access;
mod compatibility;
mod crd;
mod load;
mod records;
pub mod rollout;
mod source;

pub use crd::{DefinitionError, install_definition};
pub use load::{LoadFailure, Loaded, Loader, digest_of};
pub use records::Registry;
