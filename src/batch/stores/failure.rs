//! What went wrong with a store, in our words: what was asked of whom, what it said, what to do.
//!
//! An object store's own error holds the whole request and answer. Of these only the code and the message are told, for the
//! rest may hold what a secret is made of.

use std::error::Error as StdError;

use datafusion::object_store;
use datafusion::object_store::path::Path;

use crate::error::{Error, sqlstate};

/// Whose answer it is.
#[derive(Debug, Clone)]
pub struct Place {
    pub bucket: String,
    /// The server's address.
    pub endpoint: String,
    /// Name of the secret that opened it.
    pub secret: Option<String>,
}

impl Place {
    /// Our error for one of a request about `key`, which is empty for the bucket itself.
    pub fn error(&self, key: &str, error: &object_store::Error) -> Error {
        let name = format!("s3://{}/{key}", self.bucket);
        let text = chain(error);
        let code = tag(&text, "Code");
        let said = match (code, tag(&text, "Message")) {
            (Some(code), Some(message)) => format!(": {code}: {message}"),
            (Some(code), None) => format!(": {code}"),
            _ => String::new(),
        };
        let secret = self.secret.as_deref().unwrap_or_default();
        if code == Some("NoSuchBucket") {
            let message = format!("bucket \"{}\" does not exist at {}", self.bucket, self.endpoint);
            return Error::new(sqlstate::UNDEFINED_FILE, message)
                .with_hint(format!("check the location, and the endpoint and region of secret \"{secret}\""));
        }
        let denied = [
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "InvalidToken",
            "AccountProblem",
            "AllAccessDisabled",
        ];
        let is_denied =
            matches!(error, object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. })
                || code.is_some_and(|code| denied.contains(&code))
                || text.contains("403 Forbidden")
                || text.contains("401 Unauthorized");
        if is_denied {
            return Error::new("42501", format!("access to \"{name}\" was denied{said}"))
                .with_hint(format!("check key_id and secret of secret \"{secret}\", and what they may do"));
        }
        match error {
            object_store::Error::NotFound { .. } => {
                Error::new(sqlstate::UNDEFINED_FILE, format!("file \"{name}\" does not exist"))
            }
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                Error::new(DUPLICATE_FILE, format!("file \"{name}\" was written by another at the same time{said}"))
                    .with_hint("run the statement again")
            }
            _ if said.is_empty() && is_away(&text) => {
                let message = format!("bucket \"{}\" at {} cannot be reached", self.bucket, self.endpoint);
                Error::new(sqlstate::CONNECTION_FAILURE, message)
                    .with_detail(last_cause(error))
                    .with_hint(format!("is its server up? The address is the endpoint of secret \"{secret}\""))
            }
            _ if said.is_empty() => Error::new(sqlstate::IO_ERROR, format!("\"{name}\" failed at {}", self.endpoint))
                .with_detail(last_cause(error)),
            _ => Error::new(sqlstate::IO_ERROR, format!("\"{name}\" failed at {}{said}", self.endpoint)),
        }
    }
}

/// PostgreSQL's `duplicate_file`.
pub const DUPLICATE_FILE: &str = "58P02";

/// Our error for one of a store, on its way through one of the same kind: who writes only what is not there yet, or looks
/// whether something is, goes by the kind.
pub fn wrapped(key: &Path, kind: &object_store::Error, ours: Error) -> object_store::Error {
    let (path, source) = (key.to_string(), Box::new(ours));
    match kind {
        object_store::Error::NotFound { .. } => object_store::Error::NotFound { path, source },
        object_store::Error::AlreadyExists { .. } => object_store::Error::AlreadyExists { path, source },
        object_store::Error::Precondition { .. } => object_store::Error::Precondition { path, source },
        object_store::Error::NotModified { .. } => object_store::Error::NotModified { path, source },
        _ => object_store::Error::Generic { store: "S3", source },
    }
}

/// All that an error and what caused it say.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push('\n');
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// What is at the bottom of it, in one line that holds no answer of the server.
fn last_cause(error: &dyn StdError) -> String {
    let mut last = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        last = cause.to_string();
        next = cause.source();
    }
    let line = last.lines().next().unwrap_or_default();
    // An answer that is no known one: its status is enough.
    line.split('<').next().unwrap_or(line).trim_end_matches([':', ' ']).chars().take(300).collect()
}

/// Whether the server did not answer, or not as one does that is well.
fn is_away(text: &str) -> bool {
    const SIGNS: [&str; 12] = [
        "error sending request",
        "Connection refused",
        "connection closed",
        "Connection reset",
        "connection error",
        "tcp connect error",
        "dns error",
        "operation timed out",
        "error reading a body",
        "error decoding response body",
        "503 Service Unavailable",
        "HTTP error",
    ];
    SIGNS.iter().any(|sign| text.contains(sign))
}

/// What stands in an element of a server's XML.
fn tag<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once("</")?;
    (!inner.is_empty() && inner.len() < 500).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { bucket: "b".into(), endpoint: "http://h".into(), secret: Some("s".into()) }
    }

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn the_code_and_the_message_are_told_and_no_more() {
        let answer = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                      <Message>they differ</Message><StringToSign>hunter2</StringToSign></Error>";
        let error = place().error("k", &generic(answer));
        assert_eq!(error.sqlstate(), "42501");
        assert_eq!(error.message(), "access to \"s3://b/k\" was denied: SignatureDoesNotMatch: they differ");
        assert!(!format!("{error:?}").contains("hunter2"));
        let error = place().error("", &generic("<Code>NoSuchBucket</Code>"));
        assert_eq!((error.sqlstate(), error.message()), ("58P01", "bucket \"b\" does not exist at http://h"));
        let error = place().error("k", &generic("tcp connect error: Connection refused (os error 111)"));
        assert_eq!((error.sqlstate(), error.message()), ("08006", "bucket \"b\" at http://h cannot be reached"));
        let error = place().error("k", &generic("status 500 <html>hunter2</html>"));
        assert_eq!((error.sqlstate(), error.detail()), ("58030", Some("status 500")));
    }

    #[test]
    fn our_error_is_found_again() {
        let key = Path::from("k");
        let found = wrapped(&key, &generic("x"), Error::new("42501", "no"));
        assert_eq!(Error::inside(&found).unwrap().sqlstate(), "42501");
        let gone = object_store::Error::NotFound { path: "k".into(), source: "gone".into() };
        let found = wrapped(&key, &gone, Error::new("58P01", "no"));
        assert!(matches!(&found, object_store::Error::NotFound { path, .. } if path == "k"));
        assert_eq!(Error::inside(&found).unwrap().sqlstate(), "58P01");
    }
}
