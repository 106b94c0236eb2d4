//! The host's own authority and its serving certificate: what is made when. No I/O; times are given.
//!
//! A serving certificate is replaced after two thirds of its life, an authority after two thirds of its own. A new
//! authority is announced first (the CA bundle has the old and the new one) and signs only after an overlap, so that every
//! API server knows it by then. An authority stays in the bundle until it has expired.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber, date_time_ymd,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How many lives of a serving certificate an authority lives.
const AUTHORITY_LIVES: u32 = 4;

/// An authority is announced for this part of a serving certificate's life before it signs.
const OVERLAP: u32 = 6;

/// Certificates are valid from this long before they are made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// Bytes of a serial number (RFC 5280, 4.1.2.2: at most 20).
const SERIAL_BYTES: usize = 16;

/// An authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Authority {
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    key: String,
    /// Common name: two authorities of one name would be one to a verifier that looks for an issuer.
    name: String,
    /// Seconds since 1970-01-01T00:00:00Z.
    made: u64,
    expires: u64,
}

/// A serving certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Serving {
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    pub(super) key: String,
    /// Common name of the authority.
    issuer: String,
    /// DNS names and addresses that it is for.
    names: Vec<String>,
    made: u64,
    /// Seconds since 1970-01-01T00:00:00Z.
    pub(super) expires: u64,
}

/// All there is, as it is kept. Keys are never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Certificates {
    /// Oldest first; never empty.
    pub(super) authorities: Vec<Authority>,
    pub(super) serving: Serving,
}

/// Why nothing could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    #[error("no certificate could be made")]
    Certificate(#[from] rcgen::Error),
    #[error("the system has no random bytes")]
    Random,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// DNS names and addresses by which the API server calls.
    pub(super) names: Vec<String>,
    /// Of a serving certificate.
    pub(super) lifetime: Duration,
}

impl Certificates {
    /// What should be at this time, in place of what is.
    ///
    /// # Errors
    /// When nothing can be made.
    pub(super) fn next(before: Option<&Self>, wanted: &Wanted, now: u64) -> Result<Self, MakeError> {
        let life = wanted.lifetime.as_secs().max(1);
        let mut authorities: Vec<Authority> =
            before.iter().flat_map(|known| &known.authorities).filter(|one| one.expires > now).cloned().collect();
        if authorities.last().is_none_or(|newest| is_old(newest.made, newest.expires, now)) {
            authorities.push(Authority::new(life * u64::from(AUTHORITY_LIVES), now)?);
        }
        let announced = |one: &&Authority| one.made + life / u64::from(OVERLAP) <= now;
        let signs = authorities.iter().rev().find(announced).or(authorities.first());
        let Some(signs) = signs else { return Err(MakeError::Random) };
        let good = |serving: &&Serving| {
            serving.issuer == signs.name && serving.names == wanted.names && !is_old(serving.made, serving.expires, now)
        };
        let serving = match before.map(|known| &known.serving).filter(good) {
            Some(serving) => serving.clone(),
            None => signs.sign(&wanted.names, life, now)?,
        };
        Ok(Self { authorities, serving })
    }

    /// PEM of all authorities that are to be trusted.
    pub(super) fn bundle(&self) -> String {
        self.authorities.iter().map(|authority| authority.certificate.as_str()).collect()
    }
}

/// Two thirds of its life are over.
fn is_old(made: u64, expires: u64, now: u64) -> bool {
    now.saturating_sub(made) * 3 >= expires.saturating_sub(made) * 2
}

fn validity(params: &mut CertificateParams, made: u64, expires: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(made.saturating_sub(BACKDATED.as_secs()));
    params.not_after = epoch + Duration::from_secs(expires);
}

impl Authority {
    fn new(life: u64, now: u64) -> Result<Self, MakeError> {
        let key = KeyPair::generate()?;
        let (name, expires) = (format!("transom-webhooks-{}", random_hex(8)?), now + life);
        let mut params = params(&name);
        params.serial_number = Some(SerialNumber::from_slice(&random(SERIAL_BYTES)?));
        validity(&mut params, now, expires);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), name, made: now, expires })
    }

    fn sign(&self, names: &[String], life: u64, now: u64) -> Result<Serving, MakeError> {
        // never longer than the authority: nobody would trust it
        let expires = (now + life).min(self.expires);
        let mut leaf = CertificateParams::new(names.to_vec())?;
        leaf.distinguished_name.push(DnType::CommonName, "transom-webhooks");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        leaf.serial_number = Some(SerialNumber::from_slice(&random(SERIAL_BYTES)?));
        validity(&mut leaf, now, expires);
        let key = KeyPair::generate()?;
        let authority = KeyPair::from_pem(&self.key)?;
        let issuer = params(&self.name);
        let certificate = leaf.signed_by(&key, &Issuer::from_params(&issuer, authority))?.pem();
        Ok(Serving {
            certificate,
            key: key.serialize_pem(),
            issuer: self.name.clone(),
            names: names.to_vec(),
            made: now,
            expires,
        })
    }
}

/// Of an authority: all that a certificate which it signs is made of, beside its key.
fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn random(length: usize) -> Result<Vec<u8>, MakeError> {
    let mut bytes = vec![0; length];
    let system = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&system, &mut bytes).map_err(|_| MakeError::Random)?;
    // a positive number, without a leading zero
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(bytes)
}

fn random_hex(length: usize) -> Result<String, MakeError> {
    Ok(random(length)?.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn wanted(days: u64) -> Wanted {
        Wanted { names: vec!["transom.system.svc".into()], lifetime: Duration::from_secs(days * DAY) }
    }

    fn next(before: &Certificates, now: u64) -> Certificates {
        Certificates::next(Some(before), &wanted(90), now).unwrap()
    }

    #[test]
    fn nothing_changes_until_two_thirds_of_a_life_are_over() {
        let start = 20_000 * DAY;
        let first = Certificates::next(None, &wanted(90), start).unwrap();
        assert!(next(&first, start + 59 * DAY) == first);
        let second = next(&first, start + 60 * DAY);
        assert!(second.serving != first.serving);
        assert!(second.authorities == first.authorities, "the authority lives longer");
        assert_eq!(second.serving.expires, start + 150 * DAY);
    }

    #[test]
    fn a_new_authority_is_announced_before_it_signs_and_the_old_one_stays_until_it_expires() {
        let start = 20_000 * DAY;
        let mut known = Certificates::next(None, &wanted(90), start).unwrap();
        let first = known.authorities[0].clone();
        let mut log = Vec::new();
        for day in 1..=400 {
            let before = known.clone();
            known = next(&before, start + day * DAY);
            let trusts = |one: &Serving| known.authorities.iter().any(|authority| authority.name == one.issuer);
            assert!(trusts(&known.serving), "day {day}");
            assert!(trusts(&before.serving), "day {day}: a connection made with yesterday's bundle");
            assert!(known.serving.expires > start + day * DAY, "day {day}");
            // yesterday's bundle is what a slow API server has
            assert!(before.authorities.iter().any(|one| one.name == known.serving.issuer), "day {day}");
            let signs = known.serving.issuer == first.name;
            let state = (known.authorities.len(), signs);
            if log.last().is_none_or(|(_, last)| *last != state) {
                log.push((day, state));
            }
        }
        // announced on day 240 of 360, signs 15 days later, alone when the old one is over
        assert_eq!(log, [(1, (1, true)), (240, (2, true)), (255, (2, false)), (360, (1, false))]);
    }

    #[test]
    fn other_names_want_another_certificate_of_the_same_authority() {
        let first = Certificates::next(None, &wanted(90), 1_000_000).unwrap();
        let moved = Wanted { names: vec!["127.0.0.1".into()], ..wanted(90) };
        let second = Certificates::next(Some(&first), &moved, 1_000_001).unwrap();
        assert!(second.serving != first.serving);
        assert_eq!(second.bundle(), first.bundle());
    }

    #[test]
    fn when_all_is_over_all_is_new() {
        let first = Certificates::next(None, &wanted(1), DAY).unwrap();
        let later = Certificates::next(Some(&first), &wanted(1), 100 * DAY).unwrap();
        assert_eq!(later.authorities.len(), 1);
        assert!(later.authorities != first.authorities);
        assert_eq!(later.serving.issuer, later.authorities[0].name);
    }
}
