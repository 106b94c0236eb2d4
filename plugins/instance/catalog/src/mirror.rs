//! Rows to objects, status to rows.
//!
//! # Flow
//!
//! One process leads: it holds an advisory lock of the database, on the connection that also listens for notifications,
//! so that losing the connection is losing both. Notifications and watches say which rows and objects to look at; a look
//! compares the two and writes what differs, whatever the reason for it was. After a gap on either side (a connection
//! that was made anew, a list that was made anew), and every few minutes, everything is looked at.
//!
//! # Guarantees
//!
//! * What is in a row is in the cluster sooner or later, once; its name is the row's id.
//! * A row is a tombstone only when the API server has said that nothing of it is left.
//! * Objects without a row are removed if they carry the label of this very database, and no others.
//! * A status is taken for the generation of the row that it is of, and no other.
//!
//! A leader that was cut off and comes back may write once more, what its last look at the row asked for; the watch of
//! the next leader sees that, and its look sets it right.

mod cluster;
mod desired;
mod queue;
mod reconcile;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, sleep_until, timeout};
use tokio_postgres::AsyncMessage;

use crate::database::{Database, store};
use crate::metrics::metrics;
use crate::seal::Keyring;
use crate::telemetry::chain;
use cluster::{Cluster, News};
use queue::{Key, Queue};
use reconcile::{Context, Error};

/// Who has this lock leads: `transomm`, as a number.
const LOCK: i64 = 0x7472_616e_736f_6d6d;

/// Looks at the same time.
const PARALLEL: usize = 8;

/// For one look, and for the database's answer on the leader's connection.
const LOOK: Duration = Duration::from_secs(30);
const PING: Duration = Duration::from_secs(5);

/// Before another try to lead.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps one namespace as one database wants it.
pub struct Mirror {
    /// Rows.
    pub database: Database,
    /// Opens secrets.
    pub keyring: Arc<Keyring>,
    /// Objects.
    pub client: Client,
    /// Where they are.
    pub namespace: String,
    /// How often everything is looked at without a reason.
    pub resync: Duration,
}

impl Mirror {
    /// Leads whenever no other process does, until `stop` is true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        while !*stop.borrow() {
            let started = Instant::now();
            let led = tokio::select! {
                led = self.lead() => led,
                // an error means that the process ends
                _ = stop.wait_for(|stop| *stop) => Ok(()),
            };
            metrics().leader.set(0);
            let Err(error) = led else { return };
            tracing::warn!(error = format!("{error:#}"), "does not mirror, and tries again");
            pause = if started.elapsed() > LAST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LAST_PAUSE) };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
    }

    /// Ends when the connection is lost.
    async fn lead(&self) -> anyhow::Result<()> {
        let (config, tls) = self.database.own();
        let (client, mut connection) = config.connect(tls).await.context("the database cannot be reached")?;
        // not bounded: the loop below never waits for anything but news, and a payload is a word and an id
        let (sender, mut notifications) = mpsc::unbounded_channel();
        // what is started here ends with this function
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(notification) = message
                    && sender.send(notification.payload().to_owned()).is_err()
                {
                    return;
                }
            }
        });
        // a lock that another has is waited for as long as it takes
        let wait = "SET statement_timeout = 0; SET lock_timeout = 0";
        client.batch_execute(wait).await.context("the connection cannot be prepared")?;
        client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.context("the lock cannot be had")?;
        // before anything is read: what changes from here on is heard of
        client.batch_execute("LISTEN transom_catalog").await.context("the database does not notify")?;
        let catalog = store::catalog(&client).await?;
        metrics().leader.set(1);
        tracing::info!(%catalog, namespace = self.namespace, "mirrors");
        tasks.spawn(ping(client));
        let (sender, mut news) = mpsc::channel(1_024);
        let cluster = Cluster::watch(self.client.clone(), &self.namespace, catalog, sender);
        let (database, keyring) = (self.database.clone(), self.keyring.clone());
        let context = Arc::new(Context { database, keyring, cluster, catalog });
        let mut work = Work { context, agenda: Agenda::new(), looks: JoinSet::new() };
        let mut resync = interval_at(Instant::now() + self.resync, self.resync);
        loop {
            metrics().waiting.set(i64::try_from(work.agenda.queue.len()).unwrap_or(i64::MAX));
            work.start();
            let next = work.next_at();
            tokio::select! {
                notified = notifications.recv() => match notified {
                    Some(payload) => work.agenda.notified(&payload),
                    None => anyhow::bail!("the connection to the database is lost"),
                },
                // the database no longer answers, or the connection has ended
                _ = tasks.join_next() => anyhow::bail!("the connection to the database is lost"),
                Some(news) = news.recv() => work.agenda.told(news),
                Some(ended) = work.looks.join_next_with_id(), if !work.looks.is_empty() => work.ended(ended)?,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                _ = resync.tick() => work.agenda.all("interval"),
            }
        }
    }
}

/// Ends when the database no longer answers: a machine that is cut off says nothing.
async fn ping(client: tokio_postgres::Client) {
    loop {
        sleep(PING).await;
        if !matches!(timeout(PING, client.simple_query("SELECT 1")).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// What one leader has to do.
struct Work {
    context: Arc<Context>,
    agenda: Agenda,
    looks: JoinSet<(Key, Result<Vec<Key>, Error>)>,
}

impl Work {
    fn start(&mut self) {
        while self.looks.len() < PARALLEL {
            let Some(key) = self.agenda.take() else { return };
            let context = self.context.clone();
            self.looks.spawn(async move {
                let look = timeout(LOOK, context.reconcile(&key)).await;
                let result = look.unwrap_or(Err(Error::Late));
                (key, result)
            });
        }
    }

    fn next_at(&self) -> Option<Instant> {
        self.agenda.next_at().filter(|_| self.looks.len() < PARALLEL)
    }

    fn ended(&mut self, ended: Ended) -> anyhow::Result<()> {
        // a look that panics would leave its key behind: start over
        let (_, (key, result)) = ended.context("a look was cut off")?;
        metrics().reconcile(key.kind(), result.is_ok());
        self.agenda.queue.finish(&key, result.is_ok());
        match result {
            Ok(keys) => keys.into_iter().for_each(|key| self.agenda.queue.add(key)),
            // it happens whenever somebody deletes what was just made
            Err(error @ Error::Unheard) => tracing::debug!(?key, %error, "a look is taken again"),
            Err(error) => tracing::warn!(?key, error = chain(&error), "a look failed and is taken again"),
        }
        Ok(())
    }
}

/// What is to be looked at, as both sides tell.
struct Agenda {
    queue: Queue,
    /// Watches whose first list is not there yet: before, nothing is looked at.
    unlisted: usize,
}

impl Agenda {
    fn new() -> Self {
        Self { queue: Queue::default(), unlisted: cluster::WATCHES }
    }

    fn take(&mut self) -> Option<Key> {
        if self.unlisted == 0 { self.queue.take() } else { None }
    }

    fn next_at(&self) -> Option<Instant> {
        self.queue.next_at().filter(|_| self.unlisted == 0)
    }

    fn notified(&mut self, payload: &str) {
        match payload.split_once(':') {
            Some(("template", id)) => self.queue.add(Key::Template(id.to_owned())),
            Some(("instance", id)) => self.queue.add(Key::Instance(id.to_owned())),
            _ => self.all("notification"),
        }
    }

    fn told(&mut self, news: News) {
        match news {
            News::Changed(key) => self.queue.add(key),
            News::Listed(_) if self.unlisted > 1 => self.unlisted -= 1,
            News::Listed(_) if self.unlisted == 1 => {
                self.unlisted = 0;
                self.all("start");
            }
            News::Listed(kind) => {
                tracing::info!(kind, "a watch had a gap");
                self.all("watch");
            }
        }
    }

    fn all(&mut self, cause: &str) {
        metrics().resync(cause);
        self.queue.add(Key::All);
    }
}

type Ended = Result<(tokio::task::Id, (Key, Result<Vec<Key>, Error>)), tokio::task::JoinError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_looked_at_before_all_lists_and_everything_after_each_gap() {
        let mut agenda = Agenda::new();
        agenda.notified("instance:a");
        tokio::time::advance(Duration::from_millis(1)).await;
        agenda.told(News::Listed("template"));
        agenda.told(News::Listed("instance"));
        assert_eq!((agenda.take(), agenda.next_at()), (None, None));
        agenda.told(News::Listed("secret"));
        let take = |agenda: &mut Agenda| {
            let key = agenda.take();
            key.iter().for_each(|key| agenda.queue.finish(key, true));
            key
        };
        assert_eq!(take(&mut agenda), Some(Key::Instance("a".into())));
        assert_eq!(take(&mut agenda), Some(Key::All));
        assert_eq!(take(&mut agenda), None);
        // a watch whose version is too old (410) lists again
        agenda.told(News::Listed("instance"));
        assert_eq!(take(&mut agenda), Some(Key::All));
        agenda.notified("something that a later version sends");
        assert_eq!(take(&mut agenda), Some(Key::All));
        assert_eq!(take(&mut agenda), None);
    }
}
