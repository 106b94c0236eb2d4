//! PostgreSQL: connections, and the tables as this code needs them.

mod migrate;
pub mod store;
mod tls;

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use tokio_postgres::{Config, error::SqlState};

pub use tls::Tls;

/// Connections of one process, beside the mirror's own.
const CONNECTIONS: usize = 10;

/// For a connection: until it is made, until one is free.
const DEADLINE: Duration = Duration::from_secs(5);

/// What every connection asks for: nothing here takes long, and what is forgotten must not hold locks. A server whose
/// client is gone notices within seconds, so that a leader that has lost its machine is followed by another.
const OPTIONS: &str = "-c statement_timeout=15s -c lock_timeout=10s -c idle_in_transaction_session_timeout=15s \
    -c client_connection_check_interval=2s \
    -c tcp_keepalives_idle=5 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3";

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("the database cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refused.
    #[error("the database refused")]
    Refused(#[from] tokio_postgres::Error),
    /// What is wrong with the database's contents or the keys.
    #[error("sealed text in {table}, row {row}")]
    Sealed {
        /// Which table.
        table: &'static str,
        /// Which row.
        row: String,
        /// What is wrong.
        source: crate::seal::Error,
    },
    /// Nothing can be sealed.
    #[error("nothing can be sealed")]
    Seal(#[from] crate::seal::Error),
    /// The schema is not what this program knows.
    #[error("{0}")]
    Schema(String),
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Unreachable(error.into())
    }
}

impl Error {
    /// The same may work a little later, without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Refused(error) => error.code().is_none_or(|code| {
                // classes: connection, resources, operator's intervention (shutdown), and who was chosen to lose
                ["08", "53", "57"].iter().any(|class| code.code().starts_with(class))
                    || [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
                    || *code == SqlState::LOCK_NOT_AVAILABLE
            }),
            _ => false,
        }
    }

    /// The name of the constraint that would have been violated.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Refused(error) => error.as_db_error()?.constraint(),
            _ => None,
        }
    }
}

/// A database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    config: Config,
    tls: Tls,
}

impl Database {
    /// Of a URL such as `postgres://user:password@host:5432/catalog?sslmode=require`; connects when it is used. A server
    /// that offers TLS must have a certificate that an authority in `ca` has signed, the system's where there is none.
    ///
    /// # Errors
    ///
    /// When the URL or the file is wrong. Does not repeat the URL, which may have a password.
    pub fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        use anyhow::Context as _;
        let mut config: Config = url.trim().parse().context("the database's URL is wrong")?;
        let options = config.get_options().map(|given| format!("{OPTIONS} {given}"));
        config.options(options.as_deref().unwrap_or(OPTIONS));
        config.connect_timeout(DEADLINE).tcp_user_timeout(Duration::from_secs(15));
        config.keepalives_idle(DEADLINE).keepalives_interval(DEADLINE).keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("transom-catalog");
        }
        let tls = Tls::new(ca)?;
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config.clone(), tls.clone(), recycling);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
        let pool = pool.wait_timeout(Some(DEADLINE)).create_timeout(Some(DEADLINE)).recycle_timeout(Some(DEADLINE));
        Ok(Self { pool: pool.build()?, config, tls })
    }

    /// A connection of the pool.
    ///
    /// # Errors
    ///
    /// When there is none within seconds.
    pub async fn get(&self) -> Result<Object, Error> {
        Ok(self.pool.get().await?)
    }

    /// How to make a connection of one's own.
    #[must_use]
    pub fn own(&self) -> (&Config, Tls) {
        (&self.config, self.tls.clone())
    }

    /// Brings the schema up to date. Several may do this at once: one does it, the others wait.
    ///
    /// # Errors
    ///
    /// When it cannot, or the schema is newer than this program.
    pub async fn migrate(&self) -> Result<(), Error> {
        migrate::migrate(&mut *self.get().await?).await
    }

    /// The database answers, and its schema is this program's.
    ///
    /// # Errors
    ///
    /// Which of the two is not so.
    pub async fn check(&self) -> Result<(), Error> {
        migrate::check(&**self.get().await?).await
    }
}
