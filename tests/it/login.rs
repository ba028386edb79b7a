//! Who is let in: passwords, encryption, connections that never say who they are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::client::Session;
use crate::process::{free_port, wait_for};
use crate::server::Server;

const LIMIT: Duration = Duration::from_secs(20);

/// What psql says to `SELECT current_user` with these words of a connection string.
fn psql(server: &Server, words: &str) -> String {
    let mut command = Command::new("psql");
    command.args(["-X", "-At", "-w", "-c", "SELECT current_user"]);
    command.arg(format!("host=127.0.0.1 port={} dbname=millstream connect_timeout=20 {words}", server.port()));
    let output = command.stdin(Stdio::null()).output().expect("psql runs");
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&all).trim().to_string()
}

async fn connect(server: &Server, user: &str, password: &str) -> Result<Session, String> {
    let mut config = server.connection_string().replace("user=millstream", &format!("user={user}"));
    if !password.is_empty() {
        config += &format!(" password={password}");
    }
    Session::connect(&config).await.map_err(|failure| failure.sqlstate.unwrap_or(failure.message))
}

#[tokio::test]
async fn from_the_first_password_on_everybody_needs_one() {
    let mut server = Server::start();
    let admin = server.connect().await;
    for sql in [
        "CREATE ROLE anna LOGIN PASSWORD 'gehëim'",
        "CREATE ROLE open LOGIN",
        "CREATE ROLE locked PASSWORD 'x'",
        "CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2020-01-01'",
        "CREATE ROLE one LOGIN PASSWORD 'x' CONNECTION LIMIT 1",
        "ALTER ROLE anna SET application_name = 'from the role'",
    ] {
        admin.run(sql).await;
    }
    // Nobody has protected the server yet: roles without a password are let in from here.
    assert!(connect(&server, "open", "").await.is_ok());
    assert_eq!(connect(&server, "nobody", "").await.err().as_deref(), Some("28000"));
    assert_eq!(connect(&server, "anna", "falsch").await.err().as_deref(), Some("28P01"));
    admin.run("ALTER ROLE millstream PASSWORD 'secret'").await;
    for user in ["open", "nobody", "millstream", "expired"] {
        assert_eq!(connect(&server, user, "x").await.err().as_deref(), Some("28P01"), "{user}");
    }
    assert_eq!(connect(&server, "locked", "x").await.err().as_deref(), Some("28000"));
    let anna = connect(&server, "anna", "gehëim").await.expect("the password fits");
    assert_eq!(anna.rows("SELECT current_user, current_setting('application_name')").await, ["anna|from the role"]);
    let first = connect(&server, "one", "x").await.expect("one place");
    assert_eq!(connect(&server, "one", "x").await.err().as_deref(), Some("53300"));
    drop(first);
    admin.run("REVOKE CONNECT ON DATABASE millstream FROM PUBLIC").await;
    assert_eq!(connect(&server, "anna", "gehëim").await.err().as_deref(), Some("42501"));
    admin.run("GRANT CONNECT ON DATABASE millstream TO anna").await;
    // A verifier stands for its password, as psql's \password sends it.
    let verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    admin.run(&format!("ALTER ROLE anna PASSWORD '{verifier}'")).await;
    drop(admin);
    server.kill();
    server.restart();
    assert!(connect(&server, "anna", "pencil").await.is_ok(), "roles survive");
    let admin = connect(&server, "millstream", "secret").await.expect("the password survives");
    assert_eq!(psql(&server, "user=anna password=pencil"), "anna");
    let wrong = psql(&server, "user=anna password=pen");
    assert!(wrong.contains("password authentication failed for user \"anna\""), "{wrong}");
    // Nothing of a password is written anywhere that people look.
    admin.run("ALTER ROLE anna PASSWORD 'hunter2'").await;
    for secret in ["hunter2", "gehëim", "SCRAM-SHA-256$", "pencil"] {
        assert!(!server.log().contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn who_guesses_waits_and_holds_up_nobody_else() {
    let server = Server::start();
    let admin = server.connect().await;
    admin.run("CREATE ROLE anna LOGIN PASSWORD 'right'").await;
    admin.run("CREATE ROLE bob LOGIN PASSWORD 'right'").await;
    for _ in 0..4 {
        assert_eq!(connect(&server, "anna", "wrong").await.err().as_deref(), Some("28P01"));
    }
    let start = Instant::now();
    assert!(connect(&server, "bob", "right").await.is_ok());
    let of_bob = start.elapsed();
    assert!(connect(&server, "anna", "right").await.is_ok());
    let of_anna = start.elapsed() - of_bob;
    assert!(of_anna > Duration::from_millis(900), "the fifth attempt waits for a second: {of_anna:?}");
    assert!(of_bob < of_anna, "{of_bob:?} {of_anna:?}");
    let metrics = crate::process::http_get(server.http_port(), "/metrics").expect("metrics").1;
    assert!(metrics.contains("millstream_logins_failed_total 4"), "{metrics}");
}

#[tokio::test]
async fn connections_that_say_nothing_or_too_much_do_not_hold_the_server() {
    let server = Server::with(&[("MILLSTREAM__MAX_CONNECTIONS", "20")]);
    let admin = server.connect().await;
    admin.run("CREATE ROLE anna LOGIN PASSWORD 'right'").await;
    let address = ("127.0.0.1", server.port());
    // Some that are silent, some that stop half-way through their first packet.
    let mut silent: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(address).expect("a connection")).collect();
    for (i, stream) in silent.iter_mut().enumerate() {
        stream.write_all(&[0, 0, 0, 99, 0, 3][..i % 6]).expect("some bytes");
    }
    assert!(connect(&server, "anna", "right").await.is_ok());
    // One that has to prove who it is and sends a message of a gigabyte instead.
    let mut huge = TcpStream::connect(address).expect("a connection");
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    body.extend_from_slice(b"user\0anna\0database\0millstream\0\0");
    huge.write_all(&(body.len() as u32 + 4).to_be_bytes()).expect("a length");
    huge.write_all(&body).expect("a start-up packet");
    huge.write_all(b"p\x3f\xff\xff\xff").expect("the head of a message");
    let mut answer = Vec::new();
    huge.set_read_timeout(Some(LIMIT)).expect("a timeout");
    huge.read_to_end(&mut answer).expect("the server ends it");
    assert!(String::from_utf8_lossy(&answer).contains("08P01"), "{}", String::from_utf8_lossy(&answer));
    // One that asks for a query before it has proved anything.
    let mut early = TcpStream::connect(address).expect("a connection");
    early.write_all(&(body.len() as u32 + 4).to_be_bytes()).expect("a length");
    early.write_all(&body).expect("a start-up packet");
    early.write_all(b"Q\0\0\0\x0dSELECT 1\0").expect("a query");
    let mut answer = Vec::new();
    early.set_read_timeout(Some(LIMIT)).expect("a timeout");
    early.read_to_end(&mut answer).expect("the server ends it");
    assert!(String::from_utf8_lossy(&answer).contains("expected SASL response"));
    assert_eq!(admin.rows("SELECT 1").await, ["1"]);
}

/// A certificate for 127.0.0.1 and its key, and that of the authority that has signed it, as files.
fn write_certificate(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "an authority of a test");
    let key = KeyPair::generate().expect("a key");
    std::fs::write(dir.join("ca.crt"), authority.self_signed(&key).expect("a certificate").pem()).expect("a file");
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec!["127.0.0.1".to_string()]).expect("a name");
    let certificate = own.signed_by(&key, &issuer).expect("a certificate").pem();
    std::fs::write(dir.join("server.crt"), certificate).expect("a file");
    write_key(&dir.join("server.key"), &key.serialize_pem());
}

fn write_key(path: &Path, pem: &str) {
    std::fs::write(path, pem).expect("a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
}

#[tokio::test]
async fn connections_are_encrypted_and_broken_certificates_refused() {
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str| files.path().join(name).display().to_string();
    write_certificate(files.path());
    let (cert, key) = (file("server.crt"), file("server.key"));
    let settings = [("MILLSTREAM__TLS__CERT_FILE", cert.as_str()), ("MILLSTREAM__TLS__KEY_FILE", key.as_str())];
    let mut server = Server::with(&settings);
    let verify = format!("user=millstream sslmode=verify-full sslrootcert={}", file("ca.crt"));
    assert_eq!(psql(&server, &verify), "millstream");
    assert_eq!(psql(&server, "user=millstream sslmode=disable"), "millstream");
    // A password goes through encryption as it does without.
    server.connect().await.run("CREATE ROLE anna LOGIN PASSWORD 'right'").await;
    assert_eq!(psql(&server, &verify.replace("user=millstream", "user=anna password=right")), "anna");
    // Another certificate by another authority, on SIGHUP; those who trust the old one notice.
    write_certificate(files.path());
    hang_up(&server, "were read again");
    assert_eq!(psql(&server, &verify), "millstream");
    write_key(Path::new(&key), "no key");
    hang_up(&server, "stay as they were");
    assert_eq!(psql(&server, &verify), "millstream");
    // A server whose key does not work does not start, and says which file it is.
    server.terminate();
    write_certificate(files.path());
    let encrypted = Server::with(&[settings[0], settings[1], ("MILLSTREAM__TLS__REQUIRED", "on")]);
    assert_eq!(psql(&encrypted, "user=millstream sslmode=require"), "millstream");
    let refused = psql(&encrypted, "user=millstream sslmode=disable");
    assert!(refused.contains("is not encrypted"), "{refused}");
    drop(encrypted);
    for (content, why) in
        [("no key", "no items found"), (&KeyPair::generate().expect("a key").serialize_pem(), "server.crt")]
    {
        write_key(Path::new(&key), content);
        let output = server.command().output().expect("the binary starts");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && log.contains("server.key") && log.contains(why), "{log}");
    }
    write_certificate(files.path());
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let output = server.command().output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("group or world access"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    let mut command = server.command();
    command.env("MILLSTREAM__TLS__KEY_FILE", "");
    let output = command.output().expect("the binary starts");
    assert!(String::from_utf8_lossy(&output.stderr).contains("go together"));
}

fn hang_up(server: &Server, told: &str) {
    let before = server.log().matches(told).count();
    // SAFETY: the process is the test's own and runs.
    unsafe { libc::kill(server.pid() as libc::pid_t, libc::SIGHUP) };
    wait_for("the server's word on SIGHUP", LIMIT, Duration::from_millis(10), || {
        if server.log().matches(told).count() > before { Ok(()) } else { Err(server.log()) }
    });
}

#[tokio::test]
async fn other_machines_are_let_in_only_when_everybody_needs_a_password() {
    let mut server = Server::start();
    let reachable = |server: &Server| {
        let mut command = server.command();
        command.args(["--set", &format!("listen=0.0.0.0:{}", free_port())]);
        // The flag of its own would win.
        let args: Vec<_> = command.get_args().map(|a| a.to_os_string()).collect();
        let kept =
            args.iter().enumerate().filter(|(i, a)| **a != *"--listen" && (*i == 0 || args[i - 1] != *"--listen"));
        let mut other = Command::new(command.get_program());
        other.args(kept.map(|(_, a)| a)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        other
    };
    server.terminate();
    let output = reachable(&server).output().expect("the binary starts");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && log.contains("no superuser has a password"), "{log}");
    server.restart();
    server.connect().await.run("ALTER ROLE millstream PASSWORD 'secret'").await;
    server.terminate();
    let mut child = crate::process::spawn(reachable(&server)).expect("the binary starts");
    wait_for("the server to be ready", LIMIT, Duration::from_millis(20), || {
        match crate::process::http_get(server.http_port(), "/readyz")? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status}: {body}")),
        }
    });
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
}
