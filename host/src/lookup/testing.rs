//! Real servers in the test process, with TLS of their own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Router;
use futures::FutureExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::client::{Clients, SecretData};
use super::grants::{Endpoint, Grants, Protocol};
use crate::api::plugin::{EndpointSpec, SecretRef};
use crate::plan::contract::{self, Manifest};

/// An authority with a server's and a client's certificate, as PEM.
pub(crate) struct Pki {
    pub(crate) ca: String,
    /// Certificate and key, for 127.0.0.1.
    pub(crate) server: (String, String),
    pub(crate) client: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = || {
            let mut params = CertificateParams::default();
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
            let key = KeyPair::generate().unwrap();
            (params.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        Self { ca: ca.pem(), server: issue(), client: issue() }
    }
}

/// `data` of a Secret.
pub(crate) fn secret(fields: &[(&str, &str)]) -> SecretData {
    fields.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

/// Connections that find these Secrets, by name.
pub(crate) fn clients(secrets: &[(&str, SecretData)]) -> Clients {
    let secrets: BTreeMap<String, SecretData> =
        secrets.iter().map(|(name, data)| ((*name).to_owned(), data.clone())).collect();
    let read = move |_, reference: SecretRef| std::future::ready(Ok(secrets.get(&reference.name).cloned())).boxed();
    Clients::new(Arc::new(read))
}

/// A grant without anything special: plaintext when the address is.
pub(crate) fn spec(address: &str) -> EndpointSpec {
    EndpointSpec {
        name: "e".into(),
        address: address.into(),
        plaintext: address.starts_with("http://"),
        paths: vec![],
        credentials: None,
        ca: None,
    }
}

/// With the Secrets named `credentials` and `ca`, where wanted.
pub(crate) fn with_secrets(spec: EndpointSpec, credentials: bool, ca: bool) -> EndpointSpec {
    let named = |name: &str| SecretRef { namespace: "n".into(), name: name.into() };
    EndpointSpec { credentials: credentials.then(|| named("credentials")), ca: ca.then(|| named("ca")), ..spec }
}

/// As a record grants it to a plugin that declares it.
pub(crate) fn endpoint(protocol: Protocol, spec: EndpointSpec) -> Arc<Endpoint> {
    let word = format!("{protocol:?}").to_lowercase();
    let declared =
        contract::Endpoint { name: spec.name.clone(), protocol: word, purpose: "tests".into(), optional: false };
    let manifest = Manifest {
        name: "p".into(),
        version: "1".into(),
        crds: vec![],
        children: vec![],
        reads: vec![],
        endpoints: vec![declared],
        engines: vec![],
        config_schema: None,
        finalizes: false,
    };
    let (grants, _) = Grants::resolve(&manifest, std::slice::from_ref(&spec)).unwrap();
    grants.endpoint(&spec.name, &[protocol]).unwrap().clone()
}

/// Serves until the test's runtime ends. Returns host and port.
pub(crate) async fn serve(router: Router) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// The same with TLS.
pub(crate) async fn serve_tls(router: Router, pki: &Pki) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let certificates = CertificateDer::pem_slice_iter(pki.server.0.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pki.server.1.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Tls {
    type Io = tokio_rustls::server::TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            // a client that does not trust the server ends here
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
