//! Ctrl-C and SIGTERM.
//!
//! The first one asks: whatever waits here gives up with [`Interrupted`], and what was started is stopped on the way
//! out. The second one ends the process at once; what it leaves running is stopped by `cargo xtask down`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code of a program that Ctrl-C ended, as shells count it.
pub(crate) const EXIT_CODE: u8 = 130;

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The user, or whoever started us, wants us to end.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Takes over both signals; once, at the start.
pub(crate) fn install() -> Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // The order counts: the second signal finds the flag that the first one set.
        flag::register_conditional_shutdown(signal, i32::from(EXIT_CODE), Arc::clone(asked))
            .and_then(|_| flag::register(signal, Arc::clone(asked)))
            .context("failed to take over Ctrl-C")?;
    }
    Ok(())
}

/// Whether a signal has arrived.
pub(crate) fn asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::SeqCst))
}

/// To be called in every loop that waits.
pub(crate) fn check() -> Result<()> {
    if asked() {
        return Err(Interrupted.into());
    }
    Ok(())
}
