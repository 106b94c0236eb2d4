//! The ServiceAccount that a plugin acts as.
//!
//! Every request for a plugin is made by the host in the name of this account (user impersonation), so that RBAC decides
//! what the plugin may touch, and the audit log says who did what. The API server adds the groups of a ServiceAccount by
//! itself where none is named (`k8s.io/apiserver/pkg/endpoints/filters/impersonation`).

use std::fmt;

use http::{HeaderName, HeaderValue, Request};
use kube::client::Body;

const IMPERSONATE_USER: HeaderName = HeaderName::from_static("impersonate-user");

/// A ServiceAccount. Shown as the user that RBAC knows: `system:serviceaccount:<namespace>:<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    user: HeaderValue,
}

impl Account {
    /// None when these are no names.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let is_name = |text: &str| !text.is_empty() && text.len() <= 253 && text.chars().all(plain);
        if !is_name(namespace) || !is_name(name) {
            return None;
        }
        let user = HeaderValue::try_from(format!("system:serviceaccount:{namespace}:{name}")).ok()?;
        Some(Self { user })
    }

    /// The same connections with this account's name on every request.
    #[must_use]
    pub fn client(&self, client: &kube::Client) -> kube::Client {
        let (user, inner) = (self.user.clone(), client.clone());
        let service = tower::service_fn(move |mut request: Request<Body>| {
            request.headers_mut().insert(IMPERSONATE_USER, user.clone());
            let inner = inner.clone();
            async move { inner.send(request).await }
        });
        kube::Client::new(service, client.default_namespace())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.user.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_the_user_that_rbac_knows() {
        let account = Account::new("team-a", "orders.plugin").unwrap();
        assert_eq!(account.to_string(), "system:serviceaccount:team-a:orders.plugin");
        for (namespace, name) in [("", "a"), ("a", ""), ("a", "b:c"), ("a", "B"), ("a\n", "b")] {
            assert_eq!(Account::new(namespace, name), None);
        }
    }
}
