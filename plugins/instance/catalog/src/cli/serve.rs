use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{DatabaseArgs, KeyArgs, read};
use crate::api::{App, router};
use crate::auth::{Auth, Oidc, Settings, Tokens};
use crate::database::{Database, Tls};
use crate::mirror::Mirror;
use crate::telemetry;

/// How long requests may take to end after the signal to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Before the database is tried again at the start.
const PAUSE: Duration = Duration::from_secs(1);

/// How to serve.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
    /// Where the API is served, without TLS: put it behind an ingress that has it.
    #[arg(long, env = "CATALOG_LISTEN", default_value = "0.0.0.0:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "CATALOG_OPERATIONS_LISTEN", default_value = "0.0.0.0:8081", value_name = "ADDRESS")]
    operations_listen: SocketAddr,
    /// The namespace of the mirrored objects (default: that of the kubeconfig or the service account).
    #[arg(long, env = "CATALOG_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// How often everything is compared without a reason, in seconds.
    #[arg(long, env = "CATALOG_RESYNC_SECONDS", default_value_t = 300, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..))]
    resync_seconds: u64,
    /// File with tokens, for development: `[{"token": "…", "subject": "alice", "admin": false}]`.
    #[arg(long, env = "CATALOG_TOKENS_FILE", value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// OpenID provider whose tokens are taken, as its tokens have it in `iss`.
    #[arg(long, env = "CATALOG_OIDC_ISSUER", value_name = "URL", requires = "oidc_audience")]
    oidc_issuer: Option<String>,
    /// What its tokens must have in `aud`.
    #[arg(long, env = "CATALOG_OIDC_AUDIENCE", value_name = "NAME", requires = "oidc_issuer")]
    oidc_audience: Option<String>,
    /// The claim that makes an administrator: a text, or a list of texts.
    #[arg(long, env = "CATALOG_OIDC_ADMIN_CLAIM", default_value = "groups", value_name = "CLAIM")]
    oidc_admin_claim: String,
    /// What it must be or have (default: the provider makes no administrators).
    #[arg(long, env = "CATALOG_OIDC_ADMIN_VALUE", value_name = "VALUE")]
    oidc_admin_value: Option<String>,
    /// File with the authorities that the provider's certificate may be from, in PEM (default: the system's).
    #[arg(long, env = "CATALOG_OIDC_CA_FILE", value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Users may upgrade their own instances, not only administrators.
    #[arg(long, env = "CATALOG_USERS_MAY_UPGRADE")]
    users_may_upgrade: bool,
    /// The largest body of a request, in bytes.
    #[arg(long, env = "CATALOG_MAX_BODY_BYTES", default_value_t = 256 << 10, value_name = "BYTES")]
    max_body_bytes: usize,
}

impl ServeArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let auth = self.auth()?;
        let database = self.database.database()?;
        let keyring = Arc::new(self.keys.keyring()?);
        let config = kube::Config::infer().await.context("there is no way to a cluster")?;
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = kube::Client::try_from(config).context("the way to the cluster is wrong")?;
        let (stop, stopped) = watch::channel(false);

        let operations = telemetry::serve(self.operations_listen, database.clone()).await;
        let operations = operations.with_context(|| format!("failed to listen on {}", self.operations_listen))?;
        let listener = TcpListener::bind(self.listen).await;
        let listener = listener.with_context(|| format!("failed to listen on {}", self.listen))?;
        tracing::info!(api = %listener.local_addr()?, %operations, key = keyring.current(), "serves");

        let resync = Duration::from_secs(self.resync_seconds);
        let mirror = Mirror { database: database.clone(), keyring: keyring.clone(), client, namespace, resync };
        let prepared = prepare(database.clone(), stopped.clone());
        let until = stopped.clone();
        let mut mirrored = tokio::spawn(async move {
            prepared.await?;
            mirror.run(until).await;
            anyhow::Ok(())
        });
        let app = App {
            database,
            keyring,
            auth,
            users_may_upgrade: self.users_may_upgrade,
            max_body_bytes: self.max_body_bytes,
        };
        let mut until = stopped.clone();
        let server = axum::serve(listener, router(Arc::new(app))).with_graceful_shutdown(async move {
            // an error means that the process ends
            let _ = until.wait_for(|stop| *stop).await;
        });
        let mut served = tokio::spawn(server.into_future());

        let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
            ended = &mut mirrored => return ended?.context("the database cannot be prepared"),
            ended = &mut served => return Ok(ended??),
        }
        tracing::info!("stops");
        stop.send_replace(true);
        let ended = timeout(DRAIN, async { tokio::join!(&mut served, &mut mirrored) }).await;
        if ended.is_err() {
            tracing::warn!("requests were cut off");
        }
        Ok(())
    }

    fn auth(&self) -> anyhow::Result<Auth> {
        let tokens = match &self.tokens_file {
            Some(path) => {
                let text = read(path)?;
                Some(Tokens::parse(&text).with_context(|| format!("{} cannot be used", path.display()))?)
            }
            None => None,
        };
        let oidc = match (&self.oidc_issuer, &self.oidc_audience) {
            (Some(issuer), Some(audience)) => {
                let settings = Settings {
                    issuer: issuer.clone(),
                    audience: audience.clone(),
                    admin_claim: self.oidc_admin_claim.clone(),
                    admin_value: self.oidc_admin_value.clone().filter(|value| !value.is_empty()),
                };
                Some(Oidc::new(settings, &Tls::new(self.oidc_ca_file.as_deref())?)?)
            }
            _ => None,
        };
        ensure!(tokens.is_some() || oidc.is_some(), "nobody could ask: give --oidc-issuer or --tokens-file");
        Ok(Auth { tokens, oidc })
    }
}

/// Waits for a database that is not there yet; one that is wrong ends the process.
async fn prepare(database: Database, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    while let Err(error) = database.migrate().await {
        if !error.is_transient() {
            return Err(error.into());
        }
        if *stop.borrow() {
            return Ok(());
        }
        tracing::warn!(error = telemetry::chain(&error), "waits for the database");
        sleep(PAUSE).await;
    }
    Ok(())
}
