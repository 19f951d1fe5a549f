//! Certificates for tests, made on the spot: an authority, and what it signs.
//!
//! Nothing is kept: each [`Authority`] has keys of its own, and lives as long as the test does.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

/// Signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// When a certificate is good, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Flaw {
    /// Nothing is wrong with it.
    #[default]
    None,
    /// It was good until ten days ago.
    Expired,
    /// It will be good in ten days.
    Early,
    /// It is one for clients.
    ForClients,
}

/// The versions of TLS a server speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Versions {
    /// Both.
    #[default]
    Any,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

fn bad(e: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("certificate: {e}"))
}

impl Authority {
    /// A new one, with a root certificate of its own.
    pub fn new() -> io::Result<Self> {
        Self::named("btmio test root")
    }

    /// The same; two of one name are different authorities.
    pub fn named(name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(bad)?).map_err(bad)?;
        Ok(Self { issuer })
    }

    /// Its root certificate, as others want it to trust it.
    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these names and addresses, and its key, both PEM.
    pub fn issue(&self, names: &[&str], flaw: Flaw) -> io::Result<(String, String)> {
        let (cert, key) = self.sign(names, flaw)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    fn sign(&self, names: &[&str], flaw: Flaw) -> io::Result<(rcgen::Certificate, KeyPair)> {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(bad)?;
        params.distinguished_name.push(DnType::CommonName, "btmio test server");
        let now = OffsetDateTime::now_utc();
        let (from, to) = match flaw {
            Flaw::Expired => (-20, -10),
            Flaw::Early => (10, 20),
            Flaw::None | Flaw::ForClients => (-1, 10),
        };
        params.not_before = now + Duration::days(from);
        params.not_after = now + Duration::days(to);
        params.extended_key_usages = vec![match flaw {
            Flaw::ForClients => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        let key = KeyPair::generate().map_err(bad)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(bad)?;
        Ok((cert, key))
    }

    /// What a server with such a certificate needs.
    pub fn server(&self, names: &[&str], flaw: Flaw, versions: Versions) -> io::Result<Arc<ServerConfig>> {
        let (cert, key) = self.sign(names, flaw)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = match versions {
            Versions::Any => builder.with_safe_default_protocol_versions(),
            Versions::Tls12 => builder.with_protocol_versions(&[&rustls::version::TLS12]),
            Versions::Tls13 => builder.with_protocol_versions(&[&rustls::version::TLS13]),
        };
        let config = builder.map_err(bad)?.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        config.map(Arc::new).map_err(bad)
    }
}
