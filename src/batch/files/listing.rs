//! Finds the files of a location: a file, a folder with all below it, or a glob; with their hive partition values.
//!
//! Files are listed anew by every statement, so that it sees what was written since the last one. Names that start with
//! `_` or `.` below the location are not data (`_SUCCESS`, temporary files of writers), as in Hive and Spark.

use std::fs;
use std::path::{Component, Path, PathBuf};

use datafusion::object_store::ObjectMeta;
use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result, sqlstate};

/// Hive's name for NULL in a partition folder.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Where files are, as a statement wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Location {
    /// The text of the statement, for messages.
    text: String,
    /// The deepest path without wildcards, absolute.
    root: PathBuf,
    /// The whole path with wildcards.
    pattern: Option<Pattern>,
}

/// One data file.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    pub path: PathBuf,
    pub meta: ObjectMeta,
    /// `name=value` folders between the location and the file; a value is `None` for NULL.
    pub partition: Vec<(String, Option<String>)>,
}

impl Location {
    /// Reads a path, `file://` URL or glob. Relative paths start at the server's working folder.
    ///
    /// # Errors
    /// 0A000 for other URL schemes, 22023 for a malformed glob.
    pub fn parse(text: &str) -> Result<Self> {
        let path = match text.split_once("://") {
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                return Err(Error::unsupported(format!("location \"{text}\": scheme \"{scheme}\" is not supported"))
                    .with_hint("use a local path or a file:// URL"));
            }
            None => text,
        };
        if path.is_empty() {
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "a location must not be empty"));
        }
        let full = std::path::absolute(path)?;
        if !path.contains(['*', '?', '[']) {
            return Ok(Self { text: text.into(), root: full, pattern: None });
        }
        let pattern = Pattern::new(&full.to_string_lossy()).map_err(|e| {
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("location \"{text}\" is not a valid glob: {e}"))
        })?;
        let plain = |c: &Component| !c.as_os_str().to_string_lossy().contains(['*', '?', '[']);
        let root = full.components().take_while(plain).collect();
        Ok(Self { text: text.into(), root, pattern: Some(pattern) })
    }

    /// The location as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// All data files, by path. In a folder only those with one of the extensions; a file or glob is taken at its word.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// 58P01 if the location does not exist or a glob matches nothing; an existing folder may be empty.
    pub fn list(&self, extensions: &[&str]) -> Result<Vec<DataFile>> {
        let missing = || Error::new(sqlstate::UNDEFINED_FILE, format!("location \"{}\" does not exist", self.text));
        let metadata = fs::metadata(&self.root).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => missing(),
            _ => Error::new(sqlstate::IO_ERROR, format!("location \"{}\": {e}", self.text)),
        })?;
        let mut files = Vec::new();
        if metadata.is_file() {
            files.push(self.file(self.root.clone(), &metadata)?);
        } else {
            self.walk(&self.root, extensions, &mut files)?;
            files.sort_by(|a, b| a.path.cmp(&b.path));
        }
        if files.is_empty() && self.pattern.is_some() {
            return Err(Error::new(sqlstate::UNDEFINED_FILE, format!("no file matches \"{}\"", self.text)));
        }
        Ok(files)
    }

    fn walk(&self, folder: &Path, extensions: &[&str], files: &mut Vec<DataFile>) -> Result<()> {
        let unreadable = |e: std::io::Error| Error::new(sqlstate::IO_ERROR, format!("\"{}\": {e}", folder.display()));
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
        // `*` stays within a folder, `**` does not.
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        match &self.pattern {
            Some(pattern) => pattern.matches_path_with(path, options),
            None => {
                let name = name.to_ascii_lowercase();
                extensions.iter().any(|e| name.ends_with(e))
            }
        }
    }

    fn file(&self, path: PathBuf, metadata: &fs::Metadata) -> Result<DataFile> {
        let location = datafusion::object_store::path::Path::from_absolute_path(&path)
            .map_err(|e| Error::new(sqlstate::IO_ERROR, format!("\"{}\": {e}", path.display())))?;
        let meta = ObjectMeta {
            location,
            last_modified: metadata.modified()?.into(),
            size: metadata.len(),
            e_tag: None,
            version: None,
        };
        let below = path.parent().and_then(|folder| folder.strip_prefix(&self.root).ok());
        let partition = below.map(partition_values).unwrap_or_default();
        Ok(DataFile { path, meta, partition })
    }
}

/// The `name=value` folders of a relative path.
fn partition_values(below: &Path) -> Vec<(String, Option<String>)> {
    let of_folder = |folder: Component| {
        let folder = folder.as_os_str().to_str()?.to_string();
        let (name, value) = folder.split_once('=')?;
        let value = (value != NULL_PARTITION).then(|| unescape(value));
        Some((unescape(name), value))
    };
    below.components().filter_map(of_folder).collect()
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

    fn touch(dir: &Path, name: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn names(location: &str, dir: &Path) -> Vec<String> {
        let location = Location::parse(&dir.join(location).to_string_lossy()).unwrap();
        let files = location.list(&[".parquet"]).unwrap();
        files.iter().map(|f| f.path.strip_prefix(dir).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn folders_globs_and_files_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.parquet", "b.parquet", "c.txt", "_tmp.parquet", "sub/d.PARQUET", "_x/e.parquet", "sub/f.csv"] {
            touch(dir.path(), name);
        }
        assert_eq!(names("", dir.path()), ["a.parquet", "b.parquet", "sub/d.PARQUET"]);
        assert_eq!(names("*.parquet", dir.path()), ["a.parquet", "b.parquet"]);
        assert_eq!(names("**/*.csv", dir.path()), ["sub/f.csv"]);
        assert_eq!(names("c.txt", dir.path()), ["c.txt"]);
    }

    #[test]
    fn partition_folders_are_unescaped_and_null_is_null() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), "d=2026-01-02/t=a%3Ab/x.parquet");
        touch(dir.path(), "d=__HIVE_DEFAULT_PARTITION__/t=100%/x.parquet");
        let files = Location::parse(&dir.path().to_string_lossy()).unwrap().list(&[".parquet"]).unwrap();
        let some = |n: &str, v: &str| (n.to_string(), Some(v.to_string()));
        assert_eq!(files[0].partition, [some("d", "2026-01-02"), some("t", "a:b")]);
        assert_eq!(files[1].partition, [("d".to_string(), None), some("t", "100%")]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Location::parse("/nowhere/at/all/").unwrap().list(&[".parquet"]).unwrap_err();
        assert_eq!((error.sqlstate(), error.message()), ("58P01", "location \"/nowhere/at/all/\" does not exist"));
        let dir = tempfile::tempdir().unwrap();
        let error = Location::parse(&dir.path().join("*.parquet").to_string_lossy()).unwrap().list(&[]).unwrap_err();
        assert_eq!(error.sqlstate(), "58P01");
        assert_eq!(Location::parse("s3://bucket/x").unwrap_err().sqlstate(), "0A000");
    }
}
