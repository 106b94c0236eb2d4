use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::Buf;
use rstest::rstest;
use tokio::net::TcpListener;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request as Asked, Response as Answered, Status};

use super::*;
use crate::lookup::grants::Protocol;
use crate::lookup::testing::{Pki, clients, endpoint, secret, spec, with_secrets};
use crate::plan::contract::Problem;

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; src.remaining()];
        src.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// What the methods of the service do.
async fn method(path: String, asked: Asked<Vec<u8>>) -> Result<Answered<Vec<u8>>, Status> {
    let credentials = asked.metadata().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match path.as_str() {
        "/t.S/Echo" => Ok(Answered::new(asked.into_inner())),
        "/t.S/WhoAmI" => Ok(Answered::new(credentials.as_bytes().to_vec())),
        "/t.S/Large" => Ok(Answered::new(vec![0; MAX_RESPONSE + 1])),
        "/t.S/Largest" => Ok(Answered::new(vec![0; MAX_RESPONSE])),
        "/t.S/Never" => std::future::pending().await,
        path => {
            let code = path.rsplit('/').next().unwrap_or_default().parse().map_or(Code::Unimplemented, Code::from_i32);
            Err(Status::new(code, "said so: 100% «true»"))
        }
    }
}

/// A tonic server; returns host and port.
async fn serve(tls: Option<ServerTlsConfig>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = tower::service_fn(|request: http::Request<tonic::body::Body>| async move {
        let path = request.uri().path().to_owned();
        let unary = tower::service_fn(move |asked| method(path.clone(), asked));
        let mut grpc = tonic::server::Grpc::new(Raw).apply_max_message_size_config(None, Some(usize::MAX));
        Ok::<_, Infallible>(grpc.unary(unary, request).await)
    });
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).unwrap();
    }
    tokio::spawn(async move { server.serve_with_incoming(service, TcpIncoming::from(listener)).await });
    address
}

fn bytes(text: &[u8]) -> Answer {
    Answer::Found(Value::Bytes(text.to_vec()))
}

fn reason(answer: Answer) -> String {
    match answer {
        Answer::Failed(problem) => problem.reason,
        Answer::Denied(_) => "(denied)".into(),
        Answer::Absent => "(absent)".into(),
        Answer::Found(_) => "(found)".into(),
    }
}

#[tokio::test]
async fn bytes_go_there_and_back() {
    let to = endpoint(Protocol::Grpc, spec(&format!("http://{}", serve(None).await)));
    let clients = clients(&[]);
    assert_eq!(answer(&clients, &to, "/t.S/Echo", b"").await, bytes(b""));
    let largest = vec![7; MAX_REQUEST];
    assert_eq!(answer(&clients, &to, "/t.S/Echo", &largest).await, bytes(&largest));
}

#[rstest]
#[case(5, "(absent)")]
#[case(1, "Cancelled")]
#[case(3, "InvalidArgument")]
#[case(4, "DeadlineExceeded")]
#[case(7, "PermissionDenied")]
#[case(14, "Unavailable")]
#[case(16, "Unauthenticated")]
#[tokio::test]
async fn codes_are_reasons(#[case] code: i32, #[case] expected: &str) {
    let to = endpoint(Protocol::Grpc, spec(&format!("http://{}", serve(None).await)));
    let given = answer(&clients(&[]), &to, &format!("/t.S/{code}"), b"").await;
    if let Answer::Failed(problem) = &given {
        assert_eq!(problem.message, format!("/t.S/{code}: said so: 100% «true»"));
    }
    assert_eq!(reason(given), expected);
}

#[tokio::test]
async fn sizes_are_bounded_both_ways() {
    let to = endpoint(Protocol::Grpc, spec(&format!("http://{}", serve(None).await)));
    let clients = clients(&[]);
    assert_eq!(answer(&clients, &to, "/t.S/Largest", b"").await, bytes(&vec![0; MAX_RESPONSE]));
    assert_eq!(reason(answer(&clients, &to, "/t.S/Large", b"").await), "TooLarge");
    assert_eq!(reason(answer(&clients, &to, "/t.S/Echo", &vec![0; MAX_REQUEST + 1]).await), "InvalidArgument");
}

#[tokio::test]
async fn a_server_that_never_answers_and_one_that_is_not_there_are_failures() {
    let clients = clients(&[]);
    let to = endpoint(Protocol::Grpc, spec(&format!("http://{}", serve(None).await)));
    assert_eq!(reason(answer(&clients, &to, "/t.S/Never", b"").await), "DeadlineExceeded");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let nobody = endpoint(Protocol::Grpc, spec(&format!("http://{free}")));
    assert_eq!(reason(answer(&clients, &nobody, "/t.S/Echo", b"").await), "Unavailable");
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_it_is_named() {
    let pki = Pki::new();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&pki.server.0, &pki.server.1));
    let address = format!("https://{}", serve(Some(tls)).await);
    let clients = clients(&[("ca", secret(&[("ca.crt", &pki.ca)]))]);
    let trusting = endpoint(Protocol::Grpc, with_secrets(spec(&address), false, true));
    assert_eq!(answer(&clients, &trusting, "/t.S/Echo", b"x").await, bytes(b"x"));
    let other = endpoint(Protocol::Grpc, spec(&address));
    assert_eq!(reason(answer(&clients, &other, "/t.S/Echo", b"x").await), "Unavailable");
}

#[tokio::test]
async fn client_certificates_and_tokens_are_shown() {
    let pki = Pki::new();
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&pki.server.0, &pki.server.1))
        .client_ca_root(Certificate::from_pem(&pki.ca));
    let address = format!("https://{}", serve(Some(tls)).await);
    let (certificate, key) = &pki.client;
    let credentials = secret(&[("tls.crt", certificate), ("tls.key", key), ("token", "let-me-in\n")]);
    let clients = clients(&[("ca", secret(&[("ca.crt", &pki.ca)])), ("credentials", credentials)]);
    let known = endpoint(Protocol::Grpc, with_secrets(spec(&address), true, true));
    assert_eq!(answer(&clients, &known, "/t.S/WhoAmI", b"").await, bytes(b"Bearer let-me-in"));
    let unknown = endpoint(Protocol::Grpc, with_secrets(spec(&address), false, true));
    assert_eq!(reason(answer(&clients, &unknown, "/t.S/WhoAmI", b"").await), "Unavailable");
}

#[tokio::test]
async fn only_methods_that_are_granted_are_called() {
    let mut granted = spec(&format!("http://{}", serve(None).await));
    granted.paths = vec!["/t.S/Echo".into()];
    let (clients, to) = (clients(&[]), endpoint(Protocol::Grpc, granted));
    assert_eq!(answer(&clients, &to, "/t.S/Echo", b"x").await, bytes(b"x"));
    assert_eq!(reason(answer(&clients, &to, "/t.S/WhoAmI", b"x").await), "(denied)");
    for nonsense in ["t.S/Echo", "/t.S", "/t.S/Echo/", "/t.S/../Echo", "/t.S/Echo?x=1", "/t.S/E cho"] {
        assert_eq!(reason(answer(&clients, &to, nonsense, b"x").await), "InvalidArgument", "{nonsense}");
    }
}

#[tokio::test]
async fn a_missing_secret_is_named() {
    let to = endpoint(Protocol::Grpc, with_secrets(spec("https://127.0.0.1:1"), true, false));
    let message = "there is no Secret n/credentials, which spec.endpoints[e].credentials names".into();
    let expected = Answer::Failed(Problem { reason: "CredentialsMissing".into(), message });
    assert_eq!(answer(&clients(&[]), &to, "/t.S/Echo", b"").await, expected);
}

#[test]
fn a_body_is_exactly_one_message() {
    assert_eq!(message_of(&Bytes::from_static(b"\0\0\0\0\x02ab")), Some(b"ab".to_vec()));
    for body in [b"".as_slice(), b"\0\0\0", b"\x01\0\0\0\x02ab", b"\0\0\0\0\x03ab", b"\0\0\0\0\x01ab"] {
        assert_eq!(message_of(&Bytes::copy_from_slice(body)), None);
    }
}

proptest::proptest! {
    #[test]
    fn any_message_is_unescaped_without_a_panic(text: Vec<u8>) {
        unescape(&text);
    }
}
