//! The throw-away certificate authority of one control plane, as files in its folder.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// Why the certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be generated.
    #[error("cannot generate the certificate {name}")]
    Generate {
        /// Name of the certificate.
        name: String,
        /// The reason.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A certificate and its private key, PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// Who a certificate speaks for.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// Name of the files.
    pub(crate) file: &'a str,
    /// Kubernetes' user name.
    pub(crate) user: &'a str,
    /// Kubernetes' group.
    pub(crate) group: Option<&'a str>,
    /// Host names and addresses, for servers.
    pub(crate) hosts: &'a [&'a str],
}

/// The authority; it signs whatever it is asked to.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own files.
    pub(crate) files: Pair,
}

impl Authority {
    /// Makes an authority whose files, and those of all it signs, are in `folder`.
    pub(crate) fn new(folder: &Path) -> Result<Self, Error> {
        let generate = |source| Error::Generate {
            name: "ca".to_owned(),
            source,
        };
        let mut parameters = CertificateParams::new(Vec::new()).map_err(generate)?;
        parameters
            .distinguished_name
            .push(DnType::CommonName, "kaito-tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().map_err(generate)?;
        let issuer = CertifiedIssuer::self_signed(parameters, key).map_err(generate)?;
        let files = write_pair(folder, "ca", &issuer.pem(), &issuer.key().serialize_pem())?;
        Ok(Self {
            folder: folder.to_owned(),
            issuer,
            files,
        })
    }

    /// Signs a certificate that is good for both ends of a connection.
    pub(crate) fn sign(&self, subject: &Subject<'_>) -> Result<Pair, Error> {
        let generate = |source| Error::Generate {
            name: subject.file.to_owned(),
            source,
        };
        let hosts: Vec<String> = subject
            .hosts
            .iter()
            .map(|host| (*host).to_owned())
            .collect();
        let mut parameters = CertificateParams::new(hosts).map_err(generate)?;
        parameters
            .distinguished_name
            .push(DnType::CommonName, subject.user);
        if let Some(group) = subject.group {
            parameters
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(generate)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(generate)?;
        write_pair(
            &self.folder,
            subject.file,
            &certificate.pem(),
            &key.serialize_pem(),
        )
    }
}

/// Makes the key that ServiceAccount tokens are signed with. ECDSA, because the pure-Rust provider makes no RSA keys.
pub(crate) fn service_account_key(folder: &Path) -> Result<Pair, Error> {
    let name = "service-account";
    let key = KeyPair::generate().map_err(|source| Error::Generate {
        name: name.to_owned(),
        source,
    })?;
    write_pair(folder, name, &key.public_key_pem(), &key.serialize_pem())
}

fn write_pair(folder: &Path, name: &str, certificate: &str, key: &str) -> Result<Pair, Error> {
    let pair = Pair {
        certificate: folder.join(format!("{name}.crt")),
        key: folder.join(format!("{name}.key")),
    };
    write(&pair.certificate, certificate)?;
    write(&pair.key, key)?;
    Ok(pair)
}

/// Writes a file that only its owner may read: keys and tokens go through here.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Error> {
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })
}
