use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{free_port, required, until};

const PASSWORD: &str = "of-the-tests";

/// PostgreSQL refuses to be run by root: then it is nobody's.
const NOBODY: u32 = 65534;

/// A server of the tests' own, which can be stopped and started again.
pub(crate) struct Postgres {
    port: u16,
    server: Mutex<Option<Child>>,
    folder: TempDir,
}

impl Postgres {
    /// The one that tests share that leave it alone.
    pub(crate) async fn shared() -> Arc<Self> {
        static RUNNING: tokio::sync::Mutex<Weak<Postgres>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(postgres) = running.upgrade() {
            return postgres;
        }
        let postgres = Arc::new(Self::start().await);
        *running = Arc::downgrade(&postgres);
        postgres
    }

    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        give(folder.path());
        let password = folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        give(&password);
        let mut initdb = unprivileged("initdb");
        initdb.arg("-D").arg(folder.path().join("data")).arg("--pwfile").arg(&password);
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-N", "--no-locale", "-E", "UTF8"]);
        let output = tokio::task::spawn_blocking(move || initdb.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let postgres = Self { port: free_port(), server: Mutex::default(), folder };
        postgres.resume().await;
        postgres
    }

    /// From its next start on it offers TLS, with a certificate for 127.0.0.1. Returns that as PEM.
    pub(crate) fn offer_tls(&self) -> String {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let data = self.folder.path().join("data");
        let key = data.join("server.key");
        std::fs::write(data.join("server.crt"), made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        give(&key);
        let mut settings = std::fs::File::options().append(true).open(data.join("postgresql.conf")).unwrap();
        settings.write_all(b"ssl = on\n").unwrap();
        made.cert.pem()
    }

    /// Starts the server that was stopped.
    pub(crate) async fn resume(&self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut server = unprivileged("postgres");
        server.arg("-D").arg(self.folder.path().join("data")).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off", "max_connections=200"] {
            server.args(["-c", setting]);
        }
        *self.server.lock().unwrap() = Some(server.stderr(log).spawn().unwrap());
        until("PostgreSQL answers", async || {
            let ended = self.server.lock().unwrap().as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "PostgreSQL does not start: {}", self.log());
            self.connect("postgres").await.ok()
        })
        .await;
    }

    /// Ends the server as `pg_ctl stop -m fast` does: connections are closed, what was committed stays.
    pub(crate) fn stop(&self) {
        let Some(mut server) = self.server.lock().unwrap().take() else { return };
        if let Some(pid) = Pid::from_raw(server.id().cast_signed()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let told = Instant::now();
        while matches!(server.try_wait(), Ok(None)) {
            if told.elapsed() > Duration::from_secs(20) {
                let _ = server.kill();
                let _ = server.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A new database; its URL, by another port if there is a proxy before the server.
    pub(crate) async fn database(&self, name: &str, port: Option<u16>) -> String {
        let administrator = self.connect("postgres").await.unwrap();
        administrator.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await.unwrap();
        format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/{name}", port.unwrap_or(self.port))
    }

    /// Takes a database away, with whoever is connected to it.
    pub(crate) async fn drop_database(&self, name: &str) {
        let administrator = self.connect("postgres").await.unwrap();
        administrator.batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await.unwrap();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The administrator's connection, past any proxy.
    pub(crate) async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user("postgres").password(PASSWORD).dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

fn program(name: &str) -> PathBuf {
    required("TRANSOM_POSTGRES_BIN").join(name)
}

fn give(path: &Path) {
    if geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn unprivileged(name: &str) -> Command {
    let program = program(name);
    let mut command = Command::new(&program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // what unpacked packages bring along, from usr/lib/postgresql/15/bin
    let lib = program.ancestors().nth(4).filter(|lib| *lib != Path::new("/usr/lib"));
    let libraries = lib.map(|lib| lib.join(format!("{}-linux-gnu", std::env::consts::ARCH)));
    command.envs(libraries.filter(|folder| folder.is_dir()).map(|folder| ("LD_LIBRARY_PATH", folder)));
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
