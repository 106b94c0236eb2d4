use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http::{Method, Request, header};
use kube::config::Config;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::{DEADLINE, environment, free_port};

/// User and password, and the latter as bcrypt has it, which is the only way the registry takes.
const LOGIN: (&str, &str) = ("ann", "secret");
const HTPASSWD: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A real OCI registry (`distribution/distribution`) that wants a login. Dropping it kills it.
pub struct Registry {
    /// Host and port.
    pub authority: String,
    http: kube::Client,
    child: Child,
    folder: TempDir,
    has_tls: bool,
}

/// A registry that was stopped.
pub struct Stopped {
    address: SocketAddr,
    folder: TempDir,
    has_tls: bool,
}

impl Stopped {
    /// Of an artifact in it.
    #[must_use]
    pub fn reference(&self, artifact: &str) -> String {
        format!("{}/{artifact}", self.address)
    }

    /// Starts it again.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start(self) -> Registry {
        let file = |name: &str| self.folder.path().join(name);
        let tls = self.has_tls.then(|| (file("tls.crt"), file("tls.key")));
        Registry::start_at(self.address, self.folder, tls).await
    }
}

/// An authority and a server's certificate and key, as files.
fn certificates(folder: &Path) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "tests");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let write = |name: &str, pem: String| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    write("ca.crt", ca.pem());
    (write("tls.crt", certificate.pem()), write("tls.key", key.serialize_pem()))
}

fn basic() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1))
}

impl Registry {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        Self::start_at(address, tempfile::tempdir().unwrap(), None).await
    }

    /// The same with TLS, and its authority in the file [`ca`](Self::ca).
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start_with_tls() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let folder = tempfile::tempdir().unwrap();
        let tls = certificates(folder.path());
        Self::start_at(address, folder, Some(tls)).await
    }

    /// Ends it; it can be started again with what it has, at the same address.
    ///
    /// # Panics
    ///
    /// When it cannot be killed.
    pub async fn stop(mut self) -> Stopped {
        self.child.kill().await.unwrap();
        Stopped { address: self.authority.parse().unwrap(), folder: self.folder, has_tls: self.has_tls }
    }

    /// File with the authority that signed its certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// Its folder for whoever logs in like `docker login`: the value of `DOCKER_CONFIG`.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn docker_config(&self) -> PathBuf {
        let folder = self.folder.path().join("docker");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), self.docker_login()).unwrap();
        folder
    }

    /// What `docker login` writes.
    #[must_use]
    pub fn docker_login(&self) -> String {
        json!({ "auths": { &self.authority: { "auth": basic() } } }).to_string()
    }

    async fn start_at(address: SocketAddr, folder: TempDir, tls: Option<(PathBuf, PathBuf)>) -> Self {
        let htpasswd = folder.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let mut http = json!({ "addr": address.to_string() });
        if let Some((certificate, key)) = &tls {
            http["tls"] = json!({ "certificate": certificate, "key": key });
        }
        let config = json!({
            "version": 0.1, "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") }, "delete": { "enabled": true } },
            "http": http,
            "auth": { "htpasswd": { "realm": "tests", "path": htpasswd } },
        });
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(environment::registry());
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().expect("the registry can be run");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut config = Config::new(format!("{scheme}://{address}").parse().unwrap());
        config.accept_invalid_certs = tls.is_some();
        let http = kube::Client::try_from(config).unwrap();
        let registry = Self { authority: address.to_string(), http, child, folder, has_tls: tls.is_some() };
        let started = Instant::now();
        while registry.send(Method::GET, "/v2/", "", Vec::new()).await.is_none() {
            assert!(started.elapsed() < DEADLINE, "the registry does not answer");
            sleep(Duration::from_millis(20)).await;
        }
        registry
    }

    /// `data` of a Secret with its login.
    #[must_use]
    pub fn login() -> Value {
        json!({ "username": LOGIN.0, "password": LOGIN.1 })
    }

    /// Pushes an artifact with these layers (media type, title, content). Returns its digest.
    ///
    /// # Panics
    ///
    /// When the registry refuses it.
    pub async fn push(&self, repository: &str, tag: &str, layers: &[(&str, &str, &[u8])]) -> String {
        let mut described = Vec::new();
        for (media_type, title, content) in layers {
            let digest = self.blob(repository, content).await;
            described.push(json!({ "mediaType": media_type, "digest": digest, "size": content.len(),
                "annotations": { "org.opencontainers.image.title": title } }));
        }
        let config = self.blob(repository, b"{}").await;
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": described,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        });
        let bytes = manifest.to_string().into_bytes();
        let digest = transom::registry::digest_of(&bytes);
        let path = format!("/v2/{repository}/manifests/{tag}");
        self.send(Method::PUT, &path, kind, bytes).await.expect("a manifest that fits");
        digest
    }

    /// Gives a manifest another tag.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub async fn copy(&self, repository: &str, from: &str, to: &str) {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let mut request = Request::new(Vec::new());
        *request.uri_mut() = format!("/v2/{repository}/manifests/{from}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, format!("Basic {}", basic()).parse().unwrap());
        request.headers_mut().insert(header::ACCEPT, kind.parse().unwrap());
        let manifest = self.http.request_text(request).await.expect("a manifest");
        let path = format!("/v2/{repository}/manifests/{to}");
        self.send(Method::PUT, &path, kind, manifest.into_bytes()).await.expect("a tag");
    }

    async fn blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = transom::registry::digest_of(content);
        let path = format!("/v2/{repository}/blobs/uploads/");
        let location = self.send(Method::POST, &path, "", Vec::new()).await.expect("an upload");
        let location = location.split_once(&self.authority).map_or(&*location, |(_, path)| path);
        let glue = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{glue}digest={digest}");
        self.send(Method::PUT, &path, "application/octet-stream", content.to_vec()).await.expect("a blob");
        digest
    }

    /// The header `location` of a successful response.
    async fn send(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Option<String> {
        let login = basic();
        let mut request = Request::new(body.into());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, format!("Basic {login}").parse().unwrap());
        if !content_type.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        let response = self.http.send(request).await.ok()?;
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        response.status().is_success().then(|| location.unwrap_or_default().to_owned())
    }
}
