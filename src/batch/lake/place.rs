//! Where a Delta table is: its folder, the store of its files, and its log.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::object_store;
use datafusion::object_store::path::Path;
use datafusion::object_store::prefix::PrefixStore;
use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore};
use url::Url;

use crate::batch::stores::{Access, Store};
use crate::error::{Error, Result, sqlstate};

/// The folder of a table.
#[derive(Debug, Clone)]
pub struct Lake {
    /// As it was written.
    pub location: String,
    /// What the table is in errors: `external table "t"`.
    pub object: String,
    pub store: Store,
    /// The folder as the store's scans name it.
    pub root: Path,
    pub log: LogStoreRef,
}

impl Lake {
    /// Opens a folder; whether there is a table in it is not asked. `secret` names what its store is opened with.
    ///
    /// # Errors
    /// Of [`Access::open`]; 22023 for a location that no folder can have.
    pub fn open(location: &str, object: &str, access: &Access, secret: Option<&str>) -> Result<Self> {
        if location.is_empty() {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a location must not be empty"));
        }
        let (store, path) = access.open(location, secret)?;
        let malformed = |why: String| {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("location \"{location}\" names no folder: {why}"))
        };
        let (key, url) = if store.is_local() {
            let absolute = std::path::absolute(path)?;
            let url =
                Url::from_directory_path(&absolute).map_err(|()| malformed("it is not an absolute path".into()))?;
            (absolute.to_string_lossy().trim_end_matches('/').to_string(), url)
        } else {
            let key = path.trim_end_matches('/');
            let url = format!("{}{key}/", store.name(&store.path("")?));
            (key.to_string(), Url::parse(&url).map_err(|e| malformed(e.to_string()))?)
        };
        if key.contains(['*', '?', '[']) {
            return Err(malformed("a Delta table has one folder, not a pattern".into()));
        }
        let root = store.path(&key)?;
        let plain = Path::parse(&key).map_err(|e| malformed(e.to_string()))?;
        let under = Arc::new(PrefixStore::new(store.plain.clone(), plain));
        let log = default_logstore(under, store.plain.clone(), &url, &StorageConfig::default());
        Ok(Self { location: location.into(), object: object.into(), store, root, log })
    }

    /// A file of the table as the store's scans name it.
    pub fn file(&self, relative: &Path) -> Path {
        self.root.parts().chain(relative.parts()).collect()
    }

    /// What tells this table from others.
    pub fn key(&self) -> String {
        format!("{}{}", self.store.url.as_str(), self.root)
    }

    /// Our error for one of the log.
    pub fn told(&self, error: DeltaTableError) -> Error {
        let place = &self.location;
        if let Some(ours) = Error::inside(&error) {
            return ours.clone();
        }
        match &error {
            DeltaTableError::NotATable(_) | DeltaTableError::NotInitialized => {
                Error::new(sqlstate::UNDEFINED_FILE, format!("there is no Delta table at \"{place}\""))
                    .with_hint("CREATE EXTERNAL TABLE with a column list and STORED AS DELTA makes one")
            }
            DeltaTableError::Transaction {
                source: TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_),
            }
            | DeltaTableError::VersionAlreadyExists(_) => self.conflict(),
            DeltaTableError::ObjectStore { source: object_store::Error::NotFound { path, .. } } => Error::new(
                sqlstate::UNDEFINED_FILE,
                format!("file \"{path}\" of the Delta table at \"{place}\" does not exist any more"),
            )
            .with_hint("VACUUM removes the files of old versions"),
            DeltaTableError::UnsupportedColumnMapping { .. } => {
                Error::unsupported(format!("the Delta table at \"{place}\" maps its columns to other names"))
            }
            DeltaTableError::Transaction { source: TransactionError::UnsupportedTableFeatures(features) } => {
                let names: Vec<String> = features.iter().map(ToString::to_string).collect();
                Error::unsupported(format!(
                    "the Delta table at \"{place}\" needs features that are not supported: {}",
                    names.join(", ")
                ))
            }
            _ => {
                // With RUST_BACKTRACE set the log's library puts a backtrace below its errors, which is not for clients.
                let told = error.to_string();
                let told = told.split("\n   0: ").next().unwrap_or_default();
                // That it has to do with a feature of the protocol, only the text says.
                if told.to_lowercase().contains("unsupported") || told.contains("not supported") {
                    return Error::unsupported(format!("the Delta table at \"{place}\" cannot be used: {told}"));
                }
                Error::new(sqlstate::IO_ERROR, format!("the Delta table at \"{place}\" failed: {told}"))
            }
        }
    }

    /// Another writer was faster, and what was computed holds no longer.
    pub fn conflict(&self) -> Error {
        Error::new(
            sqlstate::SERIALIZATION_FAILURE,
            format!("could not serialize access to {} due to concurrent changes", self.object),
        )
        .with_detail(format!("another writer changed the Delta table at \"{}\"", self.location))
        .with_hint("run the statement again")
    }
}

/// Options of a Delta table at its creation, as the properties that its log keeps.
///
/// # Errors
/// 22023 for an option that is not known.
pub fn properties<'a>(options: impl Iterator<Item = (&'a String, &'a String)>) -> Result<HashMap<String, String>> {
    let mut properties = HashMap::new();
    for (key, value) in options {
        if key == millstream_sql::SECRET_OPTION {
            continue;
        }
        let known = [
            ("delta.appendonly", "delta.appendOnly"),
            ("delta.checkpointinterval", "delta.checkpointInterval"),
            ("delta.deletedfileretentionduration", "delta.deletedFileRetentionDuration"),
            ("delta.logretentionduration", "delta.logRetentionDuration"),
            ("delta.targetfilesize", "delta.targetFileSize"),
            ("delta.dataskippingnumindexedcols", "delta.dataSkippingNumIndexedCols"),
            ("delta.dataskippingstatscolumns", "delta.dataSkippingStatsColumns"),
        ];
        let name = known.iter().find(|(lower, _)| *lower == key.to_lowercase()).map(|(_, name)| *name);
        let Some(name) = name else {
            let names: Vec<&str> = known.iter().map(|(_, name)| *name).collect();
            return Err(Error::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                format!("unknown option \"{key}\" of a Delta table"),
            )
            .with_hint(format!("known options are {}, secret", names.join(", "))));
        };
        properties.insert(name.to_string(), value.clone());
    }
    Ok(properties)
}
