//! From the component's exports to an author's functions and back.

use std::marker::PhantomData;

use serde::Deserialize;

use crate::bindings::exports::transom::plugin::reconciler::{self as wit, Guest};
use crate::context::Context;
use crate::failure;
use crate::manifest::{Manifest, Plugin, Route};

/// What [`export!`](crate::export) exports for a plugin.
pub struct Component<P>(PhantomData<P>);

impl<P: Plugin> Guest for Component<P> {
    fn describe() -> wit::Manifest {
        report_panics();
        // a CRD without a JSON form is caught by any test that calls `testing::manifest`
        describe::<P>().unwrap_or_else(|error| unreachable!("the manifest has no JSON form: {error}"))
    }

    fn reconcile(request: wit::Request) -> Result<wit::Step, wit::Failure> {
        report_panics();
        reconcile::<P>(request)
    }
}

/// A trap carries no message, so the message is logged before it.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| crate::log::error(panic.to_string())));
}

pub(crate) fn describe<P: Plugin>() -> Result<wit::Manifest, serde_json::Error> {
    P::manifest().to_wit()
}

pub(crate) fn reconcile<P: Plugin>(request: wit::Request) -> Result<wit::Step, wit::Failure> {
    let (object, cx) = Context::new(request);
    let manifest = P::manifest();
    let route = route(&manifest, &object)?;
    let (result, cx) = (route.run)(&object, cx);
    let asked = cx.asked();
    let plan = match result {
        // whoever swallowed a pending lookup has decided without knowing
        Ok(_) if !asked.is_empty() => return Ok(wit::Step::Ask(asked)),
        Ok(plan) => plan.into_wit(cx.uses()),
        Err(failure) => Err(failure),
    };
    match plan {
        Ok(plan) => Ok(wit::Step::Done(plan)),
        Err(failure) => failure::to_wit(failure).map_or(Ok(wit::Step::Ask(asked)), Err),
    }
}

/// The kind's route; a plugin with one kind needs no look at the object.
fn route<'a, P: Plugin>(manifest: &'a Manifest<P>, object: &str) -> Result<&'a Route, wit::Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Header {
        api_version: String,
        kind: String,
    }
    if let [only] = manifest.routes.as_slice() {
        return Ok(only);
    }
    let header: Header = serde_json::from_str(object).map_err(|error| wit::Failure::Internal(error.to_string()))?;
    let serves = |route: &&Route| route.kind.is(&header.api_version, &header.kind);
    manifest
        .routes
        .iter()
        .find(serves)
        .ok_or_else(|| wit::Failure::Internal(format!("{} {} is not served", header.api_version, header.kind)))
}
