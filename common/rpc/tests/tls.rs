//! TLS to the broker, whose own port is behind one that speaks TLS only, with certificates made for the test.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use uuid::Uuid;
use whimbrel_messages::SagaHint;
use whimbrel_model::SagaId;
use whimbrel_rpc::{Amqp, AmqpConfig, Outgoing, Published, RpcError, Topology};
use whimbrel_test_utils::TestBroker;

/// Less than the time for which a broker that can't be reached is tried again.
const AT_ONCE: Duration = Duration::from_secs(20);

/// An authority, and a certificate for 127.0.0.1 from it. Removed with its value.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("whimbrel-tls-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let this = Self { folder };
        let curve =
            ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        this.openssl(&curve, "ca", "/CN=authority", &["-x509"]);
        let signed = ["-x509", "-CA", "ca.pem", "-CAkey", "ca.key"];
        let names = ["-addext", "subjectAltName=IP:127.0.0.1"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        let all: Vec<&str> = signed.into_iter().chain(names).chain(leaf).collect();
        this.openssl(&curve, "one", "/CN=one", &all);
        this
    }

    fn openssl(&self, first: &[&str], name: &str, subject: &str, last: &[&str]) {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let made = Command::new("openssl")
            .arg("req")
            .args(first)
            .args(["-keyout", &key, "-out", &pem, "-subj", subject])
            .args(last)
            .current_dir(&self.folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.file("ca.pem")));
        roots
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

/// A port that speaks only TLS, asks for a certificate of `authority`, and leads to the test's broker.
struct Guarded {
    broker: TestBroker,
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Guarded {
    async fn new(authority: &Authority) -> Self {
        let provider = Arc::new(default_provider());
        let roots = Arc::new(authority.roots());
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let key = PrivateKeyDer::from_pem_file(authority.file("one.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(certificates(&authority.file("one.pem")), key)
            .unwrap();
        let broker = TestBroker::create().await;
        let url = broker.url();
        let behind = url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                carried.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut inside = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
                });
            }
        });
        Self { broker, address, _serving: serving }
    }

    async fn connect(&self, scheme: &str, files: Value) -> Result<Amqp, RpcError> {
        let url = self.broker.url();
        let (login, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
        let vhost = rest.split_once('/').unwrap().1;
        let mut config = files;
        config["url"] = json!(format!("{scheme}://{login}@{}/{vhost}", self.address));
        let config: AmqpConfig = serde_json::from_value(config).unwrap();
        let connecting = Amqp::connect(&config, "test");
        tokio::time::timeout(AT_ONCE, connecting).await.expect("an answer, good or bad")
    }
}

/// An error with what caused it.
fn said(result: Result<Amqp, RpcError>) -> String {
    let Err(error) = result else { panic!("it connected") };
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_certificates_and_messages_go_through() {
    let authority = Authority::new();
    let guarded = Guarded::new(&authority).await;
    let files = json!({
        "ca_file": authority.file("ca.pem"),
        "cert_file": authority.file("one.pem"),
        "key_file": authority.file("one.key"),
    });
    let amqp = guarded.connect("amqps", files).await.unwrap();
    amqp.declare(Topology::Conductor).await.unwrap();
    let hint = Outgoing::hint(&SagaHint { saga_id: SagaId(Uuid::from_u128(1)) });
    assert_eq!(amqp.publisher().publish_all(&[hint]).await, [Published::Confirmed]);
    amqp.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_an_authority_that_is_not_trusted_is_refused_at_once() {
    let (authority, another) = (Authority::new(), Authority::new());
    let guarded = Guarded::new(&authority).await;
    let files = json!({
        "ca_file": another.file("ca.pem"),
        "cert_file": authority.file("one.pem"),
        "key_file": authority.file("one.key"),
    });
    let said = said(guarded.connect("amqps", files).await);
    assert!(said.contains("certificate"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_asks_for_a_certificate_does_not_take_one_of_another_authority() {
    let (authority, another) = (Authority::new(), Authority::new());
    let guarded = Guarded::new(&authority).await;
    let files = json!({
        "ca_file": authority.file("ca.pem"),
        "cert_file": another.file("one.pem"),
        "key_file": another.file("one.key"),
    });
    let said = said(guarded.connect("amqps", files).await);
    assert!(said.contains("UnknownCA") || said.contains("DecryptError"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_would_leave_tls_out_are_refused() {
    let authority = Authority::new();
    let guarded = Guarded::new(&authority).await;
    let plain = guarded.connect("amqp", json!({ "ca_file": authority.file("ca.pem") })).await;
    assert!(said(plain).contains("amqps://"));
    let half = guarded.connect("amqps", json!({ "cert_file": authority.file("one.pem") })).await;
    assert!(said(half).contains("only together"));
    let missing = guarded.connect("amqps", json!({ "ca_file": authority.file("none") })).await;
    assert!(said(missing).contains("none: No such file"));
}
