//! The certificates of one test run, made afresh: a CA, and one server certificate that the API server
//! and every proxy in front of it share.
#![allow(dead_code)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// What a server on the loopback needs to be trusted, and a client to trust it.
pub struct Tls {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
}

impl Tls {
    pub fn new() -> Self {
        Self::of(&["127.0.0.1", "localhost", "api.test"])
    }

    /// For a server of other names.
    pub fn of(names: &[&str]) -> Self {
        Self::until(4000, names)
    }

    /// With a certificate whose time is over.
    pub fn expired() -> Self {
        Self::until(2001, &["127.0.0.1"])
    }

    fn until(year: i32, names: &[&str]) -> Self {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(ca, new_key()).expect("a CA");

        let key = new_key();
        let names: Vec<_> = names.iter().map(|&name| name.into()).collect();
        let mut certificate = CertificateParams::new(names).expect("valid names");
        certificate.not_before = rcgen::date_time_ymd(2000, 1, 1);
        certificate.not_after = rcgen::date_time_ymd(year, 1, 1);
        let name = "test server";
        certificate.distinguished_name.push(DnType::CommonName, name);
        // Python since 3.13 wants it.
        certificate.use_authority_key_identifier_extension = true;
        certificate.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = certificate.signed_by(&key, &ca).expect("a certificate");

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a key that fits");

        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).expect("a usable CA");
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();

        Self {
            ca_pem: ca.pem(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            server: Arc::new(server),
            client: Arc::new(client),
        }
    }
}

/// A new private key: also the API server signs its service account tokens with one.
pub fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
