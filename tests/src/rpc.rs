//! A gRPC server in this process.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// One request: method path and encoded message.
pub type Asked = (String, Vec<u8>);

/// What methods do: from a request to an encoded response.
pub type Answers = Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<Vec<u8>, Status>> + Send + Sync>;

/// A tonic server that answers as the test wants, and remembers. Dropping it ends it.
pub struct Rpc {
    /// Host and port.
    pub authority: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Rpc {
    /// On a free port.
    pub async fn start(answers: Answers) -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), answers).await
    }

    /// Where one was before.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub async fn start_at(address: SocketAddr, answers: Answers) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let log = asked.clone();
        let service = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
            let (path, answers, log) = (request.uri().path().to_owned(), answers.clone(), log.clone());
            async move {
                let unary = tower::service_fn(move |message: Request<Vec<u8>>| {
                    let asked = (path.clone(), message.into_inner());
                    log.lock().unwrap().push(asked.clone());
                    let answer = answers(asked);
                    async move { answer.await.map(Response::new) }
                });
                let mut grpc = tonic::server::Grpc::new(Raw).apply_max_message_size_config(None, Some(usize::MAX));
                Ok::<_, Infallible>(grpc.unary(unary, request).await)
            }
        });
        let task = tokio::spawn(async move {
            let served = Server::builder().serve_with_incoming(service, TcpIncoming::from(listener)).await;
            served.unwrap_or_else(|error| eprintln!("the tests' gRPC server: {error}"));
        });
        Self { authority, asked, task }
    }

    /// What was asked so far.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

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
