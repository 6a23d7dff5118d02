//! Which servers are trusted. One cryptography provider, ring.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::TransportError;

/// Whether a server must prove who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateCheck {
    /// By a certificate that the system or `ca_files` trust.
    #[default]
    Verify,
    /// Any certificate will do. For test registries only: whoever sits between can read the credentials.
    AcceptAny,
}

/// The client's TLS settings: the system's roots and those in `ca_files` (PEM).
pub(super) fn configuration(
    check: CertificateCheck,
    ca_files: &[PathBuf],
) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|cause| TransportError::Tls { cause })?;
    Ok(match check {
        CertificateCheck::Verify => builder
            .with_root_certificates(roots(ca_files)?)
            .with_no_client_auth(),
        CertificateCheck::AcceptAny => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    })
}

fn roots(ca_files: &[PathBuf]) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read or parsed are left out, as every TLS client does: one odd file in the system's
    // store must not stop all pushes.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in ca_files {
        let failed = |cause: String| TransportError::Certificates {
            path: path.clone(),
            cause,
        };
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|cause| failed(cause.to_string()))?;
        let mut found = 0_usize;
        for certificate in certificates {
            let certificate = certificate.map_err(|cause| failed(cause.to_string()))?;
            roots
                .add(certificate)
                .map_err(|cause| failed(cause.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(failed("it holds no PEM certificate".to_owned()));
        }
    }
    Ok(roots)
}

/// Takes every certificate; signatures of the handshake are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
