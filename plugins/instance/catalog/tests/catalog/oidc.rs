//! Tokens of an OpenID provider.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use transom_catalog::auth::{Auth, Identity, Oidc, Refusal, Settings};
use transom_catalog::database::Tls;

/// A provider with one key.
struct Provider {
    issuer: String,
    key: EcdsaKeyPair,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let point = key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let keys = json!({ "keys": [
            { "kty": "odd", "kid": "of-a-kind-that-is-not-known" },
            { "kty": "RSA", "kid": "for-encryption", "use": "enc", "alg": "RSA-OAEP", "n": "AQAB", "e": "AQAB" },
            { "kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "alg": "ES256", "x": x, "y": y },
        ] });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}/realm", listener.local_addr().unwrap());
        let configuration = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let router = Router::new()
            .route("/realm/.well-known/openid-configuration", get(async move || Json(configuration)))
            .route(
                "/realm/keys",
                get(async move || {
                    count.fetch_add(1, Ordering::SeqCst);
                    Json(keys)
                }),
            );
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { issuer, key, asked }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(&self) -> Value {
        json!({ "iss": self.issuer, "aud": ["other", "catalog"], "sub": "alice", "exp": now() + 60, "groups": ["users"] })
    }

    fn auth(&self) -> Auth {
        let settings = Settings {
            issuer: self.issuer.clone(),
            audience: "catalog".into(),
            admin_claim: "groups".into(),
            admin_value: Some("admins".into()),
        };
        Auth { tokens: None, oidc: Some(Oidc::new(settings, &Tls::new(None).unwrap()).unwrap()) }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "one", "typ": "JWT" })
}

#[tokio::test]
async fn a_good_token_says_who_asks_and_a_bad_one_is_refused() {
    let provider = Provider::start().await;
    let auth = provider.auth();
    let with = |more: Value| crate::with(provider.claims(), more);
    let identify = async |claims: &Value| auth.identify(&provider.token(&header(), claims)).await;
    let alice = Identity { subject: "alice".into(), is_admin: false };
    assert_eq!(identify(&provider.claims()).await, Ok(alice.clone()));
    assert_eq!(
        identify(&with(json!({ "groups": ["admins"] }))).await,
        Ok(Identity { is_admin: true, ..alice.clone() })
    );
    assert_eq!(identify(&with(json!({ "groups": "admins" }))).await, Ok(Identity { is_admin: true, ..alice }));

    for wrong in [
        json!({ "exp": now() - 60 }),
        json!({ "exp": "never" }),
        json!({ "exp": null }),
        json!({ "nbf": now() + 600 }),
        json!({ "nbf": "x" }),
        json!({ "aud": "other" }),
        json!({ "aud": null }),
        json!({ "iss": "https://elsewhere.example" }),
        json!({ "sub": "" }),
        json!({ "sub": null }),
    ] {
        assert_eq!(identify(&with(wrong.clone())).await, Err(Refusal::Wrong), "{wrong}");
    }
    let good = provider.token(&header(), &provider.claims());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let forged = provider.token(&header(), &with(json!({ "sub": "root" })));
    let forged = format!("{}.{signature}", forged.rsplit_once('.').unwrap().0);
    let none = json!({ "alg": "none", "kid": "one" });
    let shared = json!({ "alg": "HS256", "kid": "one" });
    let other = json!({ "alg": "ES384", "kid": "one" });
    for token in [
        forged,
        format!("{message}."),
        message.to_owned(),
        "x".to_owned(),
        provider.token(&none, &provider.claims()),
        provider.token(&shared, &provider.claims()),
        provider.token(&other, &provider.claims()),
        provider.token(&json!({ "alg": "RS256", "kid": "for-encryption" }), &provider.claims()),
    ] {
        assert_eq!(auth.identify(&token).await, Err(Refusal::Wrong), "{token}");
    }
    for _ in 0..20 {
        let made_up = provider.token(&json!({ "alg": "ES256", "kid": "made-up" }), &provider.claims());
        assert_eq!(auth.identify(&made_up).await, Err(Refusal::Wrong));
    }
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1, "made-up keys do not make us ask again and again");
}

#[tokio::test]
async fn a_provider_that_is_not_there_refuses_nobody_for_good() {
    let provider = Provider::start().await;
    let token = provider.token(&header(), &provider.claims());
    let settings = |issuer: &str| Settings {
        issuer: issuer.into(),
        audience: "catalog".into(),
        admin_claim: "groups".into(),
        admin_value: None,
    };
    let tls = Tls::new(None).unwrap();
    let elsewhere = format!("http://127.0.0.1:{}", crate::support::free_port());
    let auth = Auth { tokens: None, oidc: Some(Oidc::new(settings(&elsewhere), &tls).unwrap()) };
    assert_eq!(auth.identify(&token).await, Err(Refusal::Unavailable));
    // one that calls itself something else is not trusted
    let other = provider.issuer.replace("127.0.0.1", "localhost");
    let auth = Auth { tokens: None, oidc: Some(Oidc::new(settings(&other), &tls).unwrap()) };
    assert_eq!(auth.identify(&token).await, Err(Refusal::Unavailable));
    for unsafe_url in ["http://login.example.org", "ftp://login.example.org", "login"] {
        assert!(Oidc::new(settings(unsafe_url), &tls).is_err(), "{unsafe_url}");
    }
}
