//! Encryption of clients' connections: the certificate and key of the settings, read again on SIGHUP.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;
use crate::error::{Error, Result};

/// PostgreSQL's `config_file_error`.
const CONFIG_FILE_ERROR: &str = "F0000";

/// What new connections are encrypted with.
pub struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    /// Whether connections that are not encrypted are refused.
    pub required: bool,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// That of the settings; `None` if they have no certificate.
    ///
    /// # Errors
    /// F0000 naming the file that is missing, unreadable, no certificate or key, or does not fit the other; and a key that
    /// everybody may read.
    pub fn new(config: &TlsConfig) -> Result<Option<Arc<Self>>> {
        let (Some(cert_file), Some(key_file)) = (&config.cert_file, &config.key_file) else { return Ok(None) };
        let current = RwLock::new(load(cert_file, key_file)?);
        let (cert_file, key_file) = (cert_file.clone(), key_file.clone());
        Ok(Some(Arc::new(Self { cert_file, key_file, required: config.required, current })))
    }

    /// What the next connection is encrypted with.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.read().clone())
    }

    /// Reads certificate and key again; those that do not work are not taken.
    ///
    /// # Errors
    /// As [`Tls::new`].
    pub fn reload(&self) -> Result<()> {
        *self.current.write() = load(&self.cert_file, &self.key_file)?;
        Ok(())
    }
}

fn load(cert_file: &Path, key_file: &Path) -> Result<Arc<ServerConfig>> {
    let broken = |what: &str, file: &Path, why: &dyn std::fmt::Display| {
        Error::new(CONFIG_FILE_ERROR, format!("{what} \"{}\" cannot be used: {why}", file.display()))
            .with_hint("settings tls.cert_file and tls.key_file name files in PEM format")
    };
    let certificates = CertificateDer::pem_file_iter(cert_file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| broken("certificate file", cert_file, &e))?;
    if certificates.is_empty() {
        return Err(broken("certificate file", cert_file, &"it has no certificate"));
    }
    let metadata = key_file.metadata().map_err(|e| broken("key file", key_file, &e))?;
    // Who may read it can pass for the server. A file of root's may be readable to the server's group.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(broken("key file", key_file, &"it has group or world access").with_hint("chmod 0600 it"));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| broken("key file", key_file, &e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|e| broken("key file", key_file, &format!("with certificate \"{}\": {e}", cert_file.display())))?;
    Ok(Arc::new(config))
}
