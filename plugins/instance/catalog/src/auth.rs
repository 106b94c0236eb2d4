//! Who asks: bearer tokens of an OpenID provider, or those in a file.

mod oidc;
mod tokens;
mod verifier;

pub use oidc::{Oidc, Settings};
pub use tokens::Tokens;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As the provider names them; rows and objects carry it as the user's id.
    pub subject: String,
    /// Sees and changes everything.
    pub is_admin: bool,
}

/// Why a token is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none.
    #[error("send a token: `Authorization: Bearer TOKEN`")]
    Missing,
    /// Not one of ours.
    #[error("the token is not known, not for this service, or no longer valid: get a new one")]
    Wrong,
    /// The provider's keys are not known yet.
    #[error("the identity provider cannot be reached: try again")]
    Unavailable,
}

/// All ways to be known.
pub struct Auth {
    /// Tokens in a file.
    pub tokens: Option<Tokens>,
    /// A provider.
    pub oidc: Option<Oidc>,
}

impl Auth {
    /// Who has this token.
    ///
    /// # Errors
    ///
    /// Why it is refused. Never tells the token.
    pub async fn identify(&self, token: &str) -> Result<Identity, Refusal> {
        if let Some(identity) = self.tokens.as_ref().and_then(|tokens| tokens.find(token)) {
            return Ok(identity);
        }
        match &self.oidc {
            Some(oidc) => oidc.identify(token).await,
            None => Err(Refusal::Wrong),
        }
    }
}
