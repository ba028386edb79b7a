//! The REST API of a schema registry: schemas by number and by subject, and new ones.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use millstream_catalog::object::SchemaText;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::{ConnectorError, Result, sqlstate};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Schemas that one schema may refer to, and they to others.
const REFERENCES_MAX: usize = 200;

/// A registry, at one address or several that stand for the same.
pub(crate) struct Client {
    agent: Agent,
    urls: Vec<String>,
    /// The address that answered last.
    current: AtomicUsize,
    authorization: Option<String>,
}

/// Why a registry gave no answer of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RegistryError {
    /// It cannot be reached, or is in trouble itself: to be tried again.
    Unavailable(String),
    /// It does not know what was asked for.
    Unknown(String),
    /// It refuses: credentials, or a schema that is not compatible.
    Refused { denied: bool, message: String },
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(text) | Self::Unknown(text) | Self::Refused { message: text, .. } => f.write_str(text),
        }
    }
}

impl From<RegistryError> for ConnectorError {
    fn from(error: RegistryError) -> Self {
        let (code, hint) = match &error {
            RegistryError::Unavailable(_) => (sqlstate::CANNOT_CONNECT, "check schema.registry"),
            RegistryError::Unknown(_) => {
                (sqlstate::UNDEFINED_OBJECT, "register a schema first, or check the topic and the name strategy")
            }
            RegistryError::Refused { denied: true, .. } => {
                (sqlstate::INVALID_AUTHORIZATION, "check schema.registry.username and schema.registry.password")
            }
            RegistryError::Refused { .. } => {
                (sqlstate::INVALID_PARAMETER_VALUE, "the subject's compatibility level decides which schemas it takes")
            }
        };
        Self::new(code, error.to_string()).with_hint(hint)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schema registry {}", self.urls.join(","))
    }
}

impl Client {
    /// Of addresses with commas between them; certificates of a PEM file in the place of the public authorities'.
    ///
    /// # Errors
    /// 22023 for what is no address, 58P01 and 58030 for certificates that cannot be read.
    pub fn new(urls: &str, credentials: Option<(String, String)>, ca: Option<&str>) -> Result<Self> {
        let urls: Vec<String> = urls.split(',').map(|u| u.trim().trim_end_matches('/').to_string()).collect();
        for url in &urls {
            let rest = url.strip_prefix("http://").or(url.strip_prefix("https://")).unwrap_or("");
            if rest.is_empty() || rest.contains(['@', ' ', '?', '#']) || url.parse::<ureq::http::Uri>().is_err() {
                return Err(ConnectorError::option(format!("option \"schema.registry\" is no address: \"{url}\""))
                    .with_hint("write 'http://host:8081' or 'https://host', several with commas between them"));
            }
        }
        let mut config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .user_agent("millstream");
        if let Some(path) = ca {
            config = config.tls_config(TlsConfig::builder().root_certs(certificates(path)?).build());
        }
        let authorization = credentials
            .map(|(name, password)| format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}"))));
        Ok(Self { agent: config.build().into(), urls, current: AtomicUsize::new(0), authorization })
    }

    /// The schema of a number, with all that it refers to.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn schema(&self, id: u32) -> Result<SchemaText, RegistryError> {
        let answer = self.get(&format!("/schemas/ids/{id}"), &|| format!("schema id {id}"))?;
        self.text(&answer)
    }

    /// The newest schema of a subject, with all that it refers to, and its number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn latest(&self, subject: &str) -> Result<(u32, SchemaText), RegistryError> {
        let path = format!("/subjects/{}/versions/latest", escaped(subject));
        let answer = self.get(&path, &|| format!("subject \"{subject}\""))?;
        let id = number(&answer, "id").ok_or_else(|| self.odd("it has no id"))?;
        Ok((id, self.text(&answer)?))
    }

    /// Registers a schema in Avro, or finds that it is there; its number.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, RegistryError> {
        let body = json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        let path = format!("/subjects/{}/versions", escaped(subject));
        let answer = self.ask(&path, Some(&body), &|| format!("subject \"{subject}\""))?;
        number(&answer, "id").ok_or_else(|| self.odd("it has no id"))
    }

    /// A schema's text of an answer, and those that it refers to, each after what it refers to itself.
    fn text(&self, answer: &Value) -> Result<SchemaText, RegistryError> {
        let text = answer["schema"].as_str().ok_or_else(|| self.odd("it has no schema"))?.to_string();
        let mut references: Vec<(String, String)> = Vec::new();
        self.collect(answer, &mut references, 0)?;
        Ok(SchemaText { text, references, is_base64: false })
    }

    fn collect(&self, answer: &Value, all: &mut Vec<(String, String)>, depth: usize) -> Result<(), RegistryError> {
        for reference in answer["references"].as_array().into_iter().flatten() {
            let part = |name: &str| reference[name].as_str().ok_or_else(|| self.odd("a reference is not complete"));
            let (name, subject) = (part("name")?, part("subject")?);
            if all.iter().any(|(n, _)| n == name) {
                continue;
            }
            if depth > 20 || all.len() >= REFERENCES_MAX {
                return Err(self.odd("too many references"));
            }
            let version = number(reference, "version").ok_or_else(|| self.odd("a reference has no version"))?;
            let path = format!("/subjects/{}/versions/{version}", escaped(subject));
            let referred = self.get(&path, &|| format!("version {version} of subject \"{subject}\""))?;
            self.collect(&referred, all, depth + 1)?;
            let text = referred["schema"].as_str().ok_or_else(|| self.odd("it has no schema"))?;
            all.push((name.to_string(), text.to_string()));
        }
        Ok(())
    }

    fn get(&self, path: &str, what: &dyn Fn() -> String) -> Result<Value, RegistryError> {
        self.ask(path, None, what)
    }

    /// Asks the address that answered last, then the others.
    fn ask(&self, path: &str, body: Option<&str>, what: &dyn Fn() -> String) -> Result<Value, RegistryError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut trouble = String::new();
        for i in 0..self.urls.len() {
            let at = (first + i) % self.urls.len();
            let url = &self.urls[at];
            let (status, text) = match self.call(&format!("{url}{path}"), body) {
                Ok(answer) => answer,
                Err(e) => {
                    trouble = format!("schema registry {url} cannot be reached: {e}");
                    continue;
                }
            };
            let answer: Option<Value> = serde_json::from_str(&text).ok();
            let message = || {
                let told = answer.as_ref().and_then(|a| a["message"].as_str());
                told.map(str::to_string).unwrap_or_else(|| format!("status {status}"))
            };
            // In trouble itself, or not to be asked so often: another one may do better.
            if status >= 500 || matches!(status, 408 | 429) {
                trouble = format!("schema registry {url} does not answer for {}: {}", what(), message());
                continue;
            }
            self.current.store(at, Ordering::Relaxed);
            return match status {
                200..=299 => answer.ok_or_else(|| self.odd("it is no JSON")),
                404 => Err(RegistryError::Unknown(format!("schema registry {url} has no {}: {}", what(), message()))),
                401 | 403 => Err(RegistryError::Refused {
                    denied: true,
                    message: format!("schema registry {url} refused the credentials: {}", message()),
                }),
                _ => Err(RegistryError::Refused {
                    denied: false,
                    message: format!("schema registry {url} refused {}: {}", what(), message()),
                }),
            };
        }
        Err(RegistryError::Unavailable(trouble))
    }

    fn call(&self, url: &str, body: Option<&str>) -> Result<(u16, String), ureq::Error> {
        let authorization = self.authorization.as_deref();
        let mut response = match body {
            None => {
                let request = self.agent.get(url).header("Accept", CONTENT_TYPE);
                match authorization {
                    Some(value) => request.header("Authorization", value).call()?,
                    None => request.call()?,
                }
            }
            Some(body) => {
                let request = self.agent.post(url).header("Accept", CONTENT_TYPE).header("Content-Type", CONTENT_TYPE);
                match authorization {
                    Some(value) => request.header("Authorization", value).send(body)?,
                    None => request.send(body)?,
                }
            }
        };
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_string()?))
    }

    /// An answer that is none: whoever is at the address, it may be a registry later.
    fn odd(&self, why: &str) -> RegistryError {
        let url = &self.urls[self.current.load(Ordering::Relaxed) % self.urls.len()];
        RegistryError::Unavailable(format!("schema registry {url} gave an answer that cannot be read: {why}"))
    }
}

fn number(value: &Value, name: &str) -> Option<u32> {
    value[name].as_u64().and_then(|n| u32::try_from(n).ok())
}

/// A subject as a part of a path.
fn escaped(subject: &str) -> String {
    let mut out = String::with_capacity(subject.len());
    for b in subject.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(b as char),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

/// The certificates of a PEM file.
fn certificates(path: &str) -> Result<RootCerts> {
    let failed = |code, e: &dyn fmt::Display| {
        let error = format!("option \"schema.registry.ca.location\": file \"{path}\" cannot be read: {e}");
        ConnectorError::new(code, error).with_hint("it is a file of PEM certificates on the server")
    };
    let pem = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => failed(sqlstate::UNDEFINED_FILE, &e),
        _ => failed(sqlstate::IO_ERROR, &e),
    })?;
    let mut all = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let ureq::tls::PemItem::Certificate(certificate) =
            item.map_err(|e| failed(sqlstate::INVALID_PARAMETER_VALUE, &e))?
        {
            all.push(certificate);
        }
    }
    match all.is_empty() {
        true => Err(failed(sqlstate::INVALID_PARAMETER_VALUE, &"it has no certificate")),
        false => Ok(RootCerts::from(all.into_iter().collect::<Vec<Certificate<'static>>>())),
    }
}
