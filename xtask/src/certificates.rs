//! Keys and certificates of a throw-away control plane.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Who may do everything, in Kubernetes' bootstrap policy.
const ADMINISTRATORS: &str = "system:masters";

/// Writes into `folder`: `ca`, `apiserver`, `admin` and `host` (`.crt` and `.key` each), and the key pair that service
/// account tokens are signed with (`service-accounts.key`, `service-accounts.pub`).
pub(crate) fn write(folder: &Path, host_user: &str) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "transom");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    save(folder, "ca.crt", &ca.pem())?;
    save(folder, "ca.key", &ca.key().serialize_pem())?;

    issue(folder, "apiserver", server()?, &ca)?;
    issue(folder, "admin", client("admin"), &ca)?;
    issue(folder, "host", client(host_user), &ca)?;

    let service_accounts = KeyPair::generate()?;
    save(folder, "service-accounts.key", &service_accounts.serialize_pem())?;
    save(folder, "service-accounts.pub", &service_accounts.public_key_pem())
}

fn server() -> Result<CertificateParams> {
    let names = ["localhost", "kubernetes.default.svc"].map(String::from);
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    // The second is the address of the service `kubernetes`, the first one of the range for services.
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)] {
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(address)));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn client(user: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, ADMINISTRATORS);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn issue(folder: &Path, name: &str, params: CertificateParams, ca: &CertifiedIssuer<'_, KeyPair>) -> Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, ca)?;
    save(folder, &format!("{name}.crt"), &certificate.pem())?;
    save(folder, &format!("{name}.key"), &key.serialize_pem())
}

fn save(folder: &Path, name: &str, pem: &str) -> Result<()> {
    fs::write(folder.join(name), pem).with_context(|| format!("failed to write {name} to {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_there_and_is_pem() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "host").unwrap();
        for name in ["ca", "apiserver", "admin", "host"] {
            for (extension, label) in [("crt", "CERTIFICATE"), ("key", "PRIVATE KEY")] {
                let text = fs::read_to_string(folder.path().join(name).with_extension(extension)).unwrap();
                assert!(text.starts_with(&format!("-----BEGIN {label}-----")), "{name}.{extension}: {text}");
            }
        }
        let public = fs::read_to_string(folder.path().join("service-accounts.pub")).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY-----"));
    }
}
