//! Where files are: the one place that turns a location and a session's secrets into an object store.
//!
//! * [`Stores`]: what all statements share: the stores that are open, and how much went through them.
//! * [`Access`]: a statement's view of them, with the secrets of its catalog. Its [`Access::open`] is what everything that
//!   reads or writes files asks: external tables, `read_parquet` and kin, `COPY`.
//! * [`s3`]: buckets of S3 and of what speaks its protocol. `bucket`: one of them, whose errors say what was asked of whom.
//! * [`failure`]: what went wrong with a store, in our words.

mod bucket;
pub mod failure;
pub mod s3;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::object_store::ObjectStore;
use datafusion::object_store::path::Path;
use millstream_catalog::{Catalog, Object, ObjectId, Privilege};
use parking_lot::Mutex;

use self::bucket::Bucket;
use self::s3::S3;
use crate::error::{Error, Result, sqlstate};

/// Most buckets that are kept open; beyond it the one that was not used for longest is closed.
const OPEN_MAX: usize = 256;

/// What went through all stores since the server started.
#[derive(Debug, Default)]
pub struct Traffic {
    pub requests: AtomicU64,
    pub failures: AtomicU64,
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
}

impl Traffic {
    fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// The stores of one server.
#[derive(Debug)]
pub struct Stores {
    env: Arc<RuntimeEnv>,
    open: Mutex<Open>,
    traffic: Arc<Traffic>,
}

#[derive(Debug, Default)]
struct Open {
    /// Counts the buckets that were opened: part of the name that each has inside, for ever.
    opened: u64,
    /// Those in use, the one used last at the end.
    buckets: Vec<(Key, Store)>,
}

/// Two statements share a bucket if they would open it in the same way: a secret with other values opens another one.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    bucket: String,
    settings: S3,
}

/// A place that holds objects by path.
#[derive(Debug, Clone)]
pub struct Store {
    pub objects: Arc<dyn ObjectStore>,
    /// The same without the label: paths in it are keys.
    pub plain: Arc<dyn ObjectStore>,
    /// What DataFusion's scans find it by.
    pub url: ObjectStoreUrl,
    /// First segment of all paths in it, which no other store has: caches go by path alone. `None` for local files.
    label: Option<String>,
    /// `s3://bucket/`, or `/`.
    root: String,
}

impl Store {
    /// The object behind a key, as this store names it.
    ///
    /// # Errors
    /// 22023 for a key that no object can have.
    pub fn path(&self, key: &str) -> Result<Path> {
        let parsed = match &self.label {
            None => Path::parse(key),
            Some(label) if key.is_empty() => Path::parse(label),
            Some(label) => Path::parse(format!("{label}/{key}")),
        };
        parsed.map_err(|e| Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("\"{}{key}\": {e}", self.root)))
    }

    /// The key of an object; of a local file its path without the first slash.
    pub fn key<'a>(&self, path: &'a Path) -> &'a str {
        let path = path.as_ref();
        match &self.label {
            None => path,
            Some(label) => path.strip_prefix(label.as_str()).map_or(path, |key| key.trim_start_matches('/')),
        }
    }

    /// The whole name of an object for people: `s3://bucket/key`, or an absolute path.
    pub fn name(&self, path: &Path) -> String {
        format!("{}{}", self.root, self.key(path))
    }

    /// Whether its objects are files of this machine.
    pub fn is_local(&self) -> bool {
        self.label.is_none()
    }
}

impl Stores {
    /// No bucket is open.
    pub fn new(env: Arc<RuntimeEnv>) -> Self {
        // Two libraries for encryption are linked in, and who asks for one must say which: the first to say so decides.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { env, open: Mutex::default(), traffic: Arc::default() }
    }

    /// What went through them.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn local(&self) -> Result<Store> {
        let url = ObjectStoreUrl::local_filesystem();
        let objects = self.env.object_store(&url)?;
        Ok(Store { plain: objects.clone(), objects, url, label: None, root: "/".into() })
    }

    fn bucket(&self, secret: Option<&str>, bucket: &str, settings: S3) -> Result<Store> {
        let key = Key { bucket: bucket.into(), settings };
        let mut open = self.open.lock();
        if let Some(at) = open.buckets.iter().position(|(other, _)| *other == key) {
            let found = open.buckets.remove(at);
            let store = found.1.clone();
            open.buckets.push(found);
            return Ok(store);
        }
        if open.buckets.len() >= OPEN_MAX {
            let (_, oldest) = open.buckets.remove(0);
            // A statement that is about to read from it fails, as unlikely as that is; its next try does not.
            let _ = self.env.deregister_object_store(oldest.url.as_ref());
        }
        open.opened += 1;
        let number = open.opened;
        let label = format!("{bucket}@{number}");
        let objects = key.settings.open(bucket)?;
        let place = failure::Place {
            bucket: bucket.into(),
            endpoint: key.settings.address(),
            secret: secret.map(str::to_string),
        };
        let labelled = Bucket::new(objects, label.clone(), place, self.traffic.clone());
        let plain: Arc<dyn ObjectStore> = Arc::new(labelled.without_label());
        let objects: Arc<dyn ObjectStore> = Arc::new(labelled);
        let url = ObjectStoreUrl::parse(format!("s3-{number}://{bucket}"))?;
        self.env.register_object_store(url.as_ref(), objects.clone());
        let store = Store { objects, plain, url, label: Some(label), root: format!("s3://{bucket}/") };
        open.buckets.push((key, store.clone()));
        Ok(store)
    }
}

/// The stores as one statement may use them.
#[derive(Debug, Clone)]
pub struct Access {
    stores: Arc<Stores>,
    catalog: Arc<Catalog>,
    /// Whose secrets can be used; `None`: all.
    role: Option<String>,
}

impl Access {
    /// With the secrets of a catalog.
    pub fn new(stores: Arc<Stores>, catalog: Arc<Catalog>) -> Self {
        Self { stores, catalog, role: None }
    }

    /// The same with the secrets that a role may use.
    #[must_use]
    pub fn of_role(&self, role: &str) -> Self {
        Self { role: Some(role.to_string()), ..self.clone() }
    }

    fn may_use(&self, secret: &Object) -> bool {
        let role = self.role.as_deref();
        role.is_none_or(|role| self.catalog.privileges(role, secret).has(Privilege::Usage))
    }

    /// The store of a location and what is behind it there: a key that may be empty or end with a slash, or for local files
    /// the path as it is written. `secret` names the secret to open it with; without it the one with the longest scope that
    /// the location begins with is taken.
    ///
    /// # Errors
    /// 0A000 for a scheme that is not supported, 22023 for a malformed location, or secrets of equal right; 42704 if there is
    /// no secret for it that the role may use, 42501 if it may not use the named one.
    pub fn open<'a>(&self, location: &'a str, secret: Option<&str>) -> Result<(Store, &'a str)> {
        let unused = || match secret {
            None => Ok(()),
            Some(name) => Err(Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("secret \"{name}\" is not for \"{location}\", a local path"),
            )),
        };
        let (scheme, rest) = match location.split_once("://") {
            None => return unused().and(Ok((self.stores.local()?, location))),
            Some(("file", path)) => return unused().and(Ok((self.stores.local()?, path))),
            Some(parts) => parts,
        };
        if !matches!(scheme, "s3" | "s3a") {
            let error = format!("location \"{location}\": scheme \"{scheme}\" is not supported");
            return Err(Error::unsupported(error).with_hint("use a local path, file:// or s3://bucket/path"));
        }
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket_name(bucket) {
            let error = format!("location \"{location}\" names no bucket");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, error).with_hint("write s3://bucket/path"));
        }
        let plain = format!("s3://{rest}");
        let (name, settings) = match secret {
            Some(name) => self.named(name, location)?,
            None => self.found(&plain, location)?,
        };
        Ok((self.stores.bucket(Some(&name), bucket, settings)?, key))
    }

    fn named(&self, name: &str, location: &str) -> Result<(String, S3)> {
        let object = self.catalog.secret(name).map_err(|e| {
            let message = format!("secret \"{name}\" of \"{location}\" does not exist");
            Error::new(e.sqlstate(), message).with_hint("SHOW SECRETS lists them")
        })?;
        let millstream_catalog::ObjectKind::Secret(secret) = &object.kind else {
            return Err(Error::internal(format!("{} is no secret", object.describe())));
        };
        if !self.may_use(object) {
            let message = format!("permission denied for secret {}", object.name);
            return Err(Error::new("42501", message).with_hint("GRANT USAGE ON SECRET lets a role use it"));
        }
        Ok((object.name.clone(), S3::new(&object.name, secret)?))
    }

    /// The secret with the longest scope that a location begins with.
    fn found(&self, plain: &str, location: &str) -> Result<(String, S3)> {
        let mut best: Vec<(&str, usize, &millstream_catalog::object::Secret)> = Vec::new();
        for (object, secret) in self.catalog.secrets().filter(|(object, _)| self.may_use(object)) {
            let length = match &secret.scope {
                None => 0,
                Some(scope) if s3::is_within(plain, scope) => scope.trim_end_matches('/').len(),
                Some(_) => continue,
            };
            let longest = best.first().map_or(0, |(_, length, _)| *length);
            if best.is_empty() || length > longest {
                best = vec![(&object.name, length, secret)];
            } else if length == longest {
                best.push((&object.name, length, secret));
            }
        }
        match best.as_slice() {
            [] => Err(Error::new(sqlstate::UNDEFINED_OBJECT, format!("there is no secret for \"{location}\""))
                .with_hint("CREATE SECRET name WITH (type = 's3', key_id = '…', secret = '…', region = '…', scope = 's3://bucket/')")),
            [(name, _, secret)] => Ok(((*name).to_string(), S3::new(name, secret)?)),
            several => {
                let names: Vec<_> = several.iter().map(|(name, ..)| format!("\"{name}\"")).collect();
                let error = format!("secrets {} are equally for \"{location}\"", names.join(" and "));
                Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, error)
                    .with_hint("name one with the option secret, or give them different scopes"))
            }
        }
    }

    /// What an object's definition names as its secret, by the name of today.
    pub fn secret_of<'a>(
        &'a self,
        options: &'a BTreeMap<String, String>,
        references: &BTreeMap<String, ObjectId>,
    ) -> Option<&'a str> {
        let written = options.get(millstream_sql::SECRET_OPTION)?;
        let object = references.get(written).and_then(|id| self.catalog.get(*id));
        Some(object.map_or(written.as_str(), |object| object.name.as_str()))
    }
}

/// Whether a name can be a bucket's: what else it may not be is for its server to say.
fn is_bucket_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use millstream_catalog::object::Secret;
    use millstream_catalog::{Draft, ObjectKind};

    use super::*;

    fn access(secrets: &[(&str, Option<&str>)]) -> Access {
        let mut draft = Draft::new(&Catalog::new());
        for (name, scope) in secrets {
            let options =
                [("key_id", "k"), ("secret", "hunter2"), ("endpoint", "http://127.0.0.1:1"), ("allow_http", "true")];
            let id = draft.new_id();
            let secret = Secret {
                secret_type: "s3".into(),
                scope: scope.map(str::to_string),
                options: options.map(|(k, v)| (k.to_string(), v.to_string())).into(),
            };
            draft.create(Object::named(id, ObjectId::PUBLIC, name, ObjectKind::Secret(secret))).unwrap();
        }
        Access::new(Arc::new(Stores::new(Arc::default())), Arc::new(draft.finish().0))
    }

    #[test]
    fn the_longest_scope_wins() {
        let access = access(&[("all", None), ("b", Some("s3://b/")), ("deep", Some("s3://b/x/y"))]);
        let of = |location: &str| access.found(location, location).unwrap().0;
        assert_eq!(of("s3://a/x"), "all");
        assert_eq!(of("s3://b/x/yy"), "b");
        assert_eq!(of("s3://b/x/y/z"), "deep");
        assert_eq!(of("s3://bb/x"), "all");
    }

    #[test]
    fn what_is_not_said_is_not_guessed() {
        let one = access(&[("a", Some("s3://a/"))]);
        assert_eq!(one.open("s3://b/x", None).unwrap_err().sqlstate(), "42704");
        assert_eq!(one.open("s3://a/x", Some("z")).unwrap_err().sqlstate(), "42704");
        assert_eq!(one.open("/a/x", Some("a")).unwrap_err().sqlstate(), "22023");
        assert_eq!(one.open("gs://a/x", None).unwrap_err().sqlstate(), "0A000");
        assert_eq!(one.open("s3:///x", None).unwrap_err().sqlstate(), "22023");
        let two = access(&[("a", None), ("b", None)]);
        let error = two.open("s3://x/y", None).unwrap_err();
        assert_eq!(error.message(), "secrets \"a\" and \"b\" are equally for \"s3://x/y\"");
    }

    #[test]
    fn a_bucket_is_opened_once() {
        let access = access(&[("a", None)]);
        let (first, key) = access.open("s3://bucket/folder/x.csv", None).unwrap();
        let (second, _) = access.open("s3://bucket/other", Some("a")).unwrap();
        assert_eq!((first.url.as_str(), key), (second.url.as_str(), "folder/x.csv"));
        let (other, _) = access.open("s3://bucket2/", None).unwrap();
        assert_ne!(first.url.as_str(), other.url.as_str());
        let path = first.path(key).unwrap();
        assert_eq!((first.key(&path), first.name(&path).as_str()), ("folder/x.csv", "s3://bucket/folder/x.csv"));
        assert!(!format!("{:?}", access.stores).contains("hunter2"));
    }
}
