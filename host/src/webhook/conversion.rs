//! `ConversionReview` (apiextensions.k8s.io/v1): objects in another version of their kind, by the version of the plugin
//! whose definition is installed.

use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::server::{Answer, Failure};
use crate::control::controller::Controller;
use crate::plan::check::shorten;
use crate::plugin::Plugin;
use crate::telemetry::metrics;

/// Of one error.
const MAX_MESSAGE: usize = 1_024;

#[derive(Deserialize)]
struct ConversionReview<'a> {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
    #[serde(borrow)]
    request: Request<'a>,
}

/// `ConversionRequest` of k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/types.go.
#[derive(Deserialize)]
struct Request<'a> {
    uid: String,
    #[serde(rename = "desiredAPIVersion")]
    desired: String,
    #[serde(borrow)]
    objects: Vec<&'a RawValue>,
}

/// Answers one review. What cannot be converted is said in the review itself: the API server has no failure policy for
/// conversions.
pub(super) async fn answer(controller: &Controller, plugin: &str, body: &[u8]) -> Answer {
    let started = Instant::now();
    let review: ConversionReview<'_> = serde_json::from_slice(body).map_err(Failure::malformed)?;
    if (&*review.api_version, &*review.kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
        return Err(Failure::malformed(format!("{} {}", review.api_version, review.kind)));
    }
    let Request { uid, desired, objects } = review.request;
    let converter = controller.hooks.converter(plugin);
    let known = if converter.is_some() { plugin } else { "" };
    let converted = match converter {
        Some(converter) => all(&converter, &objects, &desired).await,
        None => Err(("NotServing", format!("the plugin {plugin} is not loaded (yet)"))),
    };
    let outcome = converted.as_ref().map_or_else(|(reason, _)| *reason, |_| "Converted");
    metrics().webhook(known, "convert", outcome, started);
    let response = match converted {
        Ok(objects) => json!({ "uid": uid, "convertedObjects": objects, "result": { "status": "Success" } }),
        Err((reason, message)) => {
            tracing::warn!(plugin, reason, message, "objects could not be converted");
            json!({ "uid": uid, "result": { "status": "Failure", "message": message } })
        }
    };
    Ok(json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response }))
}

async fn all(converter: &Plugin, objects: &[&RawValue], desired: &str) -> Result<Vec<Value>, (&'static str, String)> {
    let mut converted = Vec::with_capacity(objects.len());
    for object in objects {
        let said = |text: &str| shorten(&format!("{}: {text}", name_of(object.get())), MAX_MESSAGE);
        let answer = converter.convert(object.get(), desired).await;
        let answer = answer.map_err(|error| (error.reason(), said(&error.to_string())))?;
        let answer = answer.map_err(|text| ("Refused", said(&text)))?;
        let answer = serde_json::from_str(&answer);
        converted.push(answer.map_err(|_| ("MalformedResponse", said("the plugin's answer is not JSON")))?);
    }
    Ok(converted)
}

/// Namespace and name, for people.
fn name_of(object: &str) -> String {
    #[derive(Default, Deserialize)]
    struct Named {
        #[serde(default)]
        metadata: Meta,
    }
    #[derive(Default, Deserialize)]
    struct Meta {
        #[serde(default)]
        namespace: String,
        #[serde(default)]
        name: String,
    }
    let Meta { namespace, name } = serde_json::from_str::<Named>(object).unwrap_or_default().metadata;
    if namespace.is_empty() { name } else { format!("{namespace}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_as_people_name_them() {
        assert_eq!(name_of(r#"{"metadata":{"namespace":"n","name":"a"}}"#), "n/a");
        assert_eq!(name_of(r#"{"metadata":{"name":"a"}}"#), "a");
        assert_eq!(name_of("[]"), "");
    }
}
