//! How a call fails.

use std::time::Duration;

/// Why a call to a plugin gave no answer. Every one is contained: the instance is gone, other calls go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The guest trapped: a panic, an out-of-bounds access, a stack overflow.
    #[error("the plugin trapped: {0}")]
    Trapped(String),
    /// It did not finish in time.
    #[error("the plugin did not finish within {0:?}")]
    DeadlineExceeded(Duration),
    /// It did more than allowed, counted in instructions.
    #[error("the plugin did not finish with a fuel of {0}")]
    OutOfFuel(u64),
    /// It wanted more memory than allowed.
    #[error("the plugin needs more than {0} bytes of memory: raise spec.limits.memory of the Plugin")]
    OutOfMemory(usize),
    /// It answered with more than allowed.
    #[error("the plugin's answer is larger than {0} bytes")]
    ResponseTooLarge(usize),
    /// Its answer does not fit the contract (text that is not UTF-8, an unknown case).
    #[error("the plugin's answer is malformed: {0}")]
    MalformedResponse(String),
    /// There was no instance to be had.
    #[error("no instance of the plugin could be made: {0}")]
    Unavailable(String),
}

impl CallError {
    /// Stable CamelCase word: condition reason, event reason and metric label alike.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Trapped(_) => "PluginTrapped",
            Self::DeadlineExceeded(_) => "DeadlineExceeded",
            Self::OutOfFuel(_) => "OutOfFuel",
            Self::OutOfMemory(_) => "OutOfMemory",
            Self::ResponseTooLarge(_) => "ResponseTooLarge",
            Self::MalformedResponse(_) => "MalformedResponse",
            Self::Unavailable(_) => "PluginUnavailable",
        }
    }
}
