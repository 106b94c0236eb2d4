//! Write Transom plugins: a spec type, a pure function and builders.
//!
//! A plugin says what should be for an object; the host makes it so. It has no client, no clock and no network, so the
//! same input gives the same plan, and its tests run natively without a cluster.

mod answer;
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod component;
mod condition;
mod context;
mod crd;
mod failure;
mod health;
#[cfg(target_family = "wasm")]
mod heap;
mod kind;
pub mod log;
mod manifest;
pub mod names;
pub mod objects;
mod observed;
mod plan;
pub mod testing;

pub use answer::{Answer, File, HttpResponse};
pub use condition::{Condition, Status};
pub use context::{CallOutcome, Context};
pub use failure::{Failure, Violations};
pub use health::{Health, State};
#[doc(hidden)]
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
#[doc(hidden)]
pub use kind::foreign_json;
pub use kind::{AnyObject, Child, Kind, TypeMeta};
pub use manifest::{Delivery, Manifest, Plugin, Primary, Protocol, Reconcile};
pub use observed::Observed;
pub use plan::{ChildExt, Dependency, Desired, Plan, Planned};

#[doc(hidden)]
pub use serde_json::Error as JsonError;

/// All that a plugin usually needs.
pub mod prelude {
    pub use kube::CustomResource;
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        ChildExt, Condition, Context, Delivery, Failure, Health, Manifest, Observed, Plan, Planned, Plugin, Protocol,
        Reconcile, Violations,
    };
}

/// Makes a WebAssembly component of a [`Plugin`]. Natively it does nothing.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the exports of a component are symbols with fixed names")]
        const _: () = {
            type Component = $crate::component::Component<$plugin>;
    $crate::bindings::export_plugin!(Component with_types_in $crate::bindings);
        };
    };
}
