//! Write Transom plugins: a spec type, a pure function and builders.
//!
//! A plugin says what should be for an object; the host makes it so. It has no client, no clock and no network, so the
//! same input gives the same plan, and its tests run natively without a cluster.

mod admission;
mod answer;
#[doc(hidden)]
pub mod bindings;
#[doc(hidden)]
pub mod component;
mod condition;
mod context;
mod conversion;
mod crd;
mod failure;
mod health;
#[cfg(target_family = "wasm")]
mod heap;
mod job;
mod json;
mod kind;
pub mod lists;
pub mod log;
mod manifest;
pub mod names;
pub mod objects;
mod observed;
mod plan;
mod refusal;
mod stop;
pub mod testing;

pub use admission::{Admission, Review, Validated, Verdict};
pub use answer::{Answer, File, HttpResponse};
pub use condition::{Condition, Status};
pub use context::{CallOutcome, Context};
pub use conversion::{Convert, Unconvertible};
pub use failure::{Failure, Violations};
pub use health::{Health, State};
pub use job::{JobOutcome, JobRun, JobRuns};
#[doc(hidden)]
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
#[doc(hidden)]
pub use kind::foreign_json;
pub use kind::{AnyObject, Child, Kind, TypeMeta};
pub use manifest::{Delivery, Manifest, Plugin, Primary, Protocol, Reconcile};
pub use observed::Observed;
pub use plan::{ChildExt, Dependency, Desired, Plan, Planned};
pub use refusal::Refusal;
pub use stop::{Problem, Stop};

#[doc(hidden)]
pub use serde_json::Error as JsonError;

/// All that a plugin usually needs.
pub mod prelude {
    pub use kube::CustomResource;
    pub use schemars::JsonSchema;
    pub use serde::{Deserialize, Serialize};

    pub use crate::{
        Admission, ChildExt, Condition, Context, Convert, Delivery, Failure, Health, Manifest, Observed, Plan, Planned,
        Plugin, Protocol, Reconcile, Review, Unconvertible, Verdict, Violations,
    };
}

/// Makes a WebAssembly component of a [`Plugin`]. Natively it does nothing.
///
/// A plugin with an [`Admission`] or with several versions of a kind ([`Convert`]) says so:
/// `export!(MyPlugin, admission, conversion)`, or one of them. Without that the component has no such exports, and the
/// host installs no webhook.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        $crate::export!(@ $plugin, false, false, {});
    };
    ($plugin:ty, admission) => {
        $crate::export!(@ $plugin, true, false, {
            $crate::bindings::admission::export_admission!(Component with_types_in $crate::bindings::admission);
        });
    };
    ($plugin:ty, conversion) => {
        $crate::export!(@ $plugin, false, true, {
            $crate::bindings::conversion::export_conversion!(Component with_types_in $crate::bindings::conversion);
        });
    };
    ($plugin:ty, admission, conversion) => {
        $crate::export!(@ $plugin, true, true, {
            $crate::bindings::admission::export_admission!(Component with_types_in $crate::bindings::admission);
            $crate::bindings::conversion::export_conversion!(Component with_types_in $crate::bindings::conversion);
        });
    };
    (@ $plugin:ty, $admission:literal, $conversion:literal, { $($webhooks:tt)* }) => {
        #[cfg(target_family = "wasm")]
        #[allow(unsafe_code, reason = "the exports of a component are symbols with fixed names")]
        const _: () = {
            type Component = $crate::component::Component<$plugin, $admission, $conversion>;
            $crate::bindings::export_plugin!(Component with_types_in $crate::bindings);
            $($webhooks)*
        };
    };
}
