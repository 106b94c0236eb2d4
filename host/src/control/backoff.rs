//! How long to wait after failures.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(300);

/// Wait before the next try after this many failures in a row (0 counts as 1): 0.5 s doubled each time, at most 5 min,
/// reduced by up to a fifth so that objects that failed together do not come back together. `seed` decides by how much.
#[must_use]
pub fn delay(failures: u32, seed: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    // splitmix64: spreads neighbouring seeds over the whole range
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^= z >> 27;
    #[allow(clippy::cast_precision_loss, reason = "a jitter needs no more than 32 bits")]
    let share = (z >> 32) as f64 / f64::from(u32::MAX);
    full.mul_f64(1.0 - 0.2 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn stays_in_bounds_for_any_count(failures: u32, seed: u64) {
            let delay = delay(failures, seed);
            proptest::prop_assert!(delay >= FIRST.mul_f64(0.79) && delay <= LONGEST);
        }
        #[test]
        fn never_shrinks_by_more_than_the_jitter(failures in 0u32..100, seed: u64) {
            proptest::prop_assert!(delay(failures + 1, seed) >= delay(failures, seed));
        }
    }
}
