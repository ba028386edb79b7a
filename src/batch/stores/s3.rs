//! Secrets of type `s3`: their options, checked, and the buckets that they open.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_catalog::object::Secret;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use crate::error::{Error, Result, sqlstate};

/// What a secret may say beside its type and scope.
const OPTIONS: &[&str] = &["key_id", "secret", "session_token", "region", "endpoint", "url_style", "allow_http"];

/// Longest time until a server takes a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time of one request; what is read by one is some MiB at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A request that failed is tried so many times more, and no more after so long: a server that is away is an error within
/// seconds, one that restarts is not.
const RETRIES_MAX: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a bucket is opened.
#[derive(Clone, PartialEq)]
pub struct S3 {
    key_id: Option<String>,
    secret: Option<String>,
    session_token: Option<String>,
    region: String,
    /// Without the slash at its end; `None`: Amazon's own.
    endpoint: Option<String>,
    /// Whether the bucket is a part of the path, not of the host's name.
    path_style: bool,
    allow_http: bool,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("region", &self.region).field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl S3 {
    /// Checks a secret's type, scope and options. Errors show no value but those that are no secrets.
    ///
    /// # Errors
    /// 22023 for another type, an unknown option, a value that an option cannot have, half of a pair of keys, an address
    /// without encryption that `allow_http` does not allow.
    pub fn new(name: &str, secret: &Secret) -> Result<Self> {
        let wrong = |message: String| Error::new(sqlstate::INVALID_PARAMETER_VALUE, message);
        if secret.secret_type != "s3" {
            return Err(wrong(format!("secret \"{name}\": unknown type \"{}\"", secret.secret_type))
                .with_hint("the types are: s3"));
        }
        if let Some(unknown) = secret.options.keys().find(|key| !OPTIONS.contains(&key.as_str())) {
            return Err(wrong(format!("secret \"{name}\": unknown option \"{unknown}\""))
                .with_hint(format!("known options are type, scope, {}", OPTIONS.join(", "))));
        }
        if let Some(scope) = secret.scope.as_deref().filter(|scope| !is_scope(scope)) {
            return Err(wrong(format!("secret \"{name}\": scope \"{scope}\" is no place in S3"))
                .with_hint("write scope = 's3://bucket/' or 's3://bucket/folder/'"));
        }
        let option = |key: &str| secret.options.get(key).cloned().filter(|value| !value.is_empty());
        let (key_id, secret_key) = (option("key_id"), option("secret"));
        if key_id.is_some() != secret_key.is_some() {
            return Err(wrong(format!("secret \"{name}\" needs both key_id and secret, or neither"))
                .with_hint("with neither, requests are not signed: for buckets that everybody may read"));
        }
        let allow_http = match option("allow_http").map(|v| v.to_lowercase()).as_deref() {
            None | Some("false" | "off" | "0" | "no") => false,
            Some("true" | "on" | "1" | "yes") => true,
            Some(other) => {
                return Err(wrong(format!("secret \"{name}\": invalid value \"{other}\" for option \"allow_http\""))
                    .with_hint("it is true or false"));
            }
        };
        let endpoint = option("endpoint").map(|e| e.trim_end_matches('/').to_string());
        match endpoint.as_deref().map(|e| e.split_once("://")) {
            None | Some(Some(("https", _))) => {}
            Some(Some(("http", _))) if allow_http => {}
            Some(Some(("http", _))) => {
                return Err(wrong(format!("secret \"{name}\": the endpoint is not encrypted"))
                    .with_hint("use https://, or allow_http = true"));
            }
            Some(_) => {
                return Err(wrong(format!("secret \"{name}\": the endpoint is no URL"))
                    .with_hint("write https://host or https://host:port"));
            }
        }
        let path_style = match option("url_style").map(|v| v.to_lowercase()).as_deref() {
            None => endpoint.is_some(),
            Some("path") => true,
            Some("vhost") => false,
            Some(other) => {
                return Err(wrong(format!("secret \"{name}\": invalid value \"{other}\" for option \"url_style\""))
                    .with_hint("it is path or vhost"));
            }
        };
        Ok(Self {
            key_id,
            secret: secret_key,
            session_token: option("session_token"),
            region: option("region").unwrap_or_else(|| "us-east-1".into()),
            endpoint,
            path_style,
            allow_http,
        })
    }

    /// The server's address, for messages.
    pub fn address(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region))
    }

    /// A client of the bucket; nothing is asked of it yet.
    ///
    /// # Errors
    /// 22023 for settings that the client refuses.
    pub fn open(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        let client = ClientOptions::new()
            .with_allow_http(self.allow_http)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT);
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(&self.region)
            .with_virtual_hosted_style_request(!self.path_style)
            .with_retry(RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT })
            .with_client_options(client);
        builder = match (&self.endpoint, self.path_style) {
            (None, _) => builder,
            (Some(endpoint), true) => builder.with_endpoint(endpoint),
            // The client wants the bucket in the address then.
            (Some(endpoint), false) => builder.with_endpoint(endpoint.replacen("://", &format!("://{bucket}."), 1)),
        };
        builder = match (&self.key_id, &self.secret) {
            (Some(key_id), Some(secret)) => builder.with_access_key_id(key_id).with_secret_access_key(secret),
            _ => builder.with_skip_signature(true),
        };
        if let Some(token) = &self.session_token {
            builder = builder.with_token(token);
        }
        let store = builder.build().map_err(|e| {
            let message = format!("bucket \"{bucket}\" cannot be opened: {e}");
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).with_hint("check the options of its secret")
        })?;
        Ok(Arc::new(store))
    }
}

/// Whether a text is an S3 URL with a bucket.
fn is_scope(scope: &str) -> bool {
    scope.strip_prefix("s3://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

/// Whether a URL is a scope or below it.
pub fn is_within(location: &str, scope: &str) -> bool {
    let rest = location.strip_prefix(scope.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(options: &[(&str, &str)]) -> String {
        let secret = Secret {
            secret_type: "s3".into(),
            scope: None,
            options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        };
        let error = S3::new("s", &secret).unwrap_err();
        assert_eq!(error.sqlstate(), "22023");
        error.message().to_string()
    }

    #[test]
    fn wrong_secrets_are_refused_without_their_values() {
        assert_eq!(refused(&[("key_id", "hunter2")]), "secret \"s\" needs both key_id and secret, or neither");
        assert_eq!(refused(&[("keyid", "hunter2")]), "secret \"s\": unknown option \"keyid\"");
        assert_eq!(refused(&[("endpoint", "http://h")]), "secret \"s\": the endpoint is not encrypted");
        assert_eq!(refused(&[("endpoint", "h:9000")]), "secret \"s\": the endpoint is no URL");
        assert_eq!(refused(&[("url_style", "x")]), "secret \"s\": invalid value \"x\" for option \"url_style\"");
    }
}
