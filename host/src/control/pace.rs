//! Turns for writes that can wait, so that the API server's time goes first to what people wait for.
//!
//! An API server does not tell its clients that it is busy before it turns them away (429). What it does show is how long
//! a write takes: the slower these are, the further apart are their turns.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After a write that can wait is time for so many more: all of them together take a fifth of one connection.
pub const REST: u32 = 4;

/// What a write is taken to need while none was made.
const FIRST: Duration = Duration::from_millis(5);

/// When nothing was written in this time, how long it took is forgotten: the API server may be quiet now.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// Gives out turns, one after the other.
pub struct Pace {
    /// No turn is further away.
    longest: Duration,
    state: Mutex<State>,
}

struct State {
    /// The next turn.
    next: Instant,
    /// How long a write took, the last ones most.
    took: Duration,
    /// When the last one ended.
    wrote: Instant,
}

impl Pace {
    /// Nobody waits longer than this for a turn.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        let now = Instant::now();
        Self { longest, state: Mutex::new(State { next: now, took: FIRST, wrote: now }) }
    }

    /// When the one who asks may write.
    pub fn turn(&self) -> Instant {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.wrote) > FORGOTTEN_AFTER {
            state.took = FIRST;
        }
        let turn = state.next.max(now);
        state.next = (turn + state.took.saturating_mul(1 + REST)).min(now + self.longest);
        turn
    }

    /// So long took a write, of those that have turns or of others.
    pub fn wrote(&self, took: Duration) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.took = (state.took * 3 + took) / 4;
        state.wrote = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    fn waits(pace: &Pace) -> Duration {
        pace.turn() - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn one_alone_does_not_wait() {
        let pace = Pace::new(LONGEST);
        for _ in 0..3 {
            assert_eq!(waits(&pace), Duration::ZERO);
            pace.wrote(Duration::from_secs(1));
            tokio::time::advance(FORGOTTEN_AFTER * 2).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_at_once_wait_for_a_moment() {
        let pace = Pace::new(LONGEST);
        let last = (0..10).map(|_| waits(&pace)).last();
        assert_eq!(last, Some(Duration::from_millis(225)));
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_further_apart_the_slower_the_writes_but_nobody_waits_for_ever() {
        let pace = Pace::new(LONGEST);
        for _ in 0..50 {
            pace.wrote(Duration::from_millis(200));
        }
        let waits: Vec<_> = (0..1_000).map(|_| waits(&pace)).collect();
        assert_eq!((waits[0], waits[1].as_millis(), waits[999]), (Duration::ZERO, 999, LONGEST));
        assert!(waits.is_sorted());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_slow_once_is_forgotten() {
        let pace = Pace::new(LONGEST);
        pace.wrote(Duration::from_secs(20));
        pace.turn();
        tokio::time::advance(LONGEST + FORGOTTEN_AFTER).await;
        pace.turn();
        assert_eq!(waits(&pace), FIRST * (1 + REST));
    }
}
