use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// For one answer: longer than the service itself takes before it gives up.
const PATIENCE: Duration = Duration::from_secs(40);

/// A client of the API.
#[derive(Clone)]
pub(crate) struct Http {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) text: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        self
    }

    /// The first field that the problem names.
    pub(crate) fn field(&self) -> &str {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        self.body["errors"][0]["field"].as_str().unwrap_or_default()
    }

    pub(crate) fn id(&self) -> String {
        self.body["id"].as_str().unwrap_or_else(|| panic!("no id: {}", self.text)).to_owned()
    }
}

impl Http {
    pub(crate) fn new(port: u16) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base: format!("http://127.0.0.1:{port}"), client }
    }

    /// None when there is no answer.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Option<Answer> {
        let answered = tokio::time::timeout(PATIENCE, async {
            let (parts, body) = self.client.request(request).await.ok()?.into_parts();
            Some((parts, body.collect().await.ok()?.to_bytes()))
        });
        let (parts, bytes) = answered.await.ok()??;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Some(Answer { status: parts.status, headers: parts.headers, body, text })
    }

    pub(crate) fn request(&self, method: Method, path: &str, token: &str, body: &Value) -> Request<Full<Bytes>> {
        let builder = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let builder = builder.header("authorization", format!("Bearer {token}"));
        match body {
            Value::Null => builder.body(Full::default()).unwrap(),
            body => builder.header("content-type", "application/json").body(body.to_string().into()).unwrap(),
        }
    }

    pub(crate) async fn try_get(&self, path: &str, token: &str) -> Option<Answer> {
        self.send(self.request(Method::GET, path, token, &Value::Null)).await
    }

    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.try_get(path, token).await.expect("an answer")
    }

    pub(crate) async fn post(&self, path: &str, token: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path, token, body)).await.expect("an answer")
    }

    pub(crate) async fn try_once(&self, path: &str, token: &str, key: &str, body: &Value) -> Option<Answer> {
        let mut request = self.request(Method::POST, path, token, body);
        request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        self.send(request).await
    }

    pub(crate) async fn once(&self, path: &str, token: &str, key: &str, body: &Value) -> Answer {
        self.try_once(path, token, key, body).await.expect("an answer")
    }

    pub(crate) async fn try_delete(&self, path: &str, token: &str) -> Option<Answer> {
        self.send(self.request(Method::DELETE, path, token, &Value::Null)).await
    }

    pub(crate) async fn delete(&self, path: &str, token: &str) -> Answer {
        self.try_delete(path, token).await.expect("an answer")
    }
}
