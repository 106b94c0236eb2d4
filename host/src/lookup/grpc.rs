//! Unary gRPC calls with messages that the plugin encodes and decodes: the host knows no service.
//!
//! gRPC over HTTP/2 (`grpc/grpc: doc/PROTOCOL-HTTP2.md`): one length-prefixed message each way, the outcome in trailers.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;

use super::client::{Clients, Response, USER_AGENT, failed};
use super::grants::{Endpoint, is_plain};
use crate::plan::contract::{Answer, Value};

/// Of one request message.
const MAX_REQUEST: usize = 64 << 10;

/// Of one response message: what gRPC libraries take by default.
const MAX_RESPONSE: usize = 4 << 20;

const DEADLINE: Duration = Duration::from_secs(5);

/// Makes one call.
pub(super) async fn answer(clients: &Clients, endpoint: &Endpoint, path: &str, message: &[u8]) -> Answer {
    call(clients, endpoint, path, message).await.unwrap_or_else(|refused| refused)
}

async fn call(clients: &Clients, endpoint: &Endpoint, path: &str, message: &[u8]) -> Result<Answer, Answer> {
    if !is_plain(path) || path.matches('/').count() != 2 || path.ends_with('/') {
        return Err(failed(
            "InvalidArgument",
            format!("{path:?} is no method: it must look like /package.Service/Method"),
        ));
    }
    endpoint.allow(path)?;
    if message.len() > MAX_REQUEST {
        let size = message.len();
        return Err(failed("InvalidArgument", format!("{path}: a request of {size} bytes, at most {MAX_REQUEST}")));
    }
    let client = clients.get(endpoint).await?;
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0); // not compressed
    frame.put_u32(length);
    frame.put_slice(message);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{path}", endpoint.url()))
        .body(Full::new(frame.freeze()))
        .map_err(|error| failed("InvalidArgument", format!("{path}: {error}")))?;
    let headers = request.headers_mut();
    *headers = client.authorized();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if let Ok(timeout) = HeaderValue::try_from(format!("{}S", DEADLINE.as_secs())) {
        headers.insert("grpc-timeout", timeout);
    }
    let response = client.send(request, MAX_RESPONSE + 5, DEADLINE).await?;
    Ok(outcome(path, &response))
}

/// What the server said.
fn outcome(path: &str, response: &Response) -> Answer {
    // a response without a message has its status where the headers are
    let (code, message) = match response.trailers.get("grpc-status").or_else(|| response.headers.get("grpc-status")) {
        Some(status) => {
            let text = response.trailers.get("grpc-message").or_else(|| response.headers.get("grpc-message"));
            let text = text.map(|text| unescape(text.as_bytes())).unwrap_or_default();
            (status.to_str().ok().and_then(|status| status.parse().ok()).unwrap_or(2), text)
        }
        None => (code_of_http(response.status.as_u16()), format!("HTTP status {}, no gRPC status", response.status)),
    };
    match code {
        0 => match message_of(&response.body) {
            Some(message) => Answer::Found(Value::Bytes(message)),
            None => failed("Internal", format!("{path}: the answer is not one uncompressed message")),
        },
        5 => Answer::Absent,
        code => failed(name(code), format!("{path}: {}", if message.is_empty() { name(code) } else { &message })),
    }
}

/// The only message of a body.
fn message_of(body: &Bytes) -> Option<Vec<u8>> {
    let (compressed, rest) = body.split_first()?;
    let (length, message) = rest.split_at_checked(4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    (*compressed == 0 && message.len() == length as usize).then(|| message.to_vec())
}

/// `grpc/grpc: doc/statuscodes.md`, in CamelCase.
fn name(code: u32) -> &'static str {
    match code {
        0 => "Ok",
        1 => "Cancelled",
        3 => "InvalidArgument",
        4 => "DeadlineExceeded",
        5 => "NotFound",
        6 => "AlreadyExists",
        7 => "PermissionDenied",
        8 => "ResourceExhausted",
        9 => "FailedPrecondition",
        10 => "Aborted",
        11 => "OutOfRange",
        12 => "Unimplemented",
        13 => "Internal",
        14 => "Unavailable",
        15 => "DataLoss",
        16 => "Unauthenticated",
        _ => "Unknown",
    }
}

/// What a proxy means that answers instead of the server (`grpc/grpc: doc/http-grpc-status-mapping.md`).
fn code_of_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encoding, as `grpc-message` has it.
fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests;
