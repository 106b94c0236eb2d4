//! Which replica does the work: the one that holds a Lease (`coordination.k8s.io/v1`). The others stand by.
//!
//! The rules are those of `k8s.io/client-go/tools/leaderelection`. Whoever holds the Lease renews it, and ends when it
//! could not for two thirds of the Lease's duration. Another one takes it when it has not changed for its whole duration,
//! by the clock of the one that looks: clocks of different machines are never compared. Every write names the version that
//! was read, so that of two that take it at the same time one is refused.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::telemetry::chain;

/// Field manager of the host's own writes.
const MANAGER: &str = "transom";

/// A replica that wants to do the work.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    /// Its name, which no other process has at the same time.
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
    /// Who was told to lead last.
    holder: Option<String>,
}

/// The Lease as it was last found, and since when it has been like that.
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What became of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    /// This replica holds the Lease, from before the request on.
    Held,
    /// Another one does.
    HeldBy(String),
    /// Somebody else was quicker to write, whatever that was.
    Conflict,
}

impl Candidate {
    /// For the Lease of this name. Whoever holds it must renew it within `duration`.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: String, identity: String, duration: Duration) -> Self {
        Self { leases: Api::namespaced(client, namespace), name, identity, duration, seen: None, holder: None }
    }

    /// Tries once, and gets itself back when it was for nothing.
    ///
    /// # Errors
    /// When another replica holds the Lease, or the API server gives none.
    pub async fn try_once(mut self) -> Result<Leader, Self> {
        match self.step().await {
            Some(renewed) => Ok(Leader { candidate: self, renewed }),
            None => Err(self),
        }
    }

    /// Waits until this replica holds the Lease.
    pub async fn elected(mut self) -> Leader {
        loop {
            sleep(self.every()).await;
            match self.try_once().await {
                Ok(leader) => return leader,
                Err(candidate) => self = candidate,
            }
        }
    }

    /// When the Lease was got, from before the request on.
    async fn step(&mut self) -> Option<Instant> {
        let asked = Instant::now();
        match timeout_at(asked + self.patience(), self.attempt()).await {
            Ok(Ok(Attempt::Held)) => {
                tracing::info!(lease = self.name, identity = self.identity, "this replica leads");
                return Some(asked);
            }
            Ok(Ok(Attempt::HeldBy(holder))) => {
                if self.holder.as_ref() != Some(&holder) {
                    tracing::info!(lease = self.name, identity = self.identity, holder, "another replica leads");
                    self.holder = Some(holder);
                }
            }
            Ok(Ok(Attempt::Conflict)) => {}
            Ok(Err(error)) => warn(&error),
            Err(_) => tracing::warn!("the API server does not answer in time: nobody can be elected"),
        }
        None
    }

    /// How often the Lease is looked at, or renewed.
    fn every(&self) -> Duration {
        self.duration * 2 / 15
    }

    /// Who could not renew it for so long ends. The rest of the duration is for the end itself.
    fn patience(&self) -> Duration {
        self.duration * 2 / 3
    }

    async fn attempt(&mut self) -> Result<Attempt, kube::Error> {
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let written = match self.leases.get_opt(&self.name).await? {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let spec = Some(self.taken(&LeaseSpec::default()));
                self.leases.create(&parameters, &Lease { metadata, spec }).await
            }
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                if let Some(holder) = self.held_by_another(&spec, Instant::now()) {
                    return Ok(Attempt::HeldBy(holder));
                }
                lease.spec = Some(self.taken(&spec));
                self.leases.replace(&self.name, &parameters, &lease).await
            }
        };
        match written {
            Ok(_) => Ok(Attempt::Held),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Attempt::Conflict),
            Err(error) => Err(error),
        }
    }

    /// Who holds the Lease, if it is not for the taking.
    fn held_by_another(&mut self, spec: &LeaseSpec, now: Instant) -> Option<String> {
        if self.seen.as_ref().is_none_or(|seen| seen.spec != *spec) {
            self.seen = Some(Seen { spec: spec.clone(), since: now });
        }
        let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty() && *holder != self.identity)?;
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(self.duration, Duration::from_secs);
        let since = self.seen.as_ref().map_or(now, |seen| seen.since);
        (now < since + duration).then_some(holder)
    }

    /// The Lease as this replica writes it.
    fn taken(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(jiff::Timestamp::now());
        let mine = before.holder_identity.as_deref() == Some(&*self.identity);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: before.acquire_time.clone().filter(|_| mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine { transitions } else { transitions.saturating_add(1) }),
            ..before.clone()
        }
    }
}

/// The replica that does the work, for as long as it renews the Lease.
pub struct Leader {
    candidate: Candidate,
    /// When the last renewal that came through was begun.
    renewed: Instant,
}

impl Leader {
    /// Renews the Lease for as long as that works. When this returns, another replica may do the work within a third of
    /// the Lease's duration; the sentence says why.
    pub async fn hold(&mut self) -> String {
        loop {
            let until = self.renewed + self.candidate.patience();
            sleep_until((Instant::now() + self.candidate.every()).min(until)).await;
            let asked = Instant::now();
            match timeout_at(until, self.candidate.attempt()).await {
                Ok(Ok(Attempt::Held)) => self.renewed = asked,
                Ok(Ok(Attempt::HeldBy(holder))) => return format!("it is held by {holder}"),
                Ok(Ok(Attempt::Conflict)) => {}
                Ok(Err(error)) => warn(&error),
                Err(_) => {}
            }
            if Instant::now() >= until && self.renewed < asked {
                return format!("it could not be renewed for {:?}", self.candidate.patience());
            }
        }
    }

    /// Lets go, so that another replica need not wait. All work must have ended.
    pub async fn release(mut self) {
        let deadline = self.renewed + self.candidate.duration;
        if !matches!(timeout_at(deadline, self.let_go()).await, Ok(Ok(()))) {
            tracing::warn!("the lease could not be released: it runs out by itself");
        }
    }

    async fn let_go(&mut self) -> Result<(), kube::Error> {
        let Candidate { leases, name, identity, .. } = &self.candidate;
        let Some(mut lease) = leases.get_opt(name).await? else { return Ok(()) };
        let held = lease.spec.take().unwrap_or_default();
        if held.holder_identity.as_ref() != Some(identity) {
            return Ok(());
        }
        lease.spec = Some(LeaseSpec { holder_identity: None, ..held });
        leases.replace(name, &PostParams::default(), &lease).await.map(drop)
    }
}

fn warn(error: &kube::Error) {
    tracing::warn!(error = chain(error), "the lease cannot be read or written");
}

/// A name for this process that no other has: the pod's where there is one, so that a container that starts again in its pod
/// has the Lease of the one before at once.
#[must_use]
pub fn identity() -> String {
    std::env::var("POD_NAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{host}_{}_{}", std::process::id(), jiff::Timestamp::now().as_nanosecond())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn candidate(identity: &str) -> Candidate {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = kube::Client::try_from(config).unwrap();
        Candidate::new(client, "n", "transom".into(), identity.into(), DURATION)
    }

    fn held(by: &Candidate) -> LeaseSpec {
        by.taken(&LeaseSpec::default())
    }

    #[tokio::test]
    async fn a_lease_is_taken_when_it_has_not_changed_for_its_duration() {
        let (a, mut b) = (candidate("a"), candidate("b"));
        let (first, start) = (held(&a), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(b.held_by_another(&first, start), Some("a".into()));
        assert_eq!(b.held_by_another(&first, after(14)), Some("a".into()));
        // renewed: counted anew, whatever time it says
        let renewed = LeaseSpec { renew_time: Some(MicroTime(jiff::Timestamp::UNIX_EPOCH)), ..a.taken(&first) };
        assert_eq!(b.held_by_another(&renewed, after(14)), Some("a".into()));
        assert_eq!(b.held_by_another(&renewed, after(28)), Some("a".into()));
        assert_eq!(b.held_by_another(&renewed, after(29)), None);
    }

    #[tokio::test]
    async fn the_duration_is_that_of_the_one_that_holds_it() {
        let (a, mut b) = (candidate("a"), candidate("b"));
        let long = LeaseSpec { lease_duration_seconds: Some(60), ..held(&a) };
        let start = Instant::now();
        assert_eq!(b.held_by_another(&long, start), Some("a".into()));
        assert_eq!(b.held_by_another(&long, start + Duration::from_secs(59)), Some("a".into()));
        assert_eq!(b.held_by_another(&long, start + Duration::from_secs(60)), None);
    }

    #[tokio::test]
    async fn what_is_free_or_ones_own_is_taken_at_once() {
        let (a, mut b) = (candidate("a"), candidate("b"));
        let now = Instant::now();
        assert_eq!(b.held_by_another(&LeaseSpec { holder_identity: None, ..held(&a) }, now), None);
        assert_eq!(b.held_by_another(&LeaseSpec { holder_identity: Some(String::new()), ..held(&a) }, now), None);
        let own = held(&b);
        assert_eq!(b.held_by_another(&own, now), None, "the container before this one, in the same pod");
    }

    #[tokio::test]
    async fn transitions_count_who_takes_it_and_not_renewals() {
        let (a, b) = (candidate("a"), candidate("b"));
        let first = held(&a);
        assert_eq!((first.lease_transitions, first.lease_duration_seconds), (Some(1), Some(15)));
        let renewed = a.taken(&first);
        assert_eq!((&renewed.lease_transitions, &renewed.acquire_time), (&Some(1), &first.acquire_time));
        let taken = b.taken(&renewed);
        assert_eq!((taken.lease_transitions, taken.holder_identity.as_deref()), (Some(2), Some("b")));
        assert_ne!(taken.acquire_time, first.acquire_time);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_renew_gives_up_before_another_may_take_it() {
        let mut leader = Leader { candidate: candidate("a"), renewed: Instant::now() };
        let start = Instant::now();
        // nobody listens there
        let why = leader.hold().await;
        assert_eq!(why, "it could not be renewed for 10s");
        assert!(start.elapsed() < DURATION, "{:?}", start.elapsed());
    }
}
