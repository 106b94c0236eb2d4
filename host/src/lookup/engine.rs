//! Runs of engines, remembered: the same bytes go in, the same bytes come out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::client::failed;
use crate::plan::contract::{Answer, Problem, Value};
use crate::plugin::{CallError, EngineComponent};
use crate::telemetry::metrics;

/// Of one input, and of one output.
const MAX_BYTES: usize = 16 << 20;

/// Outputs in memory, all engines together.
const MAX_KEPT_BYTES: usize = 128 << 20;

/// Outputs in memory, however small.
const MAX_KEPT: usize = 10_000;

/// How long one waits for others to finish before it gets the answer `failed`.
const QUEUE_DEADLINE: Duration = Duration::from_secs(120);

/// One loaded engine.
pub struct Runner {
    digest: String,
    component: EngineComponent,
}

impl Runner {
    /// An engine with the digest of its component.
    #[must_use]
    pub fn new(digest: String, component: EngineComponent) -> Self {
        Self { digest, component }
    }
}

/// Digest of the engine, of the input, and of the bounds under which a failure was one.
type Key = [u8; 32];

struct Kept {
    answer: Arc<OnceCell<Answer>>,
    bytes: usize,
    used: Instant,
}

#[derive(Default)]
struct Memo {
    kept: HashMap<Key, Kept>,
    bytes: usize,
}

/// What engines have said.
pub(super) struct Engines {
    memo: Mutex<Memo>,
    /// A run computes all the time: more at once than there are cores would only make all of them later.
    permits: Semaphore,
}

static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, Into::into));

impl Engines {
    pub(super) fn new() -> Self {
        Self { memo: Mutex::default(), permits: Semaphore::new(*CORES) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memo> {
        self.memo.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the engine makes of the input, now or earlier. The engine gets what `whole` makes of it, which is always the
    /// same for the same input; an error of that is the answer, and not kept.
    pub(super) async fn answer<'a>(
        &'a self,
        runner: &'a Runner,
        input: &'a [u8],
        whole: impl FnOnce() -> BoxFuture<'a, Result<Cow<'a, [u8]>, Answer>> + Send + 'a,
    ) -> Answer {
        let digest = format!("{} {:?}", runner.digest, runner.component.bounds());
        let run = || async { Ok(runner.component.run(&whole().await?).await) }.boxed();
        self.remembered(&digest, input, run).await
    }

    async fn remembered<'a>(
        &self,
        engine: &str,
        input: &[u8],
        run: impl FnOnce() -> BoxFuture<'a, Result<Run, Answer>>,
    ) -> Answer {
        if input.len() > MAX_BYTES {
            return failed("TooLarge", format!("an input of {} bytes, at most {MAX_BYTES}", input.len()));
        }
        let mut hash = Sha256::new();
        hash.update((engine.len() as u64).to_be_bytes());
        hash.update(engine);
        hash.update(input);
        let key: Key = hash.finalize().into();
        let cell = {
            let mut memo = self.lock();
            let now = Instant::now();
            let kept = memo.kept.entry(key).or_insert_with(|| Kept { answer: Arc::default(), bytes: 0, used: now });
            kept.used = now;
            kept.answer.clone()
        };
        if let Some(answer) = cell.get() {
            metrics().lookup_hit("engine");
            return answer.clone();
        }
        // one run for all that ask the same; one that is cut off leaves the cell to the next
        let run = async {
            let permit = tokio::time::timeout(QUEUE_DEADLINE, self.permits.acquire()).await;
            let Ok(Ok(_permit)) = permit else {
                return Err(failed("Unavailable", format!("all engines were busy for {QUEUE_DEADLINE:?}")));
            };
            let _timer = metrics().lookup("engine");
            let (answer, lasting) = match run().await {
                Ok(run) => outcome(run),
                Err(answer) => (answer, false),
            };
            metrics().looked_up("engine", super::table::outcome_of(&answer));
            if lasting { Ok(answer) } else { Err(answer) }
        };
        match cell.get_or_try_init(|| run).await {
            Ok(answer) => {
                let answer = answer.clone();
                self.weigh(&key, &answer);
                answer
            }
            Err(passing) => {
                let mut memo = self.lock();
                if memo.kept.get(&key).is_some_and(|kept| kept.answer.get().is_none()) {
                    memo.kept.remove(&key);
                }
                passing
            }
        }
    }

    /// Counts a new answer, and throws the least used ones away until the rest fits.
    fn weigh(&self, key: &Key, answer: &Answer) {
        let mut memo = self.lock();
        let bytes = match answer {
            Answer::Found(Value::Bytes(bytes)) => bytes.len() + 256,
            _ => 1_024,
        };
        if let Some(kept) = memo.kept.get_mut(key).filter(|kept| kept.bytes == 0) {
            kept.bytes = bytes;
            memo.bytes += bytes;
        }
        if memo.bytes <= MAX_KEPT_BYTES && memo.kept.len() <= MAX_KEPT {
            return;
        }
        // down to three quarters, so that this is seldom
        let done = memo.kept.iter().filter(|(other, kept)| kept.bytes > 0 && *other != key);
        let mut by_use: Vec<(Instant, Key)> = done.map(|(key, kept)| (kept.used, *key)).collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if memo.bytes <= MAX_KEPT_BYTES / 4 * 3 && memo.kept.len() <= MAX_KEPT / 4 * 3 {
                break;
            }
            if let Some(kept) = memo.kept.remove(&key) {
                memo.bytes -= kept.bytes;
            }
        }
    }
}

/// What comes of a run: bytes, the engine's own failure, or none of both.
type Run = Result<Result<Vec<u8>, Problem>, CallError>;

/// The answer, and whether the same input would have it again.
fn outcome(result: Run) -> (Answer, bool) {
    match result {
        Ok(Ok(output)) if output.len() > MAX_BYTES => {
            (failed("ResponseTooLarge", format!("an output of {} bytes, at most {MAX_BYTES}", output.len())), true)
        }
        Ok(Ok(output)) => (Answer::Found(Value::Bytes(output)), true),
        Ok(Err(problem)) => {
            let word = |c: char| c.is_ascii_alphanumeric();
            let fits = !problem.reason.is_empty() && problem.reason.len() <= 64 && problem.reason.chars().all(word);
            (failed(if fits { problem.reason } else { "EngineFailed".into() }, problem.message), true)
        }
        // on a busy machine the clock may have been unfair
        Err(error @ (CallError::DeadlineExceeded(_) | CallError::Unavailable(_))) => {
            (failed(error.reason(), error.to_string()), false)
        }
        Err(error @ CallError::OutOfMemory(bytes)) => {
            let message = format!(
                "the engine needs more than {bytes} bytes of memory: raise its limits.memory in spec.engines of the Plugin"
            );
            (failed(error.reason(), message), true)
        }
        Err(error) => (failed(error.reason(), error.to_string()), true),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn bytes(answer: &Answer) -> &[u8] {
        match answer {
            Answer::Found(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    #[tokio::test]
    async fn the_same_input_is_run_once_for_all_that_ask_at_the_same_time_and_later() {
        let (engines, runs) = (Engines::new(), AtomicUsize::new(0));
        let run = || {
            engines.remembered("e", b"in", || {
                Box::pin(async {
                    runs.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    Ok(Ok(Ok(b"out".to_vec())))
                })
            })
        };
        let answers = futures::future::join_all((0..8).map(|_| run())).await;
        assert!(answers.iter().all(|answer| bytes(answer) == b"out"));
        run().await;
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn an_engines_own_failure_is_kept_and_a_missed_deadline_is_not() {
        let engines = Engines::new();
        let problem = || Problem { reason: "Bad".into(), message: "bad input".into() };
        let first = engines.remembered("e", b"x", || Box::pin(async move { Ok(Ok(Err(problem()))) })).await;
        let second = engines.remembered("e", b"x", || Box::pin(async { Ok(Ok(Ok(vec![]))) })).await;
        assert_eq!((&first, &second), (&Answer::Failed(problem()), &Answer::Failed(problem())));
        let late = CallError::DeadlineExceeded(Duration::from_secs(1));
        let answer = engines.remembered("e", b"y", || Box::pin(async move { Ok(Err(late)) })).await;
        assert!(matches!(answer, Answer::Failed(p) if p.reason == "DeadlineExceeded"));
        let answer = engines.remembered("e", b"y", || Box::pin(async { Ok(Ok(Ok(b"now".to_vec()))) })).await;
        assert_eq!(bytes(&answer), b"now");
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_latest_stay() {
        let engines = Engines::new();
        for i in 0..12u8 {
            engines.remembered("e", &[i], || Box::pin(async { Ok(Ok(Ok(vec![0; MAX_BYTES]))) })).await;
            assert!(engines.lock().bytes <= MAX_KEPT_BYTES);
        }
        let kept = engines.remembered("e", &[11], || Box::pin(async { Ok(Ok(Ok(b"again".to_vec()))) })).await;
        assert_eq!(bytes(&kept).len(), MAX_BYTES);
        let gone = engines.remembered("e", &[0], || Box::pin(async { Ok(Ok(Ok(b"again".to_vec()))) })).await;
        assert_eq!(bytes(&gone), b"again");
    }

    #[tokio::test]
    async fn two_engines_do_not_share() {
        let engines = Engines::new();
        engines.remembered("a", b"x", || Box::pin(async { Ok(Ok(Ok(b"1".to_vec()))) })).await;
        let other = engines.remembered("b", b"x", || Box::pin(async { Ok(Ok(Ok(b"2".to_vec()))) })).await;
        assert_eq!(bytes(&other), b"2");
    }
}
