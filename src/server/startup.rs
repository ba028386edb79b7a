//! The start of a connection: encryption requests, cancel requests, the start-up packet, and what the server says first.

use std::collections::BTreeMap;

use bytes::{Buf, BytesMut};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, SecretKey, Startup};
use pgwire::messages::{DecodeContext, Message, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};

use super::cancel::{Registration, Registry};
use super::message::{put, put_parameter_status};
use super::socket::{Disconnect, Socket, StartupPacket, protocol_violation};
use crate::error::{Error, sqlstate};

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_ENCRYPTION_REQUEST: u32 = 80_877_104;
const INVALID_AUTHORIZATION: &str = "28000";

/// What `server_version` says; the major version decides which catalog queries psql sends.
pub const SERVER_VERSION: &str = concat!("15.0 (Millstream ", env!("CARGO_PKG_VERSION"), ")");

/// The start-up packet's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub user: String,
    pub database: String,
    /// Settings by lower-case name, from the packet and its `options`.
    pub settings: BTreeMap<String, String>,
}

/// What a client begins with.
pub enum Request {
    Session(Greeting),
    /// It was told that it may encrypt, and begins to.
    Encrypt,
}

/// Answers encryption requests until the start-up packet comes. `None`: the client left, or only cancelled another
/// connection's statement.
pub async fn greet<S>(
    socket: &mut Socket<S>,
    registry: &Registry,
    encrypts: bool,
) -> Result<Option<Request>, Disconnect>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        let Some(packet) = socket.startup_packet().await? else { return Ok(None) };
        match packet.code() {
            SSL_REQUEST if encrypts => {
                // What comes before the answer was not meant to be encrypted, and could be anybody's.
                if socket.has_input() {
                    return Err(Disconnect::Protocol(protocol_violation(
                        "received unencrypted data after SSL request",
                    )));
                }
                socket.output.extend_from_slice(b"S");
                socket.flush().await?;
                return Ok(Some(Request::Encrypt));
            }
            SSL_REQUEST | GSS_ENCRYPTION_REQUEST => socket.output.extend_from_slice(b"N"),
            CANCEL_REQUEST => {
                let mut body = &packet.bytes[8..];
                if body.len() >= 8 {
                    registry.cancel(body.get_i32(), body.get_i32());
                }
                return Ok(None);
            }
            code if code >> 16 == 3 => {
                return read_startup(packet, &mut socket.output).map(|greeting| Some(Request::Session(greeting)));
            }
            code => {
                return Err(Disconnect::Protocol(Error::unsupported(format!(
                    "unsupported frontend protocol {}.{}: server supports 3.0",
                    code >> 16,
                    code & 0xffff
                ))));
            }
        }
    }
}

fn read_startup(mut packet: StartupPacket, out: &mut BytesMut) -> Result<Greeting, Disconnect> {
    let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    let startup = match Startup::decode(&mut packet.bytes, &context) {
        Ok(Some(startup)) => startup,
        Ok(None) | Err(_) => return Err(Disconnect::Protocol(protocol_violation("invalid startup packet layout"))),
    };
    let mut parameters = startup.parameters;
    let unknown: Vec<String> = parameters.keys().filter(|k| k.starts_with("_pq_.")).cloned().collect();
    if startup.protocol_number_minor > 0 || !unknown.is_empty() {
        parameters.retain(|name, _| !name.starts_with("_pq_."));
        put(out, &NegotiateProtocolVersion::new(ProtocolVersion::PROTOCOL3_0.into(), unknown));
    }
    let user = parameters.remove("user").filter(|u| !u.is_empty()).ok_or_else(|| {
        Disconnect::Protocol(Error::new(INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet"))
    })?;
    let database = parameters.remove("database").filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone());
    if parameters.remove("replication").is_some_and(|r| !matches!(r.as_str(), "false" | "off" | "no" | "0")) {
        return Err(Disconnect::Protocol(Error::unsupported("replication connections are not supported")));
    }
    let mut settings = match parameters.remove("options") {
        Some(options) => read_options(&options).map_err(Disconnect::Protocol)?,
        None => BTreeMap::new(),
    };
    settings.extend(parameters.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)));
    if let Some(encoding) = settings.remove("client_encoding") {
        check_encoding(&encoding).map_err(Disconnect::Protocol)?;
    }
    Ok(Greeting { user, database, settings })
}

/// `-c name=value --name=value`, words split at blanks, a backslash quoting the next character.
fn read_options(options: &str) -> Result<BTreeMap<String, String>, Error> {
    let mut words = vec![String::new()];
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match (c, words.last_mut()) {
            ('\\', Some(word)) => word.extend(chars.next()),
            (c, Some(word)) if !c.is_ascii_whitespace() => word.push(c),
            _ => words.push(String::new()),
        }
    }
    let mut settings = BTreeMap::new();
    let mut words = words.into_iter().filter(|w| !w.is_empty());
    while let Some(word) = words.next() {
        let assignment = match (word.as_str(), word.strip_prefix("-c"), word.strip_prefix("--")) {
            ("-c", _, _) => words.next().unwrap_or_default(),
            (_, Some(rest), _) | (_, None, Some(rest)) => rest.to_string(),
            _ => return Err(bad_options(&word)),
        };
        let (name, value) = assignment.split_once('=').ok_or_else(|| bad_options(&assignment))?;
        settings.insert(name.to_ascii_lowercase().replace('-', "_"), value.to_string());
    }
    Ok(settings)
}

fn bad_options(word: &str) -> Error {
    Error::new(sqlstate::SYNTAX_ERROR, format!("invalid command-line argument for server process: {word}"))
        .with_hint("options are given as -c name=value")
}

/// Text is UTF-8 on both sides.
fn check_encoding(encoding: &str) -> Result<(), Error> {
    let plain: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    match plain.to_ascii_lowercase().as_str() {
        "utf8" | "unicode" => Ok(()),
        _ => Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"client_encoding\": \"{encoding}\""),
        )
        .with_hint("the server speaks UTF8 only")),
    }
}

/// Authentication is done; settings that clients follow, and the key for cancel requests. `changed` are the session's
/// own values, which win.
pub fn welcome(out: &mut BytesMut, greeting: &Greeting, registration: &Registration, changed: Vec<(String, String)>) {
    put(out, &Authentication::Ok);
    let mut statuses = BTreeMap::from([
        ("application_name".to_string(), greeting.settings.get("application_name").cloned().unwrap_or_default()),
        ("client_encoding".into(), "UTF8".into()),
        ("DateStyle".into(), "ISO, MDY".into()),
        ("default_transaction_read_only".into(), "off".into()),
        ("in_hot_standby".into(), "off".into()),
        ("integer_datetimes".into(), "on".into()),
        ("IntervalStyle".into(), "postgres".into()),
        ("server_encoding".into(), "UTF8".into()),
        ("server_version".into(), SERVER_VERSION.to_string()),
        ("standard_conforming_strings".into(), "on".into()),
        ("TimeZone".into(), "UTC".into()),
    ]);
    statuses.extend(changed);
    for (name, value) in &statuses {
        put_parameter_status(out, name, value);
    }
    put(out, &BackendKeyData::new(registration.process_id, SecretKey::I32(registration.secret)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_apart() {
        let settings = read_options(r"-c search_path=a,\ b --statement-timeout=5s -cTimeZone=UTC").unwrap();
        let wanted = [("search_path", "a, b"), ("statement_timeout", "5s"), ("timezone", "UTC")];
        assert_eq!(settings, wanted.into_iter().map(|(n, v)| (n.to_string(), v.to_string())).collect());
        assert!(read_options("-d 5").is_err());
        assert!(read_options("-c nothing").is_err());
    }

    #[test]
    fn only_utf8_is_spoken() {
        for encoding in ["UTF8", "utf-8", "'utf-8'", "UNICODE"] {
            assert!(check_encoding(encoding).is_ok(), "{encoding}");
        }
        assert!(check_encoding("LATIN1").is_err());
    }
}
