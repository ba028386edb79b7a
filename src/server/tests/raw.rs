//! The protocol byte by byte: what drivers never send, and the exact order of what comes back.

use bytes::{BufMut, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake::Running;

/// A client that speaks bytes.
struct Raw {
    stream: TcpStream,
}

/// A typed message with a length.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
    out
}

pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let mut out = (body.len() as u32 + 4).to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    out
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

/// Parameters as text, results in `result` format codes.
pub fn bind(portal: &str, statement: &str, parameters: &[Option<&str>], result: &[i16]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_slice(format!("{portal}\0{statement}\0").as_bytes());
    body.put_i16(0);
    body.put_i16(parameters.len() as i16);
    for parameter in parameters {
        match parameter {
            Some(text) => {
                body.put_i32(text.len() as i32);
                body.put_slice(text.as_bytes());
            }
            None => body.put_i32(-1),
        }
    }
    body.put_i16(result.len() as i16);
    result.iter().for_each(|code| body.put_i16(*code));
    message(b'B', &body)
}

pub fn execute(portal: &str, limit: i32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &limit.to_be_bytes()].concat())
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

impl Raw {
    /// A client that is past its start-up.
    async fn start(server: &Running) -> Self {
        let mut raw = Self { stream: server.raw().await };
        raw.send(&[startup(196_608, &[("user", "raw")])]).await;
        let first = raw.until_ready().await;
        assert!(first.starts_with("R(00000000) S"), "{first}");
        raw
    }

    async fn send(&mut self, messages: &[Vec<u8>]) {
        self.stream.write_all(&messages.concat()).await.unwrap();
    }

    /// The next message: its type, and its body with unprintable bytes as hexadecimal. `None` at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        let reading = tokio::time::timeout(Duration::from_secs(5), self.stream.read_exact(&mut head));
        reading.await.expect("no message within 5 s").ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).await.unwrap();
        Some((head[0], body))
    }

    /// Messages up to ReadyForQuery or the end, as `C(SELECT 1) Z(I)`.
    async fn until_ready(&mut self) -> String {
        let mut seen = Vec::new();
        while let Some((kind, body)) = self.next().await {
            seen.push(format!("{}({})", char::from(kind), printable(kind, &body)));
            if kind == b'Z' {
                break;
            }
        }
        seen.join(" ")
    }

    async fn exchange(&mut self, messages: &[Vec<u8>]) -> String {
        self.send(messages).await;
        self.until_ready().await
    }
}

fn printable(kind: u8, body: &[u8]) -> String {
    match kind {
        // Fields of errors and notices that matter here.
        b'E' | b'N' => body
            .split(|b| *b == 0)
            .filter(|f| matches!(f.first(), Some(b'S' | b'C' | b'M' | b'P')))
            .map(|f| String::from_utf8_lossy(&f[1..]).into_owned())
            .collect::<Vec<_>>()
            .join("; "),
        b'C' | b'Z' => String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned(),
        b'D' => {
            let mut rest = &body[2..];
            let mut values = Vec::new();
            while let Some((length, tail)) = rest.split_first_chunk::<4>() {
                let length = i32::from_be_bytes(*length);
                if length < 0 {
                    values.push("NULL".into());
                    rest = tail;
                } else {
                    let (value, tail) = tail.split_at(length as usize);
                    values.push(match std::str::from_utf8(value) {
                        Ok(text) if !text.contains(char::is_control) => text.to_string(),
                        _ => hex(value),
                    });
                    rest = tail;
                }
            }
            values.join("|")
        }
        b'T' => {
            let mut names = Vec::new();
            let mut rest = &body[2..];
            while let Some(end) = rest.iter().position(|b| *b == 0) {
                let oid = u32::from_be_bytes(rest[end + 7..end + 11].try_into().unwrap());
                let format = rest[end + 18];
                names.push(format!("{}:{oid}:{format}", String::from_utf8_lossy(&rest[..end])));
                rest = &rest[end + 19..];
            }
            names.join(" ")
        }
        _ => hex(body),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn encryption_is_declined_and_the_session_starts_in_the_clear() {
    let server = Running::start().await;
    let mut raw = Raw { stream: server.raw().await };
    for code in [80_877_104_u32, 80_877_103] {
        raw.send(&[[8_u32.to_be_bytes(), code.to_be_bytes()].concat()]).await;
        assert_eq!(raw.stream.read_u8().await.unwrap(), b'N');
    }
    raw.send(&[startup(196_608, &[("user", "raw"), ("client_encoding", "UTF8")])]).await;
    let mut statuses = Vec::new();
    while let Some((kind, body)) = raw.next().await {
        match kind {
            b'S' => statuses.push(String::from_utf8(body).unwrap().trim_end_matches('\0').replace('\0', "=")),
            b'K' => assert_eq!(body.len(), 8),
            b'Z' => break,
            _ => {}
        }
    }
    for wanted in ["server_encoding=UTF8", "integer_datetimes=on", "TimeZone=Etc/UTC", "DateStyle=ISO, MDY"] {
        assert!(statuses.iter().any(|s| s == wanted), "{wanted} in {statuses:?}");
    }
    assert!(statuses.iter().any(|s| s.starts_with("server_version=15.0 (Millstream ")), "{statuses:?}");
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_down() {
    let server = Running::start().await;
    let mut raw = Raw { stream: server.raw().await };
    raw.send(&[startup(196_610, &[("user", "raw"), ("_pq_.thing", "1")])]).await;
    let first = raw.until_ready().await;
    assert!(first.starts_with(&format!("v({}) R(00000000)", hex(b"\0\x03\0\0\0\0\0\x01_pq_.thing\0"))), "{first}");
}

#[tokio::test]
async fn bad_beginnings_are_refused() {
    let server = Running::start().await;
    for (bytes, wanted) in [
        (
            startup(131_072, &[("user", "raw")]),
            "E(FATAL; 0A000; unsupported frontend protocol 2.0: server supports 3.0)",
        ),
        (startup(196_608, &[]), "E(FATAL; 28000; no PostgreSQL user name specified in startup packet)"),
        (
            startup(196_608, &[("user", "u"), ("client_encoding", "LATIN1")]),
            "E(FATAL; 22023; invalid value for parameter \"client_encoding\": \"LATIN1\")",
        ),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "E(FATAL; 08P01; invalid length of startup packet)"),
    ] {
        let mut raw = Raw { stream: server.raw().await };
        raw.send(&[bytes]).await;
        assert_eq!(raw.until_ready().await, wanted);
    }
}

#[tokio::test]
async fn a_simple_query_byte_by_byte() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    for byte in query("numbers 2; notice; insert") {
        raw.send(&[vec![byte]]).await;
    }
    assert_eq!(
        raw.until_ready().await,
        "T(n:20:0 t:25:0) D(0|row 0) D(1|row 1) C(SELECT 2) \
         N(WARNING; 01000; look out) C(NOTICE) C(INSERT 0) Z(I)"
    );
    assert_eq!(raw.exchange(&[query(" ; ")]).await, "I() Z(I)");
    assert_eq!(
        raw.exchange(&[query("insert; oops")]).await,
        "E(ERROR; 42601; syntax error at or near \"oops\"; 9) Z(I)"
    );
    assert_eq!(raw.exchange(&[query("begin; fail; insert")]).await, "C(BEGIN) E(ERROR; 22023; failed; 6) Z(E)");
    assert_eq!(raw.exchange(&[query("rollback")]).await, "C(ROLLBACK) Z(I)");
    let changed = raw.exchange(&[query("set_timeout 60000")]).await;
    assert_eq!(changed, format!("C(SET) S({}) Z(I)", hex(b"application_name\0changed\0")));
}

#[tokio::test]
async fn the_extended_protocol_in_order() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    let all = raw
        .exchange(&[
            parse("s", "echo integer, numeric(10,2)"),
            describe(b'S', "s"),
            bind("p", "s", &[Some(" 42 "), Some("-1.5")], &[1, 0]),
            describe(b'P', "p"),
            execute("p", 0),
            execute("p", 0),
            message(b'C', b"Pp\0"),
            message(b'C', b"Snone\0"),
            sync(),
        ])
        .await;
    let parameters = hex(&[0, 2, 0, 0, 0, 23, 0, 0, 6, 164]);
    assert_eq!(
        all,
        format!(
            "1() t({parameters}) T(c1:23:0 c2:1700:0) 2() T(c1:23:1 c2:1700:0) D(0000002a|-1.50) C(SELECT 1) \
             C(SELECT 0) 3() 3() Z(I)"
        )
    );
    let empty = [parse("", ""), describe(b'S', ""), bind("", "", &[], &[]), describe(b'P', ""), execute("", 0), sync()];
    assert_eq!(raw.exchange(&empty).await, "1() t(0000) n() 2() n() I() Z(I)");
    let suspended = [parse("", "numbers 3"), bind("", "", &[], &[]), execute("", 2), execute("", 2), sync()];
    assert_eq!(raw.exchange(&suspended).await, "1() 2() D(0|row 0) D(1|row 1) s() D(2|row 2) C(SELECT 1) Z(I)");
    // Outside a block a portal ends with its Sync.
    assert_eq!(raw.exchange(&[execute("", 0), sync()]).await, "E(ERROR; 34000; portal \"\" does not exist) Z(I)");
    assert_eq!(raw.exchange(&[query("deallocate s")]).await, "C(DEALLOCATE) Z(I)");
    assert_eq!(
        raw.exchange(&[query("deallocate s")]).await,
        "E(ERROR; 26000; prepared statement \"s\" does not exist) Z(I)"
    );
}

#[tokio::test]
async fn after_an_error_all_is_skipped_to_sync() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    let all =
        raw.exchange(&[parse("", "unknown"), bind("", "", &[], &[]), execute("", 0), query("numbers 1"), sync()]).await;
    assert_eq!(all, "E(ERROR; 42P01; relation \"unknown\" does not exist; 1) Z(I)");
    for (messages, wanted) in [
        (vec![parse("", "insert; insert")], "42601; cannot insert multiple commands into a prepared statement"),
        (vec![bind("", "none", &[], &[])], "26000; prepared statement \"none\" does not exist"),
        (
            vec![parse("", "echo integer"), bind("", "", &[], &[])],
            "08P01; bind message supplies 0 parameters, but prepared statement \"\" requires 1",
        ),
        (
            vec![parse("", "echo integer"), bind("", "", &[Some("4x")], &[])],
            "22P02; invalid input syntax for type integer: \"4x\"",
        ),
        (
            vec![parse("", "numbers 1"), bind("", "", &[], &[0, 0, 0])],
            "08P01; bind message has 3 result formats but query has 2 columns",
        ),
        (vec![parse("", "numbers 1"), bind("", "", &[], &[2])], "22023; unsupported format code: 2"),
        (vec![execute("none", 0)], "34000; portal \"none\" does not exist"),
    ] {
        let all = raw.exchange(&[messages.concat(), sync()]).await;
        assert!(all.ends_with(&format!("E(ERROR; {wanted}) Z(I)")), "{all}");
    }
    assert_eq!(raw.exchange(&[parse("s", "insert"), parse("s", "insert"), sync()]).await.matches("42P05").count(), 1);
    assert_eq!(raw.exchange(&[message(b'F', &[0; 10])]).await.matches("0A000").count(), 1);
    assert_eq!(raw.exchange(&[query("numbers 1")]).await, "T(n:20:0 t:25:0) D(0|row 0) C(SELECT 1) Z(I)");
}

#[tokio::test]
async fn flush_answers_before_sync() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    raw.send(&[parse("", "numbers 1"), message(b'H', b"")]).await;
    assert_eq!(raw.next().await, Some((b'1', vec![])));
    assert_eq!(raw.exchange(&[sync()]).await, "Z(I)");
}

#[tokio::test]
async fn broken_messages_end_the_connection_with_a_reason() {
    let server = Running::start().await;
    for (bytes, wanted) in [
        (message(b'y', b""), "08P01; invalid frontend message type 121"),
        (vec![b'Q', 0, 0, 0, 3], "08P01; invalid length 3 of message 'Q'"),
        (vec![b'Q', 0xff, 0, 0, 0], "08P01; invalid length 4278190080 of message 'Q'"),
        // Counts that promise more than there is.
        (message(b'B', b"\0\0\0\0\x7f\xff\0\0"), "08P01; malformed message 'B'"),
        (message(b'B', b"\0\0\0\0\0\x01\0\0\xff\xff\0\0"), "08P01; malformed message 'B'"),
        (message(b'P', b"\0x\0\0\x09"), "08P01; malformed message 'P'"),
        (message(b'E', b"\0"), "08P01; malformed message 'E'"),
        (message(b'Q', b"numbers \xff\0"), "22021; invalid byte sequence for encoding \"UTF8\": 0xff"),
        (message(b'p', b"secret\0"), "08P01; unexpected password message"),
        (message(b'D', b"X\0"), "08P01; invalid DESCRIBE message subtype 88"),
    ] {
        let mut raw = Raw::start(&server).await;
        raw.send(&[bytes]).await;
        assert_eq!(raw.until_ready().await, format!("E(FATAL; {wanted})"));
    }
    let mut raw = Raw::start(&server).await;
    raw.send(&[message(b'X', b"")]).await;
    assert_eq!(raw.until_ready().await, "");
}

#[tokio::test]
async fn a_stream_that_waits_sends_what_it_has() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    raw.send(&[query("hang")]).await;
    let mut seen = String::new();
    for _ in 0..4 {
        seen.push(char::from(raw.next().await.unwrap().0));
    }
    assert_eq!(seen, "TDDD");
}

#[tokio::test]
async fn copy_data_after_a_failed_copy_is_ignored() {
    let server = Running::start().await;
    let mut raw = Raw::start(&server).await;
    raw.send(&[query("copy_in 2")]).await;
    assert_eq!(raw.next().await.unwrap(), (b'G', vec![0, 0, 2, 0, 0, 0, 0]));
    let data = || message(b'd', b"12345");
    assert_eq!(raw.exchange(&[data(), data()]).await, "E(ERROR; 22P04; too much data) Z(I)");
    raw.send(&[data(), message(b'c', b"")]).await;
    assert_eq!(raw.exchange(&[query("insert")]).await, "C(INSERT 0) Z(I)");
    raw.send(&[query("copy_in 100"), data(), message(b'f', b"changed my mind\0")]).await;
    raw.next().await.unwrap();
    assert_eq!(raw.until_ready().await, "E(ERROR; 57014; COPY from stdin failed: changed my mind) Z(I)");
}
