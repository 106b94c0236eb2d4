use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::Duration;

use http::{Method, Request, header};
use kube::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::{DEADLINE, environment};

/// User and password, and the latter as bcrypt has it, which is the only way the registry takes.
const LOGIN: (&str, &str) = ("ann", "secret");
const HTPASSWD: &str = "ann:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A real OCI registry (`distribution/distribution`) that wants a login. Dropping it kills it.
pub struct Registry {
    /// Host and port.
    pub authority: String,
    http: kube::Client,
    _child: Child,
    _folder: TempDir,
}

impl Registry {
    /// Starts one, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let htpasswd = folder.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).unwrap();
        let config = json!({
            "version": 0.1, "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") }, "delete": { "enabled": true } },
            "http": { "addr": address.to_string() },
            "auth": { "htpasswd": { "realm": "tests", "path": htpasswd } },
        });
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(environment::registry());
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn().expect("the registry can be run");
        let http = kube::Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
        let registry = Self { authority: address.to_string(), http, _child: child, _folder: folder };
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

    async fn blob(&self, repository: &str, content: &[u8]) -> String {
        let digest = transom::registry::digest_of(content);
        let path = format!("/v2/{repository}/blobs/uploads/");
        let location = self.send(Method::POST, &path, "", Vec::new()).await.expect("an upload");
        let location = location.strip_prefix(&format!("http://{}", self.authority)).unwrap_or(&location);
        let glue = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{glue}digest={digest}");
        self.send(Method::PUT, &path, "application/octet-stream", content.to_vec()).await.expect("a blob");
        digest
    }

    /// The header `location` of a successful response.
    async fn send(&self, method: Method, path: &str, content_type: &str, body: Vec<u8>) -> Option<String> {
        use base64::Engine as _;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", LOGIN.0, LOGIN.1));
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
