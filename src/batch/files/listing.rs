//! Finds the files of a location: a file, a folder with all below it, or a glob; with their hive partition values.
//!
//! Files are listed anew by every statement, so that it sees what was written since the last one. Names that start with
//! `_` or `.` below the location are not data (`_SUCCESS`, temporary files of writers), as in Hive and Spark.

use std::fs;
use std::path::{Component, Path, PathBuf};

use datafusion::object_store::path::Path as ObjectPath;
use datafusion::object_store::{ObjectMeta, ObjectStoreExt};
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};

use crate::batch::stores::{Access, Store};
use crate::error::{Error, Result, sqlstate};

/// Hive's name for NULL in a partition folder.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// `*` stays within a folder, `**` does not.
const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// Where files are, as a statement wrote it.
#[derive(Debug, Clone)]
pub struct Location {
    /// The text of the statement, for messages.
    text: String,
    pub store: Store,
    /// The deepest path without wildcards: absolute of local files, else a key that may be empty.
    root: String,
    /// Whether the location can only be a folder.
    is_folder: bool,
    /// The whole path with wildcards.
    pattern: Option<Pattern>,
}

/// One data file.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// For people: `/data/x.csv`, `s3://bucket/x.csv`.
    pub name: String,
    pub meta: ObjectMeta,
    /// `name=value` folders between the location and the file; a value is `None` for NULL.
    pub partition: Vec<(String, Option<String>)>,
}

impl Location {
    /// Reads a path, URL or glob. Relative paths start at the server's working folder.
    ///
    /// # Errors
    /// Of [`Access::open`]; 22023 for a malformed glob.
    pub fn parse(text: &str, access: &Access, secret: Option<&str>) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a location must not be empty"));
        }
        let (store, path) = access.open(text, secret)?;
        let full = match store.is_local() {
            true => std::path::absolute(path)?.to_string_lossy().into_owned(),
            false => path.to_string(),
        };
        let is_folder = path.is_empty() || path.ends_with('/');
        let is_wild = |part: &str| part.contains(['*', '?', '[']);
        if !is_wild(path) {
            return Ok(Self { text: text.into(), store, root: full, is_folder, pattern: None });
        }
        let pattern = Pattern::new(&full).map_err(|e| {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("location \"{text}\" is not a valid glob: {e}"))
        })?;
        let plain: Vec<&str> = full.split('/').take_while(|part| !is_wild(part)).collect();
        let root = match plain.join("/") {
            root if root.is_empty() && store.is_local() => "/".into(),
            root => root,
        };
        Ok(Self { text: text.into(), store, root, is_folder: true, pattern: Some(pattern) })
    }

    /// The location as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// All data files, by name. In a folder only those with one of the extensions; a file or glob is taken at its word.
    ///
    /// # Errors
    /// 58P01 if the location does not exist or a glob matches nothing; an existing folder may be empty, and in a bucket, which
    /// has no folders, any other. Those of the store.
    pub async fn list(&self, extensions: &'static [&'static str]) -> Result<Vec<DataFile>> {
        let mut files = match self.store.is_local() {
            true => {
                let location = self.clone();
                let listed = tokio::task::spawn_blocking(move || location.list_local(extensions)).await;
                listed.map_err(|e| Error::internal(format!("listing \"{}\" failed: {e}", self.text)))??
            }
            false => self.list_objects(extensions).await?,
        };
        files.sort_by(|a, b| a.name.cmp(&b.name));
        if files.is_empty() && self.pattern.is_some() {
            return Err(Error::new(sqlstate::UNDEFINED_FILE, format!("no file matches \"{}\"", self.text)));
        }
        Ok(files)
    }

    async fn list_objects(&self, extensions: &[&str]) -> Result<Vec<DataFile>> {
        let root = self.store.path(self.root.trim_end_matches('/'))?;
        if !self.is_folder {
            match self.store.objects.head(&root).await {
                Ok(meta) => return Ok(vec![self.object(meta)]),
                Err(e) => match Error::inside(&e) {
                    // It may be a folder whose slash was not written.
                    Some(ours) if ours.sqlstate() == sqlstate::UNDEFINED_FILE => {}
                    _ => return Err(store_error(&e)),
                },
            }
        }
        let found: Vec<ObjectMeta> =
            self.store.objects.list(Some(&root)).try_collect().await.map_err(|e| store_error(&e))?;
        let files = found.into_iter().filter(|meta| self.takes_object(meta, extensions)).map(|meta| self.object(meta));
        let files: Vec<_> = files.collect();
        if files.is_empty() && !self.is_folder {
            return Err(Error::new(sqlstate::UNDEFINED_FILE, format!("location \"{}\" does not exist", self.text)));
        }
        Ok(files)
    }

    fn takes_object(&self, meta: &ObjectMeta, extensions: &[&str]) -> bool {
        let key = self.store.key(&meta.location);
        let below = key.strip_prefix(self.root.trim_end_matches('/')).unwrap_or(key).trim_start_matches('/');
        let is_hidden = below.split('/').any(|part| part.starts_with(['_', '.']));
        // Some tools make empty objects that stand for folders.
        if is_hidden || below.is_empty() || (meta.size == 0 && key.ends_with('/')) {
            return false;
        }
        match &self.pattern {
            Some(pattern) => pattern.matches_with(key, MATCH),
            None => ends_with(key, extensions),
        }
    }

    fn object(&self, meta: ObjectMeta) -> DataFile {
        let name = self.store.name(&meta.location);
        let key = self.store.key(&meta.location);
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = folder.strip_prefix(self.root.trim_end_matches('/')).unwrap_or_default();
        DataFile { name, partition: partition_values(below), meta }
    }

    /// Blocks on the file system.
    fn list_local(&self, extensions: &[&str]) -> Result<Vec<DataFile>> {
        let root = Path::new(&self.root);
        let missing = || Error::new(sqlstate::UNDEFINED_FILE, format!("location \"{}\" does not exist", self.text));
        let metadata = fs::metadata(root).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => missing(),
            std::io::ErrorKind::PermissionDenied => denied(&self.text),
            _ => Error::new(sqlstate::IO_ERROR, format!("location \"{}\": {e}", self.text)),
        })?;
        let mut files = Vec::new();
        if metadata.is_file() {
            files.push(self.file(root.to_path_buf(), &metadata)?);
        } else {
            self.walk(root, extensions, &mut files)?;
        }
        Ok(files)
    }

    fn walk(&self, folder: &Path, extensions: &[&str], files: &mut Vec<DataFile>) -> Result<()> {
        let unreadable = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::PermissionDenied => denied(&folder.to_string_lossy()),
            _ => Error::new(sqlstate::IO_ERROR, format!("\"{}\": {e}", folder.display())),
        };
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(['_', '.']) {
                continue;
            }
            // A file may go between listing its folder and looking at it: then it is not part of the table.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                self.walk(&path, extensions, files)?;
            } else if self.takes(&path, &name, extensions) {
                files.push(self.file(path, &metadata)?);
            }
        }
        Ok(())
    }

    fn takes(&self, path: &Path, name: &str, extensions: &[&str]) -> bool {
        match &self.pattern {
            Some(pattern) => pattern.matches_path_with(path, MATCH),
            None => ends_with(name, extensions),
        }
    }

    fn file(&self, path: PathBuf, metadata: &fs::Metadata) -> Result<DataFile> {
        let location = ObjectPath::from_absolute_path(&path)
            .map_err(|e| Error::new(sqlstate::IO_ERROR, format!("\"{}\": {e}", path.display())))?;
        let meta = ObjectMeta {
            location,
            last_modified: metadata.modified()?.into(),
            size: metadata.len(),
            e_tag: None,
            version: None,
        };
        let below = path.parent().and_then(|folder| folder.strip_prefix(&self.root).ok());
        let below = below.map(|below| below.components().filter_map(plain).collect::<Vec<_>>().join("/"));
        let partition = below.as_deref().map(partition_values).unwrap_or_default();
        Ok(DataFile { name: path.to_string_lossy().into_owned(), meta, partition })
    }
}

/// 42501: the server's user may not read it.
pub fn denied(path: &str) -> Error {
    Error::new("42501", format!("permission denied: \"{path}\""))
        .with_hint("the user that the server runs as must be able to read it")
}

/// An error of a store, in our words where it was said in them.
pub fn store_error(e: &datafusion::object_store::Error) -> Error {
    Error::inside(e).cloned().unwrap_or_else(|| Error::new(sqlstate::IO_ERROR, e.to_string()))
}

fn plain(component: Component<'_>) -> Option<String> {
    component.as_os_str().to_str().map(str::to_string)
}

fn ends_with(name: &str, extensions: &[&str]) -> bool {
    let name = name.to_ascii_lowercase();
    extensions.iter().any(|e| name.ends_with(e))
}

/// The `name=value` folders of a relative path.
fn partition_values(below: &str) -> Vec<(String, Option<String>)> {
    let of_folder = |folder: &str| {
        let (name, value) = folder.split_once('=')?;
        let value = (value != NULL_PARTITION).then(|| unescape(value));
        Some((unescape(name), value))
    };
    below.split('/').filter_map(of_folder).collect()
}

/// The folder of a partition value, as [`Location::list`] reads it again.
pub fn partition_folder(name: &str, value: Option<&str>) -> String {
    let value = value.map_or_else(|| NULL_PARTITION.to_string(), escape);
    // A folder whose name begins with these would be hidden.
    let name = match name.strip_prefix(['_', '.']) {
        Some(rest) => format!("%{:02X}{}", name.as_bytes()[0], escape(rest)),
        None => escape(name),
    };
    format!("{name}={value}")
}

/// Hive's escapes of what a folder's name cannot have or would be read otherwise.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() || "\"#%'*/:=?\\{}[]^<>|~`".contains(c) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("%{byte:02X}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Undoes Hive's `%3A` escapes; what is no escape stays.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::local;

    #[test]
    fn what_is_written_as_a_folder_is_read_from_it() {
        for value in [Some("a/b:c%=d"), Some(""), Some("ü ."), None, Some("2026-01-01")] {
            let folder = partition_folder("d x", value);
            assert!(!folder.contains('/'), "{folder}");
            assert_eq!(partition_values(&folder), [("d x".to_string(), value.map(str::to_string))]);
        }
    }

    fn touch(dir: &Path, name: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    async fn list(location: &str) -> Result<Vec<DataFile>> {
        Location::parse(location, &local(), None)?.list(&[".parquet"]).await
    }

    async fn names(location: &str, dir: &Path) -> Vec<String> {
        let files = list(&dir.join(location).to_string_lossy()).await.unwrap();
        files.iter().map(|f| Path::new(&f.name).strip_prefix(dir).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test]
    async fn folders_globs_and_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.parquet", "b.parquet", "c.txt", "_tmp.parquet", "sub/d.PARQUET", "_x/e.parquet", "sub/f.csv"] {
            touch(dir.path(), name);
        }
        assert_eq!(names("", dir.path()).await, ["a.parquet", "b.parquet", "sub/d.PARQUET"]);
        assert_eq!(names("*.parquet", dir.path()).await, ["a.parquet", "b.parquet"]);
        assert_eq!(names("**/*.csv", dir.path()).await, ["sub/f.csv"]);
        assert_eq!(names("c.txt", dir.path()).await, ["c.txt"]);
    }

    #[tokio::test]
    async fn partition_folders_are_unescaped_and_null_is_null() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), "d=2026-01-02/t=a%3Ab/x.parquet");
        touch(dir.path(), "d=__HIVE_DEFAULT_PARTITION__/t=100%/x.parquet");
        let files = list(&dir.path().to_string_lossy()).await.unwrap();
        let some = |n: &str, v: &str| (n.to_string(), Some(v.to_string()));
        assert_eq!(files[0].partition, [some("d", "2026-01-02"), some("t", "a:b")]);
        assert_eq!(files[1].partition, [("d".to_string(), None), some("t", "100%")]);
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let error = list("/nowhere/at/all/").await.unwrap_err();
        assert_eq!((error.sqlstate(), error.message()), ("58P01", "location \"/nowhere/at/all/\" does not exist"));
        let dir = tempfile::tempdir().unwrap();
        let error = list(&dir.path().join("*.parquet").to_string_lossy()).await.unwrap_err();
        assert_eq!(error.sqlstate(), "58P01");
        assert_eq!(list("s3://bucket/x").await.unwrap_err().sqlstate(), "42704");
    }
}
