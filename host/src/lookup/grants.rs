//! What a `Plugin` record lets its plugin ask outside the API server.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Uri;
use sha2::{Digest as _, Sha256};

use super::engine::Runner;
use crate::api::plugin::{EndpointSpec, SecretRef};
use crate::control::account::Account;
use crate::plan::contract::{Answer, Manifest};
use crate::plan::glob;

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Unary gRPC.
    Grpc,
    /// HTTP GET and HEAD.
    Http,
    /// An OCI registry.
    Oci,
    /// A git repository.
    Git,
    /// A folder on the host.
    Folder,
}

impl Protocol {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "grpc" => Self::Grpc,
            "http" => Self::Http,
            "oci" => Self::Oci,
            "git" => Self::Git,
            "folder" => Self::Folder,
            _ => return None,
        })
    }

    /// As the address of one looks.
    fn example(self) -> &'static str {
        match self {
            Self::Grpc | Self::Http => "https://host:port",
            Self::Oci => "oci://registry/repository",
            Self::Git => "https://host/repository.git",
            Self::Folder => "file:///folder",
        }
    }

    fn speaks(self, scheme: &str) -> bool {
        match self {
            Self::Grpc | Self::Http => matches!(scheme, "http" | "https"),
            Self::Oci => scheme == "oci",
            Self::Git => matches!(scheme, "http" | "https" | "file"),
            Self::Folder => scheme == "file",
        }
    }
}

/// An endpoint that a record grants.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name that the plugin uses.
    pub name: String,
    /// Where the record says so, for messages: `spec.endpoints[x]`.
    pub field: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Without TLS.
    pub plaintext: bool,
    /// Host and port; empty for `file://`.
    pub authority: String,
    /// Begins with `/`, or is empty; never ends with `/`.
    pub base: String,
    /// Secret for authentication.
    pub credentials: Option<SecretRef>,
    /// Secret with the only trusted authorities.
    pub ca: Option<SecretRef>,
    /// Who reads the Secrets; the host itself when there is none.
    pub account: Option<Account>,
    paths: Vec<String>,
    /// The same for the same grant: who has it may share answers and connections.
    pub digest: Arc<str>,
}

/// Everything that is granted to one version of a plugin.
#[derive(Default)]
pub struct Grants {
    endpoints: BTreeMap<String, Arc<Endpoint>>,
    engines: BTreeMap<String, Arc<Runner>>,
}

impl Endpoint {
    fn parse(spec: &EndpointSpec, protocol: Protocol) -> Result<Self, String> {
        let wrong = |what: &str| format!("spec.endpoints[{}].address: {:?} {what}", spec.name, spec.address);
        let Some((scheme, rest)) = spec.address.split_once("://") else {
            return Err(wrong(&format!("must look like {}", protocol.example())));
        };
        if !protocol.speaks(scheme) {
            return Err(wrong(&format!("must look like {}", protocol.example())));
        }
        let (authority, base) = if scheme == "file" {
            (String::new(), rest.to_owned())
        } else {
            let uri: Uri = format!("https://{rest}").parse().map_err(|_| wrong("is no address"))?;
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            if authority.is_empty() || uri.query().is_some() {
                return Err(wrong("must have a host, and no query"));
            }
            if authority.contains('@') {
                return Err(wrong("must not hold credentials: put them in a Secret and name it under credentials"));
            }
            (authority, uri.path().to_owned())
        };
        if scheme == "file" && !base.starts_with('/') {
            return Err(wrong("must be an absolute path: file:///folder"));
        }
        if scheme == "http" && !spec.plaintext {
            return Err(wrong("is without TLS: use https://, or say plaintext: true"));
        }
        if scheme == "https" && spec.plaintext {
            return Err(wrong("is with TLS: use http://, or leave plaintext out"));
        }
        let text = serde_json::to_string(spec).unwrap_or_default();
        let digest = Sha256::digest(format!("{protocol:?} {text}"));
        Ok(Self {
            name: spec.name.clone(),
            field: format!("spec.endpoints[{}]", spec.name),
            protocol,
            plaintext: spec.plaintext,
            authority,
            base: base.trim_end_matches('/').to_owned(),
            credentials: spec.credentials.clone(),
            ca: spec.ca.clone(),
            account: None,
            paths: spec.paths.clone(),
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        })
    }

    /// A server that a component is fetched from; `field` is `spec.source.oci`, for messages.
    ///
    /// # Errors
    /// When `authority` is no host with an optional port.
    pub(crate) fn source(
        field: &str,
        protocol: Protocol,
        authority: &str,
        plaintext: bool,
        (credentials, ca): (Option<&SecretRef>, Option<&SecretRef>),
    ) -> Result<Self, String> {
        let plain = authority.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]_".contains(c));
        if authority.is_empty() || !plain {
            return Err(format!("{field}: {authority:?} is no host and port"));
        }
        let digest = Sha256::digest(format!("{field} {protocol:?} {authority} {plaintext} {credentials:?} {ca:?}"));
        Ok(Self {
            name: field.to_owned(),
            field: field.to_owned(),
            protocol,
            plaintext,
            authority: authority.to_owned(),
            base: String::new(),
            credentials: credentials.cloned(),
            ca: ca.cloned(),
            account: None,
            paths: Vec::new(),
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
        })
    }

    /// `https://host:port/base`
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.plaintext { "http" } else { "https" };
        format!("{scheme}://{}{}", self.authority, self.base)
    }

    /// May this path below the endpoint be asked for? It begins with `/` and has no query.
    ///
    /// # Errors
    /// Denied, with what to grant.
    pub(crate) fn allow(&self, path: &str) -> Result<(), Answer> {
        if !is_plain(path) {
            return Err(Answer::Denied(format!("{path:?} is not a plain path below the endpoint {}", self.name)));
        }
        if self.paths.is_empty() || self.paths.iter().any(|pattern| glob::matches(pattern, path)) {
            return Ok(());
        }
        let name = &self.name;
        Err(Answer::Denied(format!(
            "spec.endpoints[{name}].paths of the Plugin record does not allow {path:?}: add it"
        )))
    }
}

/// Means the same to everybody who reads it: nothing that some servers decode or collapse before they look.
pub(crate) fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let hidden = ["%2e", "%2f", "%5c", "%00"].iter().any(|escape| lower.contains(escape));
    let printable = path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '\\' | '#' | '?'));
    path.len() <= 4_096
        && path.starts_with('/')
        && printable
        && !hidden
        && !path.get(1..).unwrap_or_default().split('/').any(|segment| matches!(segment, "." | ".."))
        && !path.contains("//")
}

impl Grants {
    /// The same, with the Secrets of endpoints read in the name of an account. Nobody else shares its answers, because the
    /// credentials may be the account's alone.
    #[must_use]
    pub fn read_by(mut self, account: &Account) -> Self {
        for endpoint in self.endpoints.values_mut() {
            let digest = format!("{} {account}", endpoint.digest).into();
            *endpoint = Arc::new(Endpoint { account: Some(account.clone()), digest, ..(**endpoint).clone() });
        }
        self
    }

    /// What a record gives to a plugin with this manifest, and which endpoints are missing that it needs.
    ///
    /// # Errors
    /// The field and the fix.
    pub fn resolve(manifest: &Manifest, specs: &[EndpointSpec]) -> Result<(Self, Vec<String>), String> {
        let mut endpoints = BTreeMap::new();
        for spec in specs {
            let declared = manifest.endpoints.iter().find(|declared| declared.name == spec.name);
            let protocol = match declared {
                Some(declared) => Protocol::parse(&declared.protocol)
                    .ok_or_else(|| format!("the plugin's endpoint {}: unknown protocol", declared.name))?,
                None if spec.address.starts_with("oci://") => Protocol::Oci,
                None => {
                    let names: Vec<&str> = manifest.endpoints.iter().map(|e| e.name.as_str()).collect();
                    let names = if names.is_empty() { "none".into() } else { names.join(", ") };
                    return Err(format!(
                        "spec.endpoints[{}]: the plugin declares no such endpoint, but {names}",
                        spec.name
                    ));
                }
            };
            let endpoint = Endpoint::parse(spec, protocol)?;
            if endpoints.insert(spec.name.clone(), Arc::new(endpoint)).is_some() {
                return Err(format!("spec.endpoints[{}]: named twice", spec.name));
            }
        }
        let missing =
            |declared: &&crate::plan::contract::Endpoint| !declared.optional && !endpoints.contains_key(&declared.name);
        let missing = manifest.endpoints.iter().filter(missing);
        let missing = missing.map(|e| format!("{} ({}: {})", e.name, e.protocol, e.purpose)).collect();
        Ok((Self { endpoints, engines: BTreeMap::new() }, missing))
    }

    /// Adds a loaded engine.
    pub fn add_engine(&mut self, name: String, runner: Arc<Runner>) {
        self.engines.insert(name, runner);
    }

    /// The endpoint of this name, if it speaks one of these.
    ///
    /// # Errors
    /// Denied, with what to grant.
    pub(crate) fn endpoint(&self, name: &str, wanted: &[Protocol]) -> Result<&Arc<Endpoint>, Answer> {
        match self.endpoints.get(name) {
            Some(endpoint) if wanted.contains(&endpoint.protocol) => Ok(endpoint),
            Some(endpoint) => Err(Answer::Denied(format!(
                "the endpoint {name} speaks {:?}, which this lookup does not",
                endpoint.protocol
            ))),
            None => Err(Answer::Denied(format!(
                "the Plugin record grants no endpoint {name:?}: add it with its address to spec.endpoints"
            ))),
        }
    }

    /// The registry that serves this repository; the one with the longest path when there are several.
    ///
    /// # Errors
    /// Denied, with what to grant.
    pub(crate) fn registry(&self, authority: &str, repository: &str) -> Result<&Arc<Endpoint>, Answer> {
        let path = format!("/{repository}");
        let covers = |endpoint: &&Arc<Endpoint>| {
            let below = path.strip_prefix(&endpoint.base);
            endpoint.protocol == Protocol::Oci
                && endpoint.authority == authority
                && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.endpoints.values().filter(covers).max_by_key(|endpoint| endpoint.base.len()).ok_or_else(|| {
            Answer::Denied(format!(
                "the Plugin record grants no registry for {authority}/{repository}: add an endpoint with the address \
                 oci://{authority} to spec.endpoints"
            ))
        })
    }

    /// The engine of this name.
    ///
    /// # Errors
    /// Denied, with what to grant.
    pub(crate) fn engine(&self, name: &str) -> Result<&Arc<Runner>, Answer> {
        self.engines.get(name).ok_or_else(|| {
            Answer::Denied(format!("the Plugin record grants no engine {name:?}: add it to spec.engines"))
        })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::plan::contract;

    fn spec(name: &str, address: &str) -> EndpointSpec {
        EndpointSpec {
            name: name.into(),
            address: address.into(),
            plaintext: false,
            paths: vec![],
            credentials: None,
            ca: None,
        }
    }

    fn manifest(endpoints: &[(&str, &str, bool)]) -> Manifest {
        let endpoint = |&(name, protocol, optional): &(&str, &str, bool)| contract::Endpoint {
            name: name.into(),
            protocol: protocol.into(),
            purpose: "for tests".into(),
            optional,
        };
        Manifest {
            name: "p".into(),
            version: "1".into(),
            crds: vec![],
            children: vec![],
            reads: vec![],
            endpoints: endpoints.iter().map(endpoint).collect(),
            engines: vec![],
            config_schema: None,
            finalizes: false,
        }
    }

    #[test]
    fn what_is_needed_and_not_granted_is_named() {
        let manifest = manifest(&[("a", "grpc", false), ("b", "http", true), ("c", "git", false)]);
        let (_, missing) = Grants::resolve(&manifest, &[spec("c", "https://git.example/x.git")]).unwrap();
        assert_eq!(missing, ["a (grpc: for tests)"]);
    }

    #[rstest]
    #[case("grpc", "oci://x", "must look like https://host:port")]
    #[case("grpc", "http://x", "plaintext: true")]
    #[case("http", "https://user:pw@x", "must not hold credentials")]
    #[case("http", "https://x/?a=b", "no query")]
    #[case("oci", "https://x", "oci://registry/repository")]
    #[case("folder", "file://x", "absolute path")]
    fn a_wrong_address_is_refused_with_the_fix(#[case] protocol: &str, #[case] address: &str, #[case] said: &str) {
        let error = Grants::resolve(&manifest(&[("a", protocol, false)]), &[spec("a", address)]).err().unwrap();
        assert!(error.starts_with("spec.endpoints[a].address") && error.contains(said), "{error}");
    }

    #[test]
    fn an_unknown_endpoint_is_refused_unless_it_is_a_registry() {
        let manifest = manifest(&[("a", "grpc", true)]);
        let error = Grants::resolve(&manifest, &[spec("b", "https://x")]).err().unwrap();
        assert_eq!(error, "spec.endpoints[b]: the plugin declares no such endpoint, but a");
        let (grants, _) = Grants::resolve(&manifest, &[spec("b", "oci://r.example/team")]).unwrap();
        assert!(grants.registry("r.example", "team/app").is_ok());
        assert!(grants.registry("r.example", "teams/app").is_err());
        assert!(grants.registry("other.example", "team/app").is_err());
    }

    #[test]
    fn paths_are_allowed_by_glob() {
        let mut one = spec("a", "https://x/base/");
        one.paths = vec!["/v1/**".into()];
        let endpoint = Endpoint::parse(&one, Protocol::Http).unwrap();
        assert_eq!(endpoint.url(), "https://x/base");
        assert_eq!(endpoint.allow("/v1/a/b"), Ok(()));
        assert!(matches!(endpoint.allow("/v2/a"), Err(Answer::Denied(text)) if text.contains("paths")));
    }

    #[rstest]
    #[case("/a/../b")]
    #[case("/a/%2e%2e/b")]
    #[case("/a%2Fb")]
    #[case("/a//b")]
    #[case("a")]
    #[case("/a\\b")]
    #[case("/a b")]
    #[case("/a#b")]
    #[case("/a\r\nb")]
    fn a_path_that_may_mean_something_else_is_not_plain(#[case] path: &str) {
        assert!(!is_plain(path));
    }

    #[test]
    fn the_same_grant_has_the_same_digest_and_another_one_another() {
        let digest = |spec: &EndpointSpec| Endpoint::parse(spec, Protocol::Http).unwrap().digest;
        let one = spec("a", "https://x");
        let secret = SecretRef { namespace: "n".into(), name: "s".into() };
        assert_eq!(digest(&one), digest(&one.clone()));
        assert_ne!(digest(&one), digest(&EndpointSpec { credentials: Some(secret), ..one.clone() }));
    }
}
