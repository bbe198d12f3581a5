//! Whom https trusts: the system's certificates and `target_options.ca_file`; and what it shows of
//! itself. Nothing turns the check of a server's certificate off.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::config::{Login, TargetOptions};

/// Where a rescue image has the certificates that are trusted.
pub const OWN_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where systems keep them, in one file.
const BUNDLES: &[&str] = &[
    OWN_BUNDLE,
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The system's certificates. A rescue image for an https target takes them along.
pub fn bundle() -> Option<PathBuf> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    named.into_iter().chain(BUNDLES.iter().map(PathBuf::from)).find(|path| path.is_file())
}

pub(super) fn config(options: &TargetOptions) -> Result<TlsConfig> {
    let mut roots = Vec::new();
    if let Some(file) = bundle() {
        roots.extend(certificates(&file)?);
    }
    if let Some(file) = &options.ca_file {
        let own = certificates(file).context("target_options.ca_file")?;
        ensure!(!own.is_empty(), "{} holds no certificate (PEM)", file.display());
        roots.extend(own);
    }
    // Where the system has none: Mozilla's, as they were when rr was built.
    let roots =
        if roots.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(roots.into()) };
    Ok(TlsConfig::builder().root_certs(roots).client_cert(client(&options.login)?).build())
}

fn client(login: &Login) -> Result<Option<ClientCert>> {
    let (Some(chain), Some(key)) = (&login.client_cert_file, &login.client_key_file) else {
        return Ok(None);
    };
    let certificates = certificates(chain).context("the client certificate")?;
    ensure!(!certificates.is_empty(), "{} holds no certificate (PEM)", chain.display());
    let pem = std::fs::read(key)
        .with_context(|| format!("reading the key of the client certificate {}", key.display()))?;
    let key = PrivateKey::from_pem(&pem)
        .with_context(|| format!("{} holds no private key (PEM)", key.display()))?;
    Ok(Some(ClientCert::new_with_certs(&certificates, key)))
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let doing = || format!("reading the certificates in {}", file.display());
    let pem = std::fs::read(file).with_context(doing)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.with_context(doing)? {
            found.push(certificate);
        }
    }
    Ok(found)
}
