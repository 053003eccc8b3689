//! Certificates for tests: an authority of one's own, and what it issues, in memory and as files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::{DEADLINE, Head, TempDir};

/// A certificate and its key, as files.
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub certificate_pem: String,
    pub key_pem: String,
    /// `sha256/BASE64` of its public key.
    pub pin: String,
}

impl Pair {
    pub fn certificate(&self) -> &str {
        self.certificate.to_str().unwrap()
    }
    pub fn key(&self) -> &str {
        self.key.to_str().unwrap()
    }
}

/// When something is valid, in years.
#[derive(Clone, Copy)]
pub struct Years(pub i32, pub i32);

pub const NOW: Years = Years(2020, 2090);

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
    pub file: PathBuf,
    pub pem: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    pub fn new() -> Authority {
        let folder = TempDir::new("pki");
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of these tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let file = folder.0.join("ca.pem");
        std::fs::write(&file, &pem).unwrap();
        Authority { issuer: Issuer::new(params, key), folder, file, pem }
    }

    pub fn ca(&self) -> &str {
        self.file.to_str().unwrap()
    }

    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// For a server on loopback.
    pub fn server(&self, file: &str) -> Pair {
        self.issue(file, &["127.0.0.1", "localhost"], NOW)
    }

    /// For a device with these names.
    pub fn device(&self, file: &str, names: &[&str]) -> Pair {
        self.issue(file, names, NOW)
    }

    pub fn issue(&self, file: &str, names: &[&str], years: Years) -> Pair {
        self.write(file, names, |params| {
            (params.not_before, params.not_after) =
                (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        })
    }

    /// One that expires so long from now, give or take a second.
    pub fn issue_for(&self, file: &str, names: &[&str], life: Duration) -> Pair {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.write(file, names, |params| {
            (params.not_before, params.not_after) =
                (date_time_ymd(2020, 1, 1), date_time_ymd(1970, 1, 1) + (now + life));
        })
    }

    fn write(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate_pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        self.keep(file, &key, certificate_pem)
    }

    /// A certificate that nobody else has issued, of a CA (as `openssl req -x509` makes it) or not;
    /// kept beside those of this authority.
    pub fn self_made(&self, file: &str, names: &[&str], years: Years, of_ca: bool) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca =
            if of_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.distinguished_name.push(DnType::CommonName, file);
        (params.not_before, params.not_after) =
            (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate_pem = params.self_signed(&key).unwrap().pem();
        self.keep(file, &key, certificate_pem)
    }

    fn keep(&self, file: &str, key: &KeyPair, certificate_pem: String) -> Pair {
        let key_pem = key.serialize_pem();
        let (certificate, key_file) =
            (self.folder.0.join(format!("{file}.crt")), self.folder.0.join(format!("{file}.key")));
        std::fs::write(&certificate, &certificate_pem).unwrap();
        std::fs::write(&key_file, &key_pem).unwrap();
        let pin = pin_of(&rcgen::PublicKeyData::subject_public_key_info(key));
        Pair { certificate, key: key_file, certificate_pem, key_pem, pin }
    }

    /// The same with one version of TLS.
    pub fn client_of(&self, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A client that trusts this authority, and shows `identity`.
    pub fn client(&self, identity: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                builder.with_client_auth_cert(vec![certificate(pair)], key(pair)).unwrap()
            }
        }
    }
}

/// A server with this certificate.
pub fn server(pair: &Pair) -> ServerConfig {
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate(pair)], key(pair))
        .unwrap()
}

fn certificate(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()
}

fn key(pair: &Pair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap()
}

fn pin_of(key: &[u8]) -> String {
    use base64::Engine as _;
    let suite = rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let digest = suite.tls13().unwrap().common.hash_provider.hash(key);
    format!("sha256/{}", base64::engine::general_purpose::STANDARD.encode(digest.as_ref()))
}

/// A plain, blocking TLS client.
pub struct TlsPeer(pub StreamOwned<ClientConnection, std::net::TcpStream>);

impl TlsPeer {
    pub fn connect(to: std::net::SocketAddr, config: Arc<ClientConfig>) -> TlsPeer {
        let socket = std::net::TcpStream::connect(to).unwrap();
        TlsPeer::over(socket, config, "localhost")
    }

    /// Over a connection that there is, asking for this name.
    pub fn over(socket: std::net::TcpStream, config: Arc<ClientConfig>, name: &str) -> TlsPeer {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsPeer(StreamOwned::new(ClientConnection::new(config, name).unwrap(), socket))
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        use std::io::Write as _;
        self.0.write_all(bytes.as_ref()).unwrap();
        self.0.flush().unwrap();
    }

    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0
                .read_exact(&mut byte)
                .unwrap_or_else(|e| panic!("{e} behind {:?}", String::from_utf8_lossy(&bytes)));
            bytes.extend_from_slice(&byte);
        }
        Head::parse(&bytes)
    }

    /// A request, and its answer with a body of known length.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> (Head, String) {
        use std::io::Read as _;
        self.write(request);
        let head = self.read_head();
        let mut body =
            vec![0; head.get("content-length").map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        (head, String::from_utf8_lossy(&body).into_owned())
    }
}
