use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Redirect, Response as Reply};
use axum::routing::get;

use super::*;
use crate::lookup::grants::Protocol;
use crate::lookup::testing::{Pki, clients, endpoint, secret, serve, serve_tls, spec, with_secrets};

fn router() -> Router {
    let endless = || async {
        let chunks = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1 << 16]));
        Reply::new(Body::from_stream(chunks))
    };
    Router::new()
        .route("/base/text", get(|| async { ([("etag", "\"1\""), ("x-secret", "no")], "hello") }))
        .route("/base/query", get(|uri: Uri| async move { uri.query().unwrap_or_default().to_owned() }))
        .route("/base/endless", get(endless))
        .route("/base/teapot", get(|| async { StatusCode::IM_A_TEAPOT }))
        .route("/base/inside", get(|| async { Redirect::temporary("text") }))
        .route("/base/outside", get(|| async { Redirect::temporary("/other") }))
        .route("/base/elsewhere", get(|| async { Redirect::permanent("https://elsewhere.example/base/text") }))
        .route("/base/again", get(|| async { Redirect::temporary("/base/again") }))
        .route("/base/forbidden/x", get(|| async { "never granted" }))
        .route("/base/to-forbidden", get(|| async { Redirect::temporary("/base/forbidden/x") }))
        .route("/other", get(|| async { "not of the endpoint" }))
}

fn body(answer: &Answer) -> &str {
    match answer {
        Answer::Found(Value::Http { body, .. }) => std::str::from_utf8(body).unwrap(),
        Answer::Failed(problem) => &problem.reason,
        Answer::Denied(_) => "(denied)",
        Answer::Absent => "(absent)",
        Answer::Found(_) => "(other)",
    }
}

#[tokio::test]
async fn get_and_head() {
    let (clients, to) =
        (clients(&[]), endpoint(Protocol::Http, spec(&format!("http://{}/base", serve(router()).await))));
    let headers = vec![("content-type".into(), "text/plain; charset=utf-8".into()), ("etag".into(), "\"1\"".into())];
    let expected =
        |body: &[u8]| Answer::Found(Value::Http { status: 200, headers: headers.clone(), body: body.into() });
    assert_eq!(answer(&clients, &to, false, "/text").await, expected(b"hello"));
    assert_eq!(answer(&clients, &to, true, "/text").await, expected(b""));
    assert_eq!(body(&answer(&clients, &to, false, "/query?a=1&b=%2e%2e").await), "a=1&b=%2e%2e");
    assert_eq!(answer(&clients, &to, false, "/missing").await, Answer::Absent);
    assert_eq!(body(&answer(&clients, &to, false, "/teapot").await), "Http418");
    assert_eq!(body(&answer(&clients, &to, false, "/endless").await), "TooLarge");
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_down() {
    let said = async |address: String| {
        let answer = answer(&clients(&[]), &endpoint(Protocol::Http, spec(&address)), false, "/text").await;
        let Answer::Failed(crate::plan::contract::Problem { reason, message }) = answer else { panic!("{answer:?}") };
        assert_eq!(reason, "Unavailable");
        message
    };
    let plain = said(format!("https://{}/base", serve(router()).await)).await;
    assert!(plain.contains(": the server speaks no TLS; if that is meant, set spec.endpoints["), "{plain}");
    assert!(plain.ends_with("].plaintext to true"), "{plain}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let down = said(format!("https://{address}/base")).await;
    assert!(!down.contains("speaks no TLS"), "{down}");
}

#[tokio::test]
async fn redirects_are_followed_within_the_endpoint_only() {
    let mut granted = spec(&format!("http://{}/base", serve(router()).await));
    granted.paths = vec!["/*".into()];
    let (clients, to) = (clients(&[]), endpoint(Protocol::Http, granted));
    assert_eq!(body(&answer(&clients, &to, false, "/inside").await), "hello");
    assert_eq!(body(&answer(&clients, &to, false, "/outside").await), "Http307");
    assert_eq!(body(&answer(&clients, &to, false, "/elsewhere").await), "Http308");
    assert_eq!(body(&answer(&clients, &to, false, "/again").await), "TooManyRedirects");
    assert_eq!(body(&answer(&clients, &to, false, "/to-forbidden").await), "(denied)");
    for path in ["/../other", "/%2e%2e/other", "//other", "/a\\b", "other"] {
        assert_eq!(body(&answer(&clients, &to, false, path).await), "(denied)", "{path}");
    }
}

#[tokio::test]
async fn tls_with_a_private_authority_and_a_password() {
    let pki = Pki::new();
    let who = |headers: HeaderMap| async move {
        headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let address = format!("https://{}", serve_tls(Router::new().route("/who", get(who)), &pki).await);
    let credentials = secret(&[("username", "ann"), ("password", "secret")]);
    let clients = clients(&[("ca", secret(&[("ca.crt", &pki.ca)])), ("credentials", credentials)]);
    let to = endpoint(Protocol::Http, with_secrets(spec(&address), true, true));
    assert_eq!(body(&answer(&clients, &to, false, "/who").await), "Basic YW5uOnNlY3JldA==");
    let distrustful = endpoint(Protocol::Http, with_secrets(spec(&address), true, false));
    assert_eq!(body(&answer(&clients, &distrustful, false, "/who").await), "Unavailable");
}

#[tokio::test]
async fn credentials_that_cannot_be_used_are_a_failure_with_the_field() {
    for (fields, said) in [
        (vec![("password", "x")], "has password but no username"),
        (vec![("tls.crt", "x")], "tls.crt and tls.key belong together"),
        (vec![("other", "x")], "has neither username, token nor tls.crt"),
        (vec![("token", "a\nb")], "characters that no header can have"),
        (vec![("tls.crt", "x"), ("tls.key", "y")], "tls.key is not PEM"),
    ] {
        let clients = clients(&[("credentials", secret(&fields))]);
        let to = endpoint(Protocol::Http, with_secrets(spec("https://127.0.0.1:1"), true, false));
        match answer(&clients, &to, false, "/").await {
            Answer::Failed(problem) => {
                assert_eq!(problem.reason, "InvalidCredentials");
                assert!(problem.message.contains(said), "{}", problem.message);
            }
            other => panic!("{other:?}"),
        }
    }
}
