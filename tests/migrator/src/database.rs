use anyhow::{Context as _, Result, ensure};
use tokio_postgres::{Client, NoTls};

/// How to reach the database, and which schema is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
    /// The schema that everything happens in.
    pub schema: String,
}

impl Settings {
    /// From the variables of the environment.
    ///
    /// # Errors
    ///
    /// Names the variable that is missing or wrong.
    pub fn from_environment() -> Result<Self> {
        let get = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        Ok(Self {
            host: get("PGHOST")?,
            port: get("PGPORT")?.parse().context("PGPORT must be a number")?,
            user: get("PGUSER")?,
            password: get("PGPASSWORD")?,
            database: get("PGDATABASE")?,
            schema: get("DB_SCHEMA")?,
        })
    }

    /// A connection. Its traffic is carried by a task that ends with the client.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached or refuses.
    pub async fn connect(&self) -> Result<Client> {
        ensure!(!self.schema.is_empty(), "DB_SCHEMA is empty");
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(&self.user).password(&self.password).dbname(&self.database);
        config.connect_timeout(std::time::Duration::from_secs(5)).application_name("transom-migrator");
        let connected = config.connect(NoTls).await;
        let (client, connection) = connected
            .with_context(|| format!("failed to connect to {} on {}:{}", self.database, self.host, self.port))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection lost: {error}");
            }
        });
        Ok(client)
    }
}

/// A name as an SQL identifier.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
