//! A word on stderr about what takes longer than people wait without one.

use std::time::Duration;

/// Work that is done by then needs no word.
const AFTER: Duration = Duration::from_secs(1);

/// Says what goes on if it takes more than a second.
pub(super) async fn slow<T>(what: &str, work: impl Future<Output = T>) -> T {
    told(work, || eprintln!("{what} …")).await
}

async fn told<T>(work: impl Future<Output = T>, tell: impl FnOnce()) -> T {
    let mut work = std::pin::pin!(work);
    match tokio::time::timeout(AFTER, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            tell();
            work.await
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(900, 0)]
    #[case(1100, 1)]
    #[tokio::test(start_paused = true)]
    async fn only_what_takes_long_is_told_and_once(#[case] milliseconds: u64, #[case] times: u32) {
        let mut told_times = 0;
        let work = async {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            "done"
        };
        assert_eq!(told(work, || told_times += 1).await, "done");
        assert_eq!(told_times, times);
    }
}
