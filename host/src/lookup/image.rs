//! Does an image exist, and what is its digest?

use super::client::{Clients, failed};
use super::grants::Endpoint;
use super::registry::{Repository, is_digest, is_repository, is_tag};
use crate::plan::contract::{Answer, Value};

/// `registry/repository:tag`, `registry/repository@sha256:…`, or both at once: then the digest counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host and port.
    pub(crate) authority: String,
    /// `team/app`
    pub(crate) repository: String,
    /// Tag or digest.
    pub(crate) which: String,
}

impl Reference {
    /// # Errors
    /// Failed, with the form that it must have.
    pub(crate) fn parse(text: &str) -> Result<Self, Answer> {
        let wrong = || {
            let form = "registry/repository:tag or registry/repository@sha256:…";
            failed("InvalidArgument", format!("{text:?} is no image: it must be {form}, with the registry's host"))
        };
        let (authority, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (repository, which) = split(rest);
        let which = which.unwrap_or("latest");
        let is_host = authority.contains(['.', ':']) || authority == "localhost";
        let plain = authority.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        if !is_host || !plain {
            return Err(wrong());
        }
        let breaks = |rule: String| failed("InvalidArgument", format!("{text:?} is no image: {rule}"));
        if !is_repository(repository) {
            let rule = "must have lower-case letters and digits only, with '.', '_', '-' and '/' between them";
            return Err(breaks(format!("the repository {repository:?} {rule}")));
        }
        if !(is_tag(which) || is_digest(which)) {
            let rule = "must be 1 to 128 letters, digits, '.', '_' and '-', or a digest sha256:…";
            return Err(breaks(format!("the tag {which:?} {rule}")));
        }
        Ok(Self { authority: authority.into(), repository: repository.into(), which: which.into() })
    }
}

/// Repository, and tag or digest.
pub(crate) fn split(text: &str) -> (&str, Option<&str>) {
    let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    let (name, tag) = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (name, None),
    };
    (name, digest.or(tag))
}

/// Asks the registry.
pub(crate) async fn answer(clients: &Clients, endpoint: &Endpoint, image: &Reference) -> Answer {
    let digest = async {
        endpoint.allow(&format!("/{}", image.repository))?;
        let client = clients.get(endpoint).await?;
        let repository = Repository { client: &client, endpoint, name: &image.repository };
        repository.digest(&image.which).await
    };
    match digest.await {
        Ok(Some(digest)) => Answer::Found(Value::Digest(digest)),
        Ok(None) => Answer::Absent,
        Err(refused) => refused,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("r.example/app:1", "r.example", "app", "1")]
    #[case("r.example:5000/team/app", "r.example:5000", "team/app", "latest")]
    #[case("localhost/app:1.2-x_y", "localhost", "app", "1.2-x_y")]
    fn references_are_read(#[case] text: &str, #[case] authority: &str, #[case] repository: &str, #[case] which: &str) {
        let expected = Reference { authority: authority.into(), repository: repository.into(), which: which.into() };
        assert_eq!(Reference::parse(text), Ok(expected));
    }

    #[test]
    fn a_digest_counts_more_than_a_tag() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert_eq!(Reference::parse(&format!("r.example/app:1@{digest}")).unwrap().which, digest);
    }

    #[rstest]
    #[case("app")]
    #[case("team/app:1")]
    #[case("r.example/App:1")]
    #[case("r.example/../app:1")]
    #[case("r.example/app:")]
    #[case("r.example/app@sha256:12")]
    #[case("r.example/app?x=1")]
    #[case("user@r.example/app")]
    fn what_is_no_reference_is_refused(#[case] text: &str) {
        assert!(matches!(Reference::parse(text), Err(Answer::Failed(p)) if p.reason == "InvalidArgument"));
    }

    #[rstest]
    #[case("r.example/Team/app:1", r#"the repository "Team/app" must have lower-case letters and digits only"#)]
    #[case("r.example/app:a b", r#"the tag "a b" must be 1 to 128 letters, digits"#)]
    #[case("app", "it must be registry/repository:tag")]
    fn what_is_no_reference_is_told_the_rule(#[case] text: &str, #[case] rule: &str) {
        let Err(Answer::Failed(problem)) = Reference::parse(text) else { unreachable!("{text} is none") };
        assert!(problem.message.starts_with(&format!("{text:?} is no image: {rule}")), "{}", problem.message);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            let _ = Reference::parse(&text);
        }
    }
}
