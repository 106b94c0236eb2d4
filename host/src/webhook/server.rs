//! The HTTPS server that the API server calls.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::{self, Webhook};
use super::conversion;
use super::keep::InUse;
use crate::control::controller::Controller;

/// An object and the one before it, 1.5 MiB each (etcd's limit for a request), with what surrounds them.
const MAX_ADMISSION: usize = 8 << 20;

/// A page of a list: the API server's own lists have up to 10,000 objects in one.
const MAX_CONVERSION: usize = 128 << 20;

/// Of a TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that are through their handshake and wait to be served.
const BACKLOG: usize = 64;

/// After an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// TLS connections. Each has the certificate that is in use when it begins.
pub(super) struct TlsListener {
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    pub(super) async fn bind(address: SocketAddr, certificates: watch::Receiver<InUse>) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (sender, connections) = mpsc::channel(BACKLOG);
        tokio::spawn(accept(listener, certificates, sender));
        Ok(Self { connections, address })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn accept(
    listener: TcpListener,
    certificates: watch::Receiver<InUse>,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    while !sender.is_closed() {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection for webhooks could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(certificates.borrow().tls.clone());
        let sender = sender.clone();
        // a peer that is slow, or speaks no TLS, keeps nobody waiting
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let _ = sender.send((stream, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS connection for webhooks"),
                Err(_) => tracing::debug!(%peer, "no TLS connection for webhooks in time"),
            }
        });
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            // the task that accepts is gone, and so is the process
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

pub(super) fn router(controller: Arc<Controller>) -> Router {
    let conversions = Router::new().route("/convert/{plugin}", post(convert));
    Router::new()
        .route("/default/{plugin}", post(default))
        .route("/validate/{plugin}", post(validate))
        .layer(DefaultBodyLimit::max(MAX_ADMISSION))
        .merge(conversions.layer(DefaultBodyLimit::max(MAX_CONVERSION)))
        .with_state(controller)
}

/// An answer in the API server's words, or what kept the host from giving one: an HTTP status with a sentence, to which
/// the webhook's failure policy applies.
pub(super) type Answer = Result<serde_json::Value, Failure>;

/// No answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Failure {
    /// The request cannot be understood.
    pub(super) fn malformed(error: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: format!("not what the API server sends: {error}") }
    }
}

fn respond(answer: Answer) -> Response {
    match answer {
        Ok(review) => axum::Json(review).into_response(),
        Err(Failure { status, message }) => (status, message).into_response(),
    }
}

async fn default(State(controller): State<Arc<Controller>>, Path(plugin): Path<String>, body: Bytes) -> Response {
    respond(admission::answer(&controller, &plugin, Webhook::Default, &body).await)
}

async fn validate(State(controller): State<Arc<Controller>>, Path(plugin): Path<String>, body: Bytes) -> Response {
    respond(admission::answer(&controller, &plugin, Webhook::Validate, &body).await)
}

async fn convert(State(controller): State<Arc<Controller>>, Path(plugin): Path<String>, body: Bytes) -> Response {
    respond(conversion::answer(&controller, &plugin, &body).await)
}
