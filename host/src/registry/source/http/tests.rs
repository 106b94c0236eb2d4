use axum::Router;
use axum::http::{HeaderMap as Headers, StatusCode};
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use rstest::rstest;

use super::*;
use crate::api::plugin::SecretRef;
use crate::lookup::testing::{Pki, clients, secret, serve, serve_tls};

fn source(url: &str) -> HttpSource {
    HttpSource { url: url.into(), plaintext: url.starts_with("http://"), credentials: None, ca: None }
}

fn named(name: &str) -> Option<SecretRef> {
    Some(SecretRef { namespace: "n".into(), name: name.into() })
}

#[tokio::test]
async fn the_component_and_its_signature_come_from_a_server_with_its_own_authority_and_a_password() {
    let pki = Pki::new();
    let guarded = |body: &'static str| {
        get(move |headers: Headers| async move {
            let known = headers.get("authorization").is_some_and(|value| value == "Basic YW5uOnNlY3JldA==");
            if known { body.into_response() } else { StatusCode::UNAUTHORIZED.into_response() }
        })
    };
    let router = Router::new().route("/a.wasm", guarded("wasm")).route("/a.wasm.sig", guarded("sig"));
    let address = serve_tls(router, &pki).await;
    let login = secret(&[("username", "ann"), ("password", "secret")]);
    let known = clients(&[("login", login), ("ca", secret(&[("ca.crt", &pki.ca)]))]);
    let mut from = source(&format!("https://{address}/a.wasm"));
    (from.credentials, from.ca) = (named("login"), named("ca"));
    assert_eq!(fetch(&known, "spec", &from, true).await, Ok((b"wasm".to_vec(), Some(b"sig".to_vec()))));
    assert_eq!(fetch(&known, "spec", &from, false).await, Ok((b"wasm".to_vec(), None)));
    from.credentials = None;
    let error = fetch(&known, "spec", &from, true).await.unwrap_err();
    assert_eq!(error.reason, "Unauthorized");
    assert!(error.message.contains("check spec.source.http.credentials"), "{}", error.message);
    from.ca = None;
    assert_eq!(fetch(&known, "spec", &from, true).await.unwrap_err().reason, "Unavailable", "an unknown authority");
}

#[tokio::test]
async fn redirects_are_followed_without_the_password_and_not_for_ever() {
    let said =
        |headers: Headers| async move { headers.get("authorization").map_or("nobody", |_| "somebody").to_owned() };
    let elsewhere = serve(Router::new().route("/b.wasm", get(said))).await;
    let target = format!("http://{elsewhere}/b.wasm");
    let router = Router::new()
        .route("/out", get(move || async move { Redirect::temporary(&target) }))
        .route("/home", get(|| async { Redirect::temporary("a.wasm") }))
        .route("/a.wasm", get(said))
        .route("/loop", get(|| async { Redirect::temporary("/loop") }));
    let address = serve(router).await;
    let known = clients(&[("login", secret(&[("token", "t")]))]);
    let get = async |path: &str| {
        let mut from = source(&format!("http://{address}{path}"));
        from.credentials = named("login");
        fetch(&known, "spec", &from, false).await.map(|(wasm, _)| String::from_utf8(wasm).unwrap())
    };
    assert_eq!(get("/home").await.as_deref(), Ok("somebody"));
    assert_eq!(get("/out").await.as_deref(), Ok("nobody"));
    assert!(get("/loop").await.unwrap_err().message.contains("more than 5 redirects"));
    assert_eq!(get("/missing").await.unwrap_err().reason, "NotFound");
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_read() {
    let large = || async {
        // it says so beforehand, and never sends it
        let body = axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        ([("content-length", (MAX_COMPONENT_BYTES + 1).to_string())], body)
    };
    let address = serve(Router::new().route("/a.wasm", get(large))).await;
    let from = source(&format!("http://{address}/a.wasm"));
    assert_eq!(fetch(&clients(&[]), "spec", &from, false).await.unwrap_err().reason, "TooLarge");
}

#[rstest]
#[case("https://u:p@files.example/a", "must not hold credentials")]
#[case("ftp://files.example/a", "must look like https://")]
#[case("/a", "must look like https://")]
fn a_wrong_url_is_refused_with_the_fix(#[case] url: &str, #[case] said: &str) {
    let error = parse("spec.source.http", &source(url)).unwrap_err();
    assert_eq!(error.reason, "InvalidSource");
    assert!(error.message.contains(said), "{}", error.message);
}

#[rstest]
#[case("https://a.example/x/y", "http://a.example/z", None)]
#[case("https://a.example/x/y", "https://u@a.example/z", None)]
#[case("https://a.example/x/y", "file:///etc/passwd", None)]
#[case("https://a.example/x/y", "//b.example/z", Some("https://b.example/z"))]
#[case("https://a.example/x/y", "z?q=1", Some("https://a.example/x/z?q=1"))]
fn a_redirect_never_leaves_tls(#[case] from: &str, #[case] location: &str, #[case] to: Option<&str>) {
    let to = to.map(|to| to.parse::<Uri>().unwrap());
    assert_eq!(redirected(&from.parse().unwrap(), location).ok(), to);
}

#[test]
fn the_signature_is_beside_the_file_whatever_the_query() {
    assert_eq!(beside(&"https://a.example/x.wasm?v=1".parse().unwrap()).unwrap(), "https://a.example/x.wasm.sig?v=1");
}
