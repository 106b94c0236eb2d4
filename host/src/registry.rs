//! From a `Plugin` record to a serving version: fetch, digest, compile, describe, check, custom resource definitions,
//! watches. Every step is a condition with a stable reason; while one fails, the version before goes on serving.

mod access;
mod compatibility;
mod crd;
pub(crate) mod fetch;
mod load;
mod migrate;
mod policy;
pub(crate) mod publish;
mod records;
pub mod rollout;
pub(crate) mod signature;
pub(crate) mod signing;
pub(crate) mod source;
mod store;

pub use compatibility::object_faults;
pub use crd::{Definition, DefinitionError, install_definition};
pub use load::{LoadFailure, Loaded, Loader};

pub use crate::lookup::registry::digest_of;
pub use policy::Policy;
pub use records::{Registry, Role};
