use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The way to a server, which a test can cut.
pub(crate) struct Proxy {
    port: u16,
    is_open: Arc<watch::Sender<bool>>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_open = Arc::new(watch::Sender::new(true));
        let gate = is_open.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (mut open, target) = (gate.subscribe(), target.clone());
                connections.spawn(async move {
                    if !*open.borrow_and_update() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = open.wait_for(|open| !open) => {}
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, is_open, _task: task }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections and takes no new ones.
    pub(crate) fn cut(&self) {
        self.is_open.send_replace(false);
    }

    pub(crate) fn restore(&self) {
        self.is_open.send_replace(true);
    }
}
