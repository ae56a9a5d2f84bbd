//! HTTPS: the certificate and its key. They are read and checked before the daemon listens, and read again when asked.
//!
//! Promises: a certificate in use is complete and has its key. If new files cannot be read, the old certificate stays. Open
//! connections keep the certificate that they began with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, InconsistentKeys, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::TlsFiles;
use crate::model::seq::Millis;

/// All that is spoken inside.
const PROTOCOL: &[u8] = b"http/1.1";
/// How much of what a client without TLS goes on sending is read and dropped, and for how long, so that it gets to read why
/// the connection ends.
const CUT_OFF_BYTES_MAX: usize = 64 << 10;
const CUT_OFF_MAX: Duration = Duration::from_secs(1);

/// A certificate in use.
pub struct Tls {
    files: TlsFiles,
    /// Replaced whole by a reload; a new connection reads it without waiting.
    current: ArcSwap<Current>,
}

/// What new connections use.
struct Current {
    config: Arc<ServerConfig>,
    /// When the first certificate of the chain expires; none if they do not tell.
    expires: Option<Millis>,
    /// How many certificates the chain has.
    certificates: usize,
}

/// A certificate that was read again and checked, and is not in use yet.
pub(super) struct ReadAgain(Current);

impl ReadAgain {
    /// How many certificates there are in its file.
    pub(super) fn certificates(&self) -> usize {
        self.0.certificates
    }
}

/// Why a certificate or its key is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{setting}: {}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{setting}: {}: {what}", path.display())]
    Wrong {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong, and what would be right.
        what: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "tls_key: {}: this is not the key of the certificate in {} (tls_cert): name the two that belong together",
        key.display(),
        cert.display()
    )]
    Mismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
}

/// Why a connection could not be made secure.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsecured {
    /// The client took too long.
    #[error("the TLS handshake took too long")]
    Late,
    /// The client does not speak TLS, or not so.
    #[error("no TLS handshake: {0}")]
    Failed(io::Error),
}

impl Tls {
    /// Reads and checks a certificate and its key.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(Current::read(&files)?);
        Ok(Self { files, current })
    }

    /// Reads and checks them again. Blocks.
    pub(super) fn read_again(&self) -> Result<ReadAgain, TlsError> {
        Current::read(&self.files).map(ReadAgain)
    }

    /// Gives new connections what was read again.
    pub(super) fn put(&self, read: ReadAgain) {
        self.current.store(Arc::new(read.0));
    }

    /// When the certificate expires, or the first of those that lead to its root.
    pub(super) fn expires(&self) -> Option<Millis> {
        self.current.load().expires
    }

    /// Makes a connection secure.
    pub(super) async fn secure(
        &self,
        socket: TcpStream,
        handshake_max: Duration,
    ) -> Result<TlsStream<TcpStream>, Unsecured> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current.load().config));
        match timeout(handshake_max, acceptor.accept(socket).into_fallible()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((error, socket))) => {
                cut_off(socket).await;
                Err(Unsecured::Failed(error))
            }
            Err(_) => Err(Unsecured::Late),
        }
    }
}

impl Current {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = chain(&files.cert)?;
        let expires = chain.iter().filter_map(expiry).min();
        let certificates = chain.len();
        Ok(Self { config: server_config(files, chain)?, expires, certificates })
    }
}

/// When a certificate expires; none if it does not tell.
fn expiry(certificate: &CertificateDer<'_>) -> Option<Millis> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let not_after = certificate.tbs_certificate().validity().not_after;
    u64::try_from(not_after.to_unix_duration().as_millis()).ok().map(Millis)
}

/// The certificates of a file.
fn chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read("tls_cert", cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong("tls_cert", cert, format!("it is not PEM: {e}")))?;
    if chain.is_empty() {
        let what = "there is no certificate in it: it must be PEM, the server's own certificate first";
        return Err(wrong("tls_cert", cert, what));
    }
    Ok(chain)
}

fn server_config(
    files: &TlsFiles,
    chain: Vec<CertificateDer<'static>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = (&files.cert, &files.key);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let found = PrivateKeyDer::from_pem_slice(&read("tls_key", key)?).map_err(|e| match e {
        pem::Error::NoItemsFound => {
            wrong("tls_key", key, "there is no private key in it: it must be PEM, and not encrypted")
        }
        e => wrong("tls_key", key, format!("it is not PEM: {e}")),
    })?;
    // Checked before the certificate, so that the message says which of the two is wrong.
    provider
        .key_provider
        .load_private_key(found.clone_key())
        .map_err(|e| wrong("tls_key", key, format!("this key cannot be used: {e}")))?;
    let certified = CertifiedKey::from_der(chain, found, &provider).map_err(|e| match e {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { key: key.clone(), cert: cert.clone() }
        }
        e => wrong("tls_cert", cert, format!("this certificate cannot be used: {e}")),
    })?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("tls_cert", cert, format!("TLS cannot be spoken: {e}")))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })
}

fn wrong(setting: &'static str, path: &Path, what: impl Into<String>) -> TlsError {
    TlsError::Wrong { setting, path: path.to_owned(), what: what.into() }
}

/// Closes a connection that holds unread bytes: closed at once it would be reset, and the client not read the alert.
async fn cut_off(mut socket: TcpStream) {
    let drained = async {
        socket.shutdown().await?;
        let (mut room, mut left) = (vec![0; 4 << 10], CUT_OFF_BYTES_MAX);
        while left > 0 {
            match socket.read(&mut room).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    // Whatever comes of it, the connection is over.
    drop(timeout(CUT_OFF_MAX, drained).await);
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};

    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let make = || generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let (Made { cert: one, signing_key: its_key }, Made { signing_key: another_key, .. }) =
            (make(), make());
        #[track_caller]
        fn check(cert: &Path, key: &Path, texts: [Option<&str>; 2], expected: Option<&str>) {
            for (path, text) in [cert, key].into_iter().zip(texts) {
                match text {
                    Some(text) => std::fs::write(path, text).unwrap(),
                    None => std::fs::remove_file(path).unwrap_or_default(),
                }
            }
            let loaded = Tls::load(TlsFiles { cert: cert.into(), key: key.into() });
            let folder = format!("{}/", cert.parent().unwrap().display());
            let error = loaded.err().map(|e| e.to_string().replace(&folder, ""));
            match (&error, expected) {
                (None, None) => {}
                (Some(error), Some(expected)) => assert!(error.starts_with(expected), "{error}"),
                _ => panic!("{error:?} is not {expected:?}"),
            }
        }
        let (one, its_key, another_key) = (one.pem(), its_key.serialize_pem(), another_key.serialize_pem());
        let check = |cert_text, key_text, expected| check(&cert, &key, [cert_text, key_text], expected);
        check(Some(&one), Some(&its_key), None);
        check(None, Some(&its_key), Some("tls_cert: cert.pem: cannot be read: No such file"));
        check(Some(&one), None, Some("tls_key: key.pem: cannot be read: No such file"));
        check(
            Some(""),
            Some(&its_key),
            Some("tls_cert: cert.pem: there is no certificate in it: it must be PEM"),
        );
        check(Some(&its_key), Some(&its_key), Some("tls_cert: cert.pem: there is no certificate"));
        check(Some(&one[..60]), Some(&its_key), Some("tls_cert: cert.pem: it is not PEM: "));
        check(
            Some(&one),
            Some(&one),
            Some("tls_key: key.pem: there is no private key in it: it must be PEM"),
        );
        check(Some(&one), Some(&its_key[..60]), Some("tls_key: key.pem: it is not PEM: "));
        let empty_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        check(Some(&one), Some(empty_key), Some("tls_key: key.pem: this key cannot be used: "));
        let empty_cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(
            Some(empty_cert),
            Some(&its_key),
            Some("tls_cert: cert.pem: this certificate cannot be used: "),
        );
        check(
            Some(&one),
            Some(&another_key),
            Some(
                "tls_key: key.pem: this is not the key of the certificate in cert.pem (tls_cert): name the two",
            ),
        );
    }

    /// The certificates that lead to the root count, too: clients refuse the chain once one of them is over.
    #[test]
    fn the_first_certificate_that_expires_is_the_one_that_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: folder.path().join("cert"), key: folder.path().join("key") };
        let until = |year| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".into()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((own, key), (issuer, _)) = (until(2040), until(2035));
        std::fs::write(&files.key, key).unwrap();
        let check = |chain: &[&str], at: &str| {
            std::fs::write(&files.cert, chain.concat()).unwrap();
            let expires = Tls::load(files.clone()).unwrap().expires().map(Millis::iso_8601);
            assert_eq!(expires.as_deref(), Some(at));
        };
        check(&[&own], "2040-01-01T00:00:00.000Z");
        check(&[&own, &issuer], "2035-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_broken_certificate_does_not_replace_one_that_works() {
        let folder = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: folder.path().join("cert"), key: folder.path().join("key") };
        let made = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let tls = Tls::load(files.clone()).unwrap();
        let config = |tls: &Tls| tls.current.load_full();
        let first = config(&tls);
        std::fs::write(&files.cert, "nothing").unwrap();
        assert!(tls.read_again().is_err());
        assert!(Arc::ptr_eq(&config(&tls), &first));
        assert_eq!(tls.expires(), first.expires);
        std::fs::write(&files.cert, made.cert.pem()).unwrap();
        let read = tls.read_again().unwrap();
        assert!(Arc::ptr_eq(&first, &config(&tls)), "it is not in use yet");
        assert_eq!(read.certificates(), 1);
        tls.put(read);
        assert!(!Arc::ptr_eq(&config(&tls), &first));
    }
}
