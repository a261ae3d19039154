//! TCP with TLS: which clients are admitted, what they can access, and what the server reveals before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use restorefs::block::{ReadAt, WriteAt};
use restorefs::error::{Error, ErrorKind};
use restorefs::nbd::client::{Client, list};
use restorefs::nbd::proto::uri::Uri;
use serde_json::Value;

use crate::kit::certificate::{Authority, can_certify};
use crate::kit::need::free_port;
use crate::kit::place::{Daemon, Place};

const TLS_REQUIRED: u32 = 0x8000_0005;
const INVALID: u32 = 0x8000_0003;
const UNSUPPORTED: u32 = 0x8000_0001;

const ACCESS: &str = "
[[access]]
identity = \"agent1\"
vms = [\"web*\"]
rights = [\"read\", \"ingest\"]

[[access]]
identity = \"auditor.example\"
vms = [\"*\"]
rights = [\"read\"]

[[access]]
identity = \"spiffe://example/ingest\"
vms = [\"db??\"]
rights = [\"ingest\"]
";

/// A daemon that listens on TCP, over a repository with `web01` and `db01`.
pub(crate) struct Secure {
    pub(crate) place: Place,
    pub(crate) daemon: Daemon,
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    server: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

/// The daemon, with the certificates of `server`.
fn serve(place: &Place, address: SocketAddr, server: &Path) -> Daemon {
    place.serve(&[
        "--nbd-listen",
        &address.to_string(),
        "--tls-certificates",
        server.to_str().unwrap(),
        "--nbd-access",
        "access.toml",
    ])
}

impl Secure {
    pub(crate) fn new() -> Self {
        Self::prepared(|_, _, _| ())
    }

    /// The same, once `prepare` has done something with the authority, and the server's and the agent's certificates.
    fn prepared(prepare: impl FnOnce(&Authority, &Path, &Path)) -> Self {
        let place = Place::new();
        let bytes = place.disk("a.raw", 20, 3);
        for vm in ["web01", "db01"] {
            place.ok(&["backup", vm, "vda=a.raw", "--point", "p1"]);
        }
        let authority = Authority::new();
        std::fs::write(place.path("access.toml"), ACCESS).unwrap();
        let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let server = authority.server();
        let agent = authority.client("agent1");
        prepare(&authority, &server, &agent);
        let daemon = serve(&place, address, &server);
        Self {
            place,
            daemon,
            authority,
            address,
            server,
            agent,
            bytes,
        }
    }

    /// The URI of an export for who has these certificates.
    fn uri_of(&self, export: &str, certificates: &Path) -> String {
        let port = self.address.port();
        let directory = certificates.display();
        format!("nbds://localhost:{port}/{export}?tls-certificates={directory}")
    }

    /// The same for the agent.
    pub(crate) fn uri(&self, export: &str) -> String {
        self.uri_of(export, &self.agent)
    }

    /// An URI that `begin` answered, with the agent's certificates.
    pub(crate) fn with_agent(&self, uri: &Value) -> String {
        format!(
            "{}?tls-certificates={}",
            uri.as_str().unwrap(),
            self.agent.display()
        )
    }
}

fn connect(uri: &str) -> Result<Client, Error> {
    Client::connect(&uri.parse::<Uri>().unwrap())
}

pub(crate) fn refused(uri: &str) -> Error {
    match connect(uri) {
        // With TLS 1.3 a client learns from the first answer that its certificate is not taken.
        Ok(client) => client.read_at(0, &mut [0; 512]).unwrap_err(),
        Err(e) => e,
    }
}

fn names(uri: &str) -> Vec<String> {
    let all = list(&uri.parse().unwrap()).unwrap();
    all.into_iter().map(|export| export.name).collect()
}

#[test]
fn everybody_sees_what_he_may_use_and_nothing_else_is_there() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    let begun = secure.place.json(&["begin", "web01", "--session", "s"]);
    let uri = secure.with_agent(&begun["disk_results"][0]["tcp_uri"]);
    let auditor = secure
        .authority
        .client_with("auditor", "DNS:auditor.example");
    let feeder = secure
        .authority
        .client_with("feeder", "URI:spiffe://example/ingest");
    let stranger = secure.authority.client("stranger");
    // Sessions are not in a list over TCP; on the Unix socket they are.
    assert_eq!(names(&secure.uri("")), ["web01/latest/vda", "web01/p1/vda"]);
    assert_eq!(
        names(&secure.uri_of("", &auditor)),
        [
            "db01/latest/vda",
            "db01/p1/vda",
            "web01/latest/vda",
            "web01/p1/vda"
        ]
    );
    assert_eq!(names(&secure.uri_of("", &feeder)), [""; 0]);
    assert_eq!(names(&secure.uri_of("", &stranger)), [""; 0]);
    assert!(names(&secure.daemon.uri("")).contains(&"web01/s/vda".to_owned()));
    let client = connect(&secure.uri("web01/latest~0/vda")).unwrap();
    let mut read = vec![0; secure.bytes.len()];
    client.read_at(0, &mut read).unwrap();
    assert!(read == secure.bytes);
    // What may not be used, what is not there, what makes no sense: one answer.
    let token = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
    let token = token.rsplit('~').next().unwrap().split('/').next().unwrap();
    let other = if token.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{other}", &token[..31]);
    let exports = [
        "db01/p1/vda".to_owned(),
        "db01/latest/vda".to_owned(),
        "mail/p1/vda".to_owned(),
        "web01/p9/vda".to_owned(),
        "web01/p1/vdb".to_owned(),
        "web01/s/vda".to_owned(),
        "web01/latest~9/vda".to_owned(),
        format!("web01/s~{wrong}/vda"),
        format!("web01/s~{}/vda", "0".repeat(32)),
        format!("web01/t~{token}/vda"),
        format!("web01/s~{token}/vdb"),
        format!("db01/s~{token}/vda"),
        format!("web01/s~{token}x/vda"),
        "web01/s~/vda".to_owned(),
        "web01".to_owned(),
        "../x/vda".to_owned(),
        String::new(),
    ];
    for export in &exports {
        let error = refused(&secure.uri(export));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{export}: {error}");
        let said = error.to_string();
        let expected = format!("cannot open the export \\\"{export}\\\": there is no such export");
        let expected = expected.replace("\\\"", "\"");
        assert!(said.contains(&expected), "{said}");
        if !export.is_empty() {
            let answer = said.replace(export, "X");
            let expected = "X\": there is no such export (\"there is no export \\\"X\\\"";
            let plain = expected.replace("\\\"", "\"");
            assert!(
                answer.contains(expected) || answer.contains(&plain),
                "{answer}"
            );
        }
    }
    // Reading is not writing: an auditor with the token gets nothing, an agent with it everything.
    let stolen = uri.replace(secure.agent.to_str().unwrap(), auditor.to_str().unwrap());
    assert_eq!(refused(&stolen).kind(), ErrorKind::NotFound);
    let client = connect(&uri).unwrap();
    client.write_at(65_536, &[9; 65_536]).unwrap();
    client.flush().unwrap();
    client.disconnect().unwrap();
    secure.place.ok(&["commit", "web01/s", "--point", "p2"]);
    let client = connect(&secure.uri("web01/p2/vda")).unwrap();
    let mut read = [0; 512];
    client.read_at(65_536, &mut read).unwrap();
    assert_eq!(read, [9; 512]);
    // The other VM's session is for who may ingest it, though he may not read it.
    let begun = secure.place.json(&["begin", "db01", "--session", "s"]);
    let uri = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
    connect(&format!("{uri}?tls-certificates={}", feeder.display())).unwrap();
    assert_eq!(
        refused(&secure.uri_of("db01/p1/vda", &feeder)).kind(),
        ErrorKind::NotFound
    );
    assert!(
        begun["nbd_targets_tcp"]
            .as_str()
            .unwrap()
            .starts_with("vda:nbds://127.0.0.1:")
    );
    secure.daemon.stop();
}

#[test]
fn certificates_that_are_not_good_enough() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    let export = "web01/p1/vda";
    // Another authority: it does not trust us, nor do we trust it.
    let elsewhere = Authority::new();
    let other = elsewhere.client("agent1");
    assert_eq!(
        refused(&secure.uri_of(export, &other)).kind(),
        ErrorKind::Disconnected
    );
    let trusting = tempfile::tempdir().unwrap();
    for (name, from) in [
        ("ca-cert.pem", &secure.agent),
        ("client-cert.pem", &other),
        ("client-key.pem", &other),
    ] {
        std::fs::copy(from.join(name), trusting.path().join(name)).unwrap();
    }
    let error = refused(&secure.uri_of(export, trusting.path()));
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    // None at all.
    for name in ["client-cert.pem", "client-key.pem"] {
        std::fs::remove_file(trusting.path().join(name)).unwrap();
    }
    let error = refused(&secure.uri_of(export, trusting.path()));
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    let misused = secure.authority.misused("agent1");
    assert_eq!(
        refused(&secure.uri_of(export, &misused)).kind(),
        ErrorKind::Disconnected
    );
    // The server's name is checked, unless we say that it does not matter.
    let uri = secure.uri(export);
    let error = refused(&format!("{uri}&tls-hostname=elsewhere.example"));
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
    connect(&format!(
        "{uri}&tls-hostname=elsewhere.example&tls-verify-peer=0"
    ))
    .unwrap();
    connect(&uri.replace("localhost", "127.0.0.1")).unwrap();
    // Without TLS, and where there is none.
    let plain = format!("nbd://localhost:{}/{export}", secure.address.port());
    let error = refused(&plain);
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("nbds://"), "{error}");
    let unix = secure.daemon.uri(export).replace("nbd+unix", "nbds+unix");
    let error = refused(&format!(
        "{unix}&tls-certificates={}",
        secure.agent.display()
    ));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // A directory without certificates.
    let empty = tempfile::tempdir().unwrap();
    let error = refused(&secure.uri_of(export, empty.path()));
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("ca-cert.pem"), "{error}");
    secure.daemon.stop();
}

/// A TCP client that speaks in bytes.
struct Bytes(TcpStream);

impl Bytes {
    fn greeted(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut bytes = Self(stream);
        let mut greeting = [0; 18];
        bytes.0.read_exact(&mut greeting).unwrap();
        assert_eq!(greeting[..16], *b"NBDMAGICIHAVEOPT");
        bytes.0.write_all(&3u32.to_be_bytes()).unwrap();
        bytes
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let mut all = b"IHAVEOPT".to_vec();
        all.extend(option.to_be_bytes());
        all.extend((data.len() as u32).to_be_bytes());
        all.extend(data);
        self.0.write_all(&all).unwrap();
    }

    fn answer(&mut self) -> u32 {
        let mut header = [0; 20];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[16..].try_into().unwrap());
        std::io::copy(&mut (&self.0).take(length.into()), &mut std::io::sink()).unwrap();
        u32::from_be_bytes(header[12..16].try_into().unwrap())
    }

    /// The server hangs up; what it says before does not matter.
    fn is_refused(&mut self) -> bool {
        match std::io::copy(&mut self.0, &mut std::io::sink()) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn before_tls_nothing_is_told() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    let go = b"\0\0\0\x0cweb01/p1/vda\0\0";
    let mut raw = Bytes::greeted(secure.address);
    for (option, data) in [
        (3, &[][..]),
        (6, go),
        (7, go),
        (8, &[]),
        (9, b"\0\0\0\0\0\0\0\0"),
        (10, b"\0\0\0\0\0\0\0\0"),
        (11, &[]),
        (0x7777, b"what"),
        (7, &[0; 100_000]),
    ] {
        raw.option(option, data);
        assert_eq!(raw.answer(), TLS_REQUIRED, "{option}");
    }
    raw.option(5, b"data");
    assert_eq!(raw.answer(), INVALID);
    raw.option(2, &[]);
    assert_eq!(raw.answer(), 1);
    assert!(raw.is_refused());
    // The old way to choose cannot be answered.
    let mut raw = Bytes::greeted(secure.address);
    raw.option(1, b"web01/p1/vda");
    assert!(raw.is_refused());
    // Too many of them, one too long.
    let mut raw = Bytes::greeted(secure.address);
    for _ in 0..16 {
        raw.option(8, &[]);
        assert_eq!(raw.answer(), TLS_REQUIRED);
    }
    assert!(raw.is_refused());
    let mut raw = Bytes::greeted(secure.address);
    raw.0
        .write_all(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff")
        .unwrap();
    assert!(raw.is_refused());
    // What comes in the clear behind STARTTLS is no TLS, and is not taken for an option later.
    let mut raw = Bytes::greeted(secure.address);
    raw.option(5, &[]);
    raw.option(3, &[]);
    assert_eq!(raw.answer(), 1);
    assert!(raw.is_refused());
    // Garbage, and a handshake that is cut off.
    for garbage in [
        &b"\x16\x03\x01\xff\xff"[..],
        b"\x16\x03\x01\0\x05\x01\0\0\x01\0",
        &[0x55; 4096],
    ] {
        let mut raw = Bytes::greeted(secure.address);
        raw.option(5, &[]);
        assert_eq!(raw.answer(), 1);
        let _ = raw.0.write_all(garbage);
        raw.0
            .shutdown(std::net::Shutdown::Write)
            .unwrap_or_default();
        assert!(raw.is_refused());
    }
    // On the Unix socket there is no TLS.
    let mut raw = crate::raw::Raw::greeted(&secure.daemon.socket);
    raw.option(5, &[]);
    assert_eq!(raw.answer(5).0, UNSUPPORTED);
    connect(&secure.uri("web01/p1/vda")).unwrap();
    secure.daemon.stop();
}

#[test]
fn a_certificate_that_was_taken_back_lets_nobody_in() {
    if !can_certify() {
        return;
    }
    let secure = Secure::prepared(|authority, server, agent| authority.revoke(agent, server));
    let auditor = secure.authority.client("auditor.example");
    let error = refused(&secure.uri("web01/p1/vda"));
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
    connect(&secure.uri_of("web01/p1/vda", &auditor)).unwrap();
    secure.daemon.stop();
}

/// Who is on a list that has expired may have been joined by others since: nobody gets in until it is renewed.
#[test]
fn an_expired_list_of_what_was_taken_back_lets_nobody_in() {
    if !can_certify() {
        return;
    }
    let mut old = PathBuf::new();
    let mut secure = Secure::prepared(|authority, server, _| {
        old = authority.client("old");
        authority.revoke_long_ago(&old, server);
    });
    let uri = secure.uri("web01/p1/vda");
    assert_eq!(refused(&uri).kind(), ErrorKind::Disconnected);
    secure.daemon.stop();
    // A client does not take such a list of servers either.
    secure.authority.revoke(&old, &secure.server);
    secure.daemon = serve(&secure.place, secure.address, &secure.server);
    connect(&uri).unwrap();
    secure.authority.revoke_long_ago(&old, &secure.agent);
    assert!(connect(&uri).is_err());
    secure.daemon.stop();
}

/// A common name is free text: it counts where a certificate has no other name, or where the access file means it.
#[test]
fn a_common_name_gives_no_rights_beside_other_names() {
    if !can_certify() {
        return;
    }
    let secure = Secure::new();
    let forged = [
        ("laptop", "agent1", "DNS:laptop7.example"),
        ("uri", "agent1", "URI:spiffe://example/other"),
        ("likeness", "x", "URI:cn:agent1"),
    ];
    for (directory, common, other) in forged {
        let certificate = secure.authority.client_named(directory, common, other);
        let error = refused(&secure.uri_of("web01/p1/vda", &certificate));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{directory}: {error}");
        assert_eq!(names(&secure.uri_of("", &certificate)), [""; 0]);
    }
    connect(&secure.uri("web01/p1/vda")).unwrap();
    secure.daemon.stop();
}

#[test]
fn what_is_missing_is_said_before_anything_is_served() {
    let place = Place::new();
    for (arguments, what) in [
        (&["--nbd-listen", "127.0.0.1:0"][..], "--tls-certificates"),
        (&["--nbd-listen", "0.0.0.0:0", "--nbd-plain"], "loopback"),
        (
            &["--nbd-listen", "127.0.0.1:0", "--tls-certificates", "."],
            "--nbd-access",
        ),
        (&["--nbd-listen", "nowhere"], "nowhere"),
        (&["--nbd-plain"], "--nbd-listen"),
        (
            &[
                "--nbd-listen",
                "127.0.0.1:0",
                "--tls-certificates",
                ".",
                "--nbd-plain",
                "--nbd-access",
                "x",
            ],
            "cannot be used with",
        ),
    ] {
        let mut all = vec!["serve"];
        all.extend(arguments);
        let said = place.fails(2, &all);
        assert!(said.contains(what), "{arguments:?}: {said}");
    }
    let said = place.fails(
        1,
        &[
            "serve",
            "--nbd-listen",
            "127.0.0.1:0",
            "--tls-certificates",
            "none",
            "--nbd-access",
            "x",
        ],
    );
    assert!(said.contains("ca-cert.pem"), "{said}");
    // On loopback without TLS, when it is asked for; sessions need their token all the same.
    place.disk("a.raw", 2, 3);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    let address = format!("127.0.0.1:{}", free_port());
    let daemon = place.serve(&["--nbd-listen", &address, "--nbd-plain"]);
    let begun = place.json(&["begin", "web01", "--session", "s"]);
    assert_eq!(
        names(&format!("nbd://{address}/")),
        ["web01/latest/vda", "web01/p1/vda"]
    );
    assert_eq!(
        refused(&format!("nbd://{address}/web01/s/vda")).kind(),
        ErrorKind::NotFound
    );
    let uri = begun["disk_results"][0]["tcp_uri"].as_str().unwrap();
    assert!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
    connect(uri).unwrap().disconnect().unwrap();
    daemon.stop();
}

/// Without `--nbd-access` the daemon's own table decides, and is followed; with it that file alone does.
#[test]
fn certificates_are_in_the_table_of_the_daemon_or_in_a_file_of_their_own() {
    if !can_certify() {
        return;
    }
    let place = Place::new();
    place.disk("a.raw", 2, 3);
    place.ok(&["backup", "web01", "vda=a.raw", "--point", "p1"]);
    let authority = Authority::new();
    let (server, agent) = (authority.server(), authority.client("agent1"));
    let table = |name: &str, text: &str| {
        let new = place.path("new.toml");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, place.path(name)).unwrap();
    };
    let entry = "[[access]]\ncertificate = \"agent1\"\nvms = [\"web*\"]\nrights = [\"read\"]\n";
    let address = format!("127.0.0.1:{}", free_port());
    let port = address.rsplit(':').next().unwrap();
    let certificates = agent.display();
    let uri = format!("nbds://localhost:{port}/web01/p1/vda?tls-certificates={certificates}");
    let server = server.to_str().unwrap();
    let flags = ["--nbd-listen", &address, "--tls-certificates", server];
    table("access.toml", entry);
    let daemon = place.serve(&flags);
    connect(&uri).unwrap();
    table("access.toml", &entry.replace("agent1", "agent2"));
    assert_eq!(refused(&uri).kind(), ErrorKind::NotFound);
    table(
        "access.toml",
        &format!("{entry}repositories = [\"offsite\"]\n"),
    );
    assert_eq!(refused(&uri).kind(), ErrorKind::NotFound);
    table("access.toml", entry);
    connect(&uri).unwrap();
    daemon.stop();
    table("own.toml", "");
    let mut flags = flags.to_vec();
    flags.extend(["--nbd-access", "own.toml"]);
    let daemon = place.serve(&flags);
    assert_eq!(refused(&uri).kind(), ErrorKind::NotFound);
    table("own.toml", entry);
    connect(&uri).unwrap();
    daemon.stop();
}
