//! A real PostgreSQL of the tests' own: never a cluster of the distribution.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use transom_migrator::Settings;

use crate::{DEADLINE, Namespace, free_port, sample};

/// Where `initdb` and `postgres` are, if not where the distribution or `pg_config` says.
const BIN_VARIABLE: &str = "TRANSOM_POSTGRES_BIN";

/// The administrator's name and password.
const SUPERUSER: &str = "postgres";
const PASSWORD: &str = "of-the-tests";

/// PostgreSQL refuses to be run by root: then it is nobody's.
const NOBODY: u32 = 65534;

/// How often a server that starts or ends is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A server on 127.0.0.1 for as long as somebody has it.
pub struct Postgres {
    port: u16,
    server: Mutex<Child>,
    folder: TempDir,
}

impl Postgres {
    /// The server that all tests of this process share.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed or does not start.
    pub async fn shared() -> Arc<Self> {
        static RUNNING: tokio::sync::Mutex<Weak<Postgres>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(postgres) = running.upgrade() {
            return postgres;
        }
        let postgres = Arc::new(Self::start().await);
        *running = Arc::downgrade(&postgres);
        postgres
    }

    async fn start() -> Self {
        let bin = bin();
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let (data, password) = (folder.path().join("data"), folder.path().join("password"));
        std::fs::write(&password, PASSWORD).unwrap();
        give(&password);
        let mut initdb = unprivileged(&bin.join("initdb"));
        initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["-U", SUPERUSER, "-A", "scram-sha-256", "-N", "--no-locale", "-E", "UTF8"]);
        let initialised = tokio::task::spawn_blocking(move || initdb.output()).await.unwrap().unwrap();
        assert!(initialised.status.success(), "initdb: {}", String::from_utf8_lossy(&initialised.stderr));
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut postgres = unprivileged(&bin.join("postgres"));
        postgres.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=50"] {
            postgres.args(["-c", setting]);
        }
        let server = postgres.stderr(log).spawn().unwrap();
        let postgres = Self { port, server: Mutex::new(server), folder };
        postgres.wait_for_answer().await;
        postgres
    }

    async fn wait_for_answer(&self) {
        let started = Instant::now();
        while let Err(error) = self.superuser(SUPERUSER, "main").connect().await {
            let has_ended = self.server.lock().unwrap().try_wait().unwrap().is_some();
            let is_late = started.elapsed() > DEADLINE;
            assert!(!has_ended && !is_late, "PostgreSQL does not start ({error:#}): {}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The administrator's way to a database.
    #[must_use]
    pub fn superuser(&self, database: &str, schema: &str) -> Settings {
        Settings {
            host: "127.0.0.1".into(),
            port: self.port,
            user: SUPERUSER.into(),
            password: PASSWORD.into(),
            database: database.into(),
            schema: schema.into(),
        }
    }

    /// What CloudNativePG makes when a cluster is asked for: a role, a database that it owns, and the secret for
    /// applications. Returns the administrator's way to the database, with `schema` for the schema.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub async fn cluster(&self, ns: &Namespace, name: &str, schema: &str) -> Settings {
        let database = format!("{}-{name}", ns.name);
        let administrator = self.superuser(SUPERUSER, schema).connect().await.unwrap();
        let role = format!("CREATE ROLE \"{database}\" LOGIN PASSWORD 'of-{database}'");
        administrator.batch_execute(&role).await.unwrap();
        let create = format!("CREATE DATABASE \"{database}\" OWNER \"{database}\"");
        administrator.batch_execute(&create).await.unwrap();
        ns.create(sample::database(name)).await;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("{name}-app") },
            "stringData": {
                "host": "127.0.0.1", "port": self.port.to_string(), "dbname": database, "user": database,
                "password": format!("of-{database}"),
            },
        });
        ns.create(secret).await;
        self.superuser(&database, schema)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut server = self.server.lock().unwrap();
        // a fast shutdown: it tidies up after itself
        if let Some(pid) = rustix::process::Pid::from_raw(server.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        let told = Instant::now();
        while matches!(server.try_wait(), Ok(None)) {
            if told.elapsed() > Duration::from_secs(10) {
                let _ = server.kill();
                let _ = server.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The folder of PostgreSQL's programs: what `cargo xtask test` found, else what is installed.
fn bin() -> PathBuf {
    if let Some(named) = std::env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()) {
        return named.into();
    }
    let config = Command::new("pg_config").arg("--bindir").output();
    let bin = config.ok().map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    bin.filter(|bin| bin.join("initdb").is_file()).unwrap_or_else(|| {
        panic!("PostgreSQL is not found: run these tests by `cargo xtask test`, or name the folder of initdb in {BIN_VARIABLE}")
    })
}

/// Where the libraries are that unpacked packages bring along, from `usr/lib/postgresql/15/bin`.
fn libraries(program: &Path) -> Option<PathBuf> {
    let lib = program.ancestors().nth(4)?;
    let folder = lib.join(format!("{}-linux-gnu", std::env::consts::ARCH));
    (lib != Path::new("/usr/lib") && folder.is_dir()).then_some(folder)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a file to whoever PostgreSQL is run by.
fn give(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.envs(libraries(program).map(|folder| ("LD_LIBRARY_PATH", folder)));
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
