//! HTTPS, on the real daemon with certificates made here: the command line all the way, clients that speak no TLS or stop
//! in its middle, and certificates that change while it runs.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::support::metrics::Exposition;
use crate::support::{self, Connection, Daemon, request, wait_for};
use profiled::config::TlsFiles;
use profiled::engine::Opening;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, StreamOwned};

type Secure = Connection<StreamOwned<ClientConnection, TcpStream>>;

/// An authority of our own, and the files of the certificate that a daemon is given.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let authority = Self { issuer: Issuer::new(params, key), folder };
        authority.issue();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a new certificate in the place of the last; gives its bytes.
    fn issue(&self) -> CertificateDer<'static> {
        let params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.file("key.pem"), key.serialize_pem()).unwrap();
        certificate.der().clone()
    }

    fn settings(&self) -> String {
        let file = |name| self.file(name).display().to_string();
        format!("tls_cert = '{}'\ntls_key = '{}'\n", file("cert.pem"), file("key.pem"))
    }

    fn daemon(&self, settings: &str) -> Daemon {
        Daemon::start_configured(&format!("{}{settings}", self.settings()))
    }

    fn client(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        client
    }

    fn connect(&self, daemon: &Daemon) -> Secure {
        self.try_connect(daemon, &["http/1.1"]).unwrap()
    }

    fn try_connect(&self, daemon: &Daemon, protocols: &[&str]) -> io::Result<Secure> {
        self.connect_to(daemon.address(), protocols)
    }

    fn connect_to(&self, address: SocketAddr, protocols: &[&str]) -> io::Result<Secure> {
        let name = "127.0.0.1".try_into().unwrap();
        let mut tls = ClientConnection::new(Arc::new(self.client(protocols)), name).unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Connection::on(StreamOwned::new(tls, socket)))
    }

    fn metrics(&self, daemon: &Daemon) -> Exposition {
        let reply = ask(&mut self.connect(daemon), "GET", "/metrics", None);
        Exposition::parse(&String::from_utf8(reply.body).unwrap()).unwrap()
    }
}

fn ask(connection: &mut Secure, method: &str, path: &str, body: Option<&[u8]>) -> support::Reply {
    connection.write(&request(method, path, "localhost", &[], body));
    connection.read()
}

fn certificate(connection: &Secure) -> CertificateDer<'static> {
    connection.stream().conn.peer_certificates().unwrap().first().unwrap().clone().into_owned()
}

/// What the command line printed on standard output, or on standard error if it failed with this code.
fn profiled(arguments: &[&str], variables: &[(&str, String)], code: i32) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_profiled"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap();
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{error}");
    if code == 0 { out } else { error }
}

#[test]
fn the_command_line_goes_all_the_way() {
    let authority = Authority::new();
    let daemon = authority.daemon("");
    let url = ("PROFILED_URL", daemon.url());
    assert!(url.1.starts_with("https://127.0.0.1:"), "{}", url.1);
    let ca = ("PROFILED_CA", authority.file("ca.pem").display().to_string());
    let both = [url.clone(), ca.clone()];

    let mut site = authority.connect(&daemon);
    let visit = ask(&mut site, "GET", "/m2/demo/ubox/raw?mbox=m&mboxDefault=d&mbox3rdPartyId=x", None);
    let secure =
        visit.headers.iter().filter(|(name, value)| name == "set-cookie" && value.ends_with("; Secure"));
    assert_eq!(secure.count(), 2, "{visit:?}");
    let batch = ask(&mut site, "POST", "/m2/demo/profile/batchUpdate", Some(b"batch=thirdPartyId,a\nx,1\n"));
    assert!(batch.element("batchStatus").unwrap().starts_with("https://localhost/m2/demo/"));

    let file = authority.file("batch.csv");
    std::fs::write(&file, "batch=thirdPartyId,city\nx,Oslo\nnobody,Rome\n").unwrap();
    let file = file.display().to_string();
    let posted = profiled(&["batch", "post", &file, "--client", "demo", "--wait", "--json"], &both, 0);
    assert_eq!(serde_json::from_str::<Value>(&posted).unwrap()["counts"]["updated"], 1, "{posted}");
    let get = ["profile", "get", "x", "--client", "demo", "--json"];
    let visitor = profiled(&get, &both, 0);
    assert_eq!(serde_json::from_str::<Value>(&visitor).unwrap()["attributes"]["city"]["value"], "Oslo");
    profiled(&["export", "-", "--client", "demo", "--format", "ndjson"], &both, 0);
    // The system's own certificates are where this variable says.
    profiled(&get, &[url.clone(), ("SSL_CERT_FILE", ca.1.clone())], 0);

    let check = |variables: &[(&str, String)], code: i32, words: &str| {
        let error = profiled(&get, variables, code);
        assert!(error.contains(words), "{error}");
    };
    let another = Authority::new().file("ca.pem");
    check(&[url.clone(), ("SSL_CERT_FILE", another.display().to_string())], 1, "--ca");
    check(
        &[url.clone(), ("PROFILED_CA", "/nonexistent/ca.pem".into())],
        2,
        "/nonexistent/ca.pem: cannot be read",
    );
    let another = Authority::new();
    check(&[url.clone(), ("PROFILED_CA", another.file("ca.pem").display().to_string())], 1, "is not trusted");
    check(
        &[url.clone(), ("PROFILED_CA", authority.file("key.pem").display().to_string())],
        2,
        "it holds no certificate",
    );
    let plain = Daemon::start();
    check(&[("PROFILED_URL", plain.url().replace("http", "https")), ca], 1, "try http://");
    check(&[("PROFILED_URL", url.1.replace("https", "http"))], 1, "did not answer");
}

/// A certificate that vouches for itself, as people make them to try HTTPS out.
#[test]
fn a_certificate_that_vouches_for_itself_is_trusted_if_it_is_a_servers() {
    for (is_ca, code, words) in [
        (IsCa::ExplicitNoCa, 0, ""),
        (IsCa::Ca(BasicConstraints::Unconstrained), 1, "basicConstraints=critical,CA:FALSE"),
    ] {
        let authority = Authority::new();
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.is_ca = is_ca;
        let key = KeyPair::generate().unwrap();
        std::fs::write(authority.file("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(authority.file("key.pem"), key.serialize_pem()).unwrap();
        let daemon = authority.daemon("");
        let ca = authority.file("cert.pem").display().to_string();
        let variables = [("PROFILED_URL", daemon.url()), ("PROFILED_CA", ca)];
        let reported = profiled(&["batch", "list", "--client", "demo"], &variables, code);
        assert!(reported.contains(words), "{reported}");
    }
}

#[test]
fn a_client_that_speaks_no_tls_is_cut_off_cleanly() {
    let authority = Authority::new();
    let daemon = authority.daemon("");
    for bytes in [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), vec![b'x'; 50_000], vec![0; 10]] {
        let mut socket = TcpStream::connect(daemon.address()).unwrap();
        socket.write_all(&bytes).unwrap();
        let mut answer = vec![];
        // To its end, and not to a reset.
        socket.read_to_end(&mut answer).unwrap();
        // A fatal alert, and nothing else.
        assert_eq!((answer.len(), answer[0], answer[5]), (7, 21, 2), "{answer:?}");
    }
    assert_eq!(ask(&mut authority.connect(&daemon), "GET", "/healthz", None).status, 200);
}

#[test]
fn half_a_handshake_does_not_last() {
    let authority = Authority::new();
    let daemon = authority.daemon("tls_handshake_timeout_seconds = 1");
    let name = "localhost".try_into().unwrap();
    let mut hello = vec![];
    let mut tls = ClientConnection::new(Arc::new(authority.client(&[])), name).unwrap();
    tls.write_tls(&mut hello).unwrap();
    let mut sockets = [&[][..], &hello[..1], &hello[..hello.len() / 2]].map(|begun| {
        let mut socket = TcpStream::connect(daemon.address()).unwrap();
        socket.write_all(begun).unwrap();
        socket
    });
    for socket in &mut sockets {
        let ended = socket.read(&mut [0]);
        assert!(
            ended.as_ref().map_or_else(|e| e.kind() == ErrorKind::ConnectionReset, |read| *read == 0),
            "{ended:?}"
        );
    }
    wait_for("all three to be counted", || {
        (authority.metrics(&daemon).hits("tls_handshake") == 3).then_some(())
    });
}

#[test]
fn those_who_never_finish_a_handshake_keep_nobody_out() {
    let authority = Authority::new();
    let daemon = authority.daemon("tls_handshake_timeout_seconds = 3600\nconnections_max = 4");
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(daemon.address()).unwrap()).collect();
    let mut others: Vec<_> = (0..4).map(|_| authority.connect(&daemon)).collect();
    for other in &mut others {
        assert_eq!(ask(other, "GET", "/healthz", None).status, 200);
    }
    drop((silent, others));
    assert!(authority.metrics(&daemon).hits("connections") > 0);
}

#[test]
fn the_protocol_is_agreed_on() {
    let authority = Authority::new();
    let daemon = authority.daemon("");
    let agreed = |protocols: &[&str]| {
        let connection = authority.try_connect(&daemon, protocols).ok()?;
        Some(connection.stream().conn.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(agreed(&["h2", "http/1.1"]), Some(Some(b"http/1.1".to_vec())));
    assert_eq!(agreed(&[]), Some(None));
    assert_eq!(agreed(&["h2"]), None);
}

#[test]
fn what_is_watched_on_a_plain_connection_is_watched_on_a_secure_one() {
    let authority = Authority::new();
    let daemon = authority.daemon("header_read_timeout_seconds = 1");
    let mut twice = authority.connect(&daemon);
    twice.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(twice.read().status, 400);
    assert!(twice.is_closed());
    // A client that is still sending gets to read its refusal.
    let file = vec![b'x'; 20_000_000];
    let mut sending = authority.connect(&daemon);
    assert_eq!(ask(&mut sending, "POST", "/m2/demo/profile/batchUpdate", Some(&file)).status, 400);
    let mut slow = authority.connect(&daemon);
    slow.write(b"GET /healthz HTTP/1.1\r\nHo");
    assert!(slow.is_cut_off());
    assert_eq!(authority.metrics(&daemon).hits("header_read_timeout"), 1);
}

#[test]
fn a_new_certificate_is_for_new_connections_and_a_broken_one_for_none() {
    let authority = Authority::new();
    let first = authority.issue();
    let mut daemon = Daemon::configured(&authority.settings());
    daemon.keep_complaints().restart();
    let mut old = authority.connect(&daemon);
    assert_eq!(certificate(&old), first);
    // The year 4096, until which the issuer's certificates last.
    let expires = authority.metrics(&daemon).value("profiled_tls_certificate_expiry_timestamp_seconds");
    assert_eq!(expires, 67_090_118_400.0);

    let second = authority.issue();
    assert_eq!(certificate(&authority.connect(&daemon)), first, "nobody has asked for it yet");
    daemon.hang_up();
    let mut new = wait_for("a connection with the new certificate", || {
        let connection = authority.connect(&daemon);
        (certificate(&connection) == second).then_some(connection)
    });

    let key = std::fs::read(authority.file("key.pem")).unwrap();
    authority.issue();
    std::fs::write(authority.file("key.pem"), key).unwrap();
    daemon.hang_up();
    let reported = wait_for("a complaint", || {
        let complaints = daemon.complaints();
        complaints.contains("the certificate could not be reloaded").then_some(complaints)
    });
    assert!(reported.contains("key.pem: this is not the key of the certificate in"), "{reported}");
    assert_eq!(certificate(&authority.connect(&daemon)), second);

    for connection in [&mut old, &mut new] {
        assert_eq!(ask(connection, "GET", "/healthz", None).status, 200);
    }
    daemon.terminate();
    assert!(old.is_closed() && new.is_closed(), "with a farewell, not cut off");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn while_it_opens_the_daemon_says_so_securely() {
    use profiled::http::{server, tls::Tls};
    let authority = Authority::new();
    let files = TlsFiles { cert: authority.file("cert.pem"), key: authority.file("key.pem") };
    let tls = Arc::new(Tls::load(files).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { server::serve_opening(&listener, &Opening::default(), Some(&tls)).await });
    let ask = |path| {
        let mut connection = authority.connect_to(address, &["http/1.1"]).unwrap();
        ask(&mut connection, "GET", path, None).status
    };
    assert_eq!([ask("/healthz"), ask("/readyz")], [200, 503]);
    runtime.shutdown_background();
}

/// A call takes over the certificate as a hang-up does, and says what is wrong with it.
#[test]
fn a_call_reloads_the_certificate_or_says_why_not() {
    let authority = Authority::new();
    let first = authority.issue();
    let mut daemon = Daemon::configured(&format!("rows_limit = 1\n{}", authority.settings()));
    daemon.restart();
    let roots = authority.file("ca.pem");
    let reload = || daemon.run(&["reload", "--ca", roots.to_str().unwrap()]);
    let second = authority.issue();
    assert_ne!(first, second);
    let (code, out, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert!(out.ends_with("read again: 0 tokens and 1 certificate\n"), "{out}");
    assert_eq!(certificate(&authority.connect(&daemon)), second);
    // Its key is not there. Then the settings are not taken over either.
    std::fs::remove_file(authority.file("key.pem")).unwrap();
    daemon.configure(&format!("rows_limit = 2\n{}", authority.settings()));
    let (code, _, said) = reload();
    let why = "the certificate: tls_key: ";
    assert!(code == Some(1) && said.contains(why) && said.contains("key.pem: cannot be read"), "{said}");
    assert_eq!(certificate(&authority.connect(&daemon)), second);
    authority.issue();
    let (code, out, said) = reload();
    assert!(code == Some(0) && out.starts_with("changed: rows_limit\n"), "{out}{said}");
}

#[test]
fn a_daemon_without_a_certificate_takes_a_hangup_calmly() {
    let mut daemon = Daemon::start();
    daemon.hang_up();
    daemon.mbox("demo", "mbox3rdPartyId=x");
    daemon.terminate();
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn what_is_wrong_with_a_certificate_is_found_before_anything_is_bound() {
    let (authority, another) = (Authority::new(), Authority::new());
    let taken = Daemon::start();
    let file = |authority: &Authority, name| authority.file(name).display().to_string();
    let serve = |cert: &str, key: &str| {
        let address = taken.address().to_string();
        profiled(
            &[
                "serve",
                "--listen",
                &address,
                "--tls-cert",
                cert,
                "--tls-key",
                key,
                "--data",
                "/nonexistent/x",
            ],
            &[],
            2,
        )
    };
    let (cert, key) = (file(&authority, "cert.pem"), file(&another, "key.pem"));
    let error = serve(&cert, &key);
    assert!(
        error.contains(&format!("tls_key: {key}: this is not the key of the certificate in {cert}")),
        "{error}"
    );
    let error = serve(&key, &key);
    assert!(error.contains(&format!("tls_cert: {key}: there is no certificate in it")), "{error}");
}
