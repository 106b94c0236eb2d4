use crate::failure::Failure;

/// What a lookup found. Absence is an answer, and so is failure: the plugin decides what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer<T> {
    /// It is there.
    Found(T),
    /// It is not there: no such object, HTTP 404, gRPC NOT_FOUND, no such image.
    Absent,
    /// The plugin may not ask; the text says what to grant.
    Denied(String),
    /// May get better by itself; the host tries again, and reconciles when the answer changes.
    Failed {
        /// Stable CamelCase word: `Unavailable`, `DeadlineExceeded`, `Http503`.
        reason: String,
        /// One sentence for people.
        message: String,
    },
}

impl<T> Answer<T> {
    /// What was found, or `None` when it is not there.
    ///
    /// # Errors
    ///
    /// Transient when the lookup was denied (reason `LookupDenied`) or failed (its own reason).
    pub fn into_found(self) -> Result<Option<T>, Failure> {
        match self {
            Self::Found(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Denied(message) => Err(Failure::transient("LookupDenied", message)),
            Self::Failed { reason, message } => Err(Failure::transient(reason, message)),
        }
    }
}

/// Answer of [`Context::http_get`](crate::Context::http_get).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Lower-case names; only `content-type`, `etag` and `last-modified`.
    pub headers: Vec<(String, String)>,
    /// Empty for HEAD.
    pub body: Vec<u8>,
}

/// A file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative, `/` between folders, never with `..`.
    pub path: String,
    /// The bytes.
    pub content: Vec<u8>,
}
