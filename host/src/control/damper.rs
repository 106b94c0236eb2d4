//! Slows down a primary whose children are written again and again although nobody asked for anything new: somebody
//! else writes the same fields, or the plugin's plan depends on what it does. Delayed, never given up.

use std::time::Duration;

use tokio::time::Instant;

/// Writes in a row that are not slowed down: a deployment that is being repaired by hand can take a few.
const BURST: u32 = 10;

/// After a burst, one write in this time.
const PACE: Duration = Duration::from_secs(10);

/// One for each primary: a token bucket, counted in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damper {
    /// When the bucket is full again.
    full_at: Option<Instant>,
}

impl Damper {
    /// Children were written again. Returns how long the primary has to rest.
    pub fn wrote(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let full_at = self.full_at.unwrap_or(now).max(now) + PACE;
        self.full_at = Some(full_at);
        let rest = full_at.duration_since(now).saturating_sub(PACE * BURST);
        (!rest.is_zero()).then_some(rest)
    }

    /// Something new is wanted: its writes are not repetitions.
    pub fn reset(&mut self) {
        self.full_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fight_is_slowed_down_to_one_write_in_ten_seconds() {
        let mut damper = Damper::default();
        let start = Instant::now();
        for _ in 0..BURST {
            assert_eq!(damper.wrote(), None);
        }
        for _ in 0..6 {
            let rest = damper.wrote().unwrap();
            tokio::time::advance(rest).await;
        }
        assert_eq!(start.elapsed(), PACE * 6);
    }

    #[tokio::test(start_paused = true)]
    async fn seldom_repairs_never_rest() {
        let mut damper = Damper::default();
        for _ in 0..100 {
            assert_eq!(damper.wrote(), None);
            tokio::time::advance(PACE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn new_wishes_are_not_slowed_down() {
        let mut damper = Damper::default();
        for _ in 0..100 {
            damper.reset();
            assert_eq!(damper.wrote(), None);
        }
    }
}
