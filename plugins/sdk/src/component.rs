//! From the component's exports to an author's functions and back.

use std::marker::PhantomData;

use serde::Deserialize;

use crate::bindings::admission::exports::transom::plugin::admission;
use crate::bindings::conversion::exports::transom::plugin::conversion;
use crate::bindings::exports::transom::plugin::reconciler::{self as wit, Guest};
use crate::context::Context;
use crate::failure;
use crate::manifest::{Manifest, Plugin, Route};

/// What [`export!`](crate::export) exports for a plugin, and which webhooks are among it.
pub struct Component<P, const ADMISSION: bool = false, const CONVERSION: bool = false>(PhantomData<P>);

impl<P: Plugin, const ADMISSION: bool, const CONVERSION: bool> Guest for Component<P, ADMISSION, CONVERSION> {
    fn describe() -> wit::Manifest {
        report_panics();
        let manifest = P::manifest();
        // a webhook that nobody calls would be taken for one that admits everything
        assert!(
            ADMISSION || manifest.admissions.is_empty(),
            "the manifest names an admission: write `export!(…, admission)`"
        );
        assert!(
            CONVERSION || manifest.versions.is_empty(),
            "the manifest names versions: write `export!(…, conversion)`"
        );
        // a CRD without a JSON form is caught by any test that calls `testing::manifest`
        describe::<P>().unwrap_or_else(|error| unreachable!("the manifest has no JSON form: {error}"))
    }

    fn reconcile(request: wit::Request) -> Result<wit::Step, wit::Failure> {
        report_panics();
        reconcile::<P>(request)
    }
}

impl<P: Plugin, const CONVERSION: bool> admission::Guest for Component<P, true, CONVERSION> {
    fn default(review: admission::Review) -> Option<String> {
        report_panics();
        crate::admission::default_of::<P>(&review)
    }

    fn validate(review: admission::Review) -> admission::Verdict {
        report_panics();
        crate::admission::verdict_of::<P>(&review)
    }
}

impl<P: Plugin, const ADMISSION: bool> conversion::Guest for Component<P, ADMISSION, true> {
    fn convert(object: String, to_api_version: String) -> Result<String, String> {
        report_panics();
        crate::conversion::convert::<P>(&object, &to_api_version)
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
    if let [only] = manifest.routes.as_slice() {
        return Ok(only);
    }
    let (api_version, kind) = header(object).map_err(|error| wit::Failure::Internal(error.to_string()))?;
    let serves = |route: &&Route| route.kind.is(&api_version, &kind);
    manifest
        .routes
        .iter()
        .find(serves)
        .ok_or_else(|| wit::Failure::Internal(format!("{api_version} {kind} is not served")))
}

/// API version and kind of an object.
pub(crate) fn header(object: &str) -> Result<(String, String), serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Header {
        api_version: String,
        kind: String,
    }
    serde_json::from_str(object).map(|Header { api_version, kind }| (api_version, kind))
}
