//! COPY to this machine's files: everything is written under a temporary name, which is changed when all is complete.
//!
//! A server that is killed leaves what it wrote under the temporary name, which starts with a dot and so is no data to our
//! own listing, nor to most others.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::options::CopyOptions;
use super::output::io_error;
use crate::batch::stores::failure::DUPLICATE_FILE;
use crate::error::{Error, Result, sqlstate};

/// A file or folder under a temporary name, removed unless it is finished.
#[derive(Debug)]
pub struct LocalOutput {
    target: PathBuf,
    /// Beside the target, so that it can take its place.
    temporary: PathBuf,
    is_folder: bool,
    overwrite: bool,
    finished: bool,
}

impl LocalOutput {
    /// Checks the target and makes the folder that it is in, and a temporary folder in the place of one.
    pub fn new(path: &str, is_folder: bool, options: &CopyOptions) -> Result<Self> {
        // Behind a slash a file would look like a folder that is not there.
        let target = std::path::absolute(path.trim_end_matches('/'))?;
        let wrong = |what: &str, hint: &str| {
            Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, format!("\"{path}\" {what}")).with_hint(hint))
        };
        let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
            return wrong("is not the name of a file", "name the file to write");
        };
        match (is_folder, target.is_dir()) {
            (false, true) => {
                return wrong(
                    "is a directory",
                    "name the file to write, or end the path with a slash to write files into it",
                );
            }
            (true, false) if target.exists() => return wrong("is a file", "name a folder"),
            (true, true) => check_folder(path, &target, options)?,
            _ => {}
        }
        let made = fs::create_dir_all(folder);
        made.map_err(|e| io_error(&folder.to_string_lossy(), e).with_hint("the folder of the target cannot be made"))?;
        let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), Uuid::new_v4()));
        let output = Self { target, temporary, is_folder, overwrite: options.overwrite, finished: false };
        if is_folder {
            fs::create_dir(&output.temporary).map_err(|e| io_error(path, e))?;
        }
        Ok(output)
    }

    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// Begins a file by its path in the folder, or the only one.
    pub fn create(&self, name: &str) -> Result<LocalFile> {
        let path = if self.is_folder { self.temporary.join(name) } else { self.temporary.clone() };
        let shown = self.target.join(name).to_string_lossy().trim_end_matches('/').to_string();
        let failed = |e| io_error(&shown, e);
        if let Some(folder) = path.parent().filter(|_| self.is_folder) {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::create_new(&path).map_err(failed)?;
        Ok(LocalFile { file, name: shown, bytes: 0 })
    }

    /// Gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let failed = |e| io_error(&self.target.to_string_lossy(), e);
        if self.is_folder {
            sync_folders(&self.temporary).map_err(failed)?;
        }
        match self.is_folder && self.overwrite && self.target.exists() {
            true => self.exchange().map_err(failed)?,
            false => fs::rename(&self.temporary, &self.target).map_err(failed)?,
        }
        self.finished = true;
        match self.target.parent() {
            Some(folder) => sync(folder).map_err(failed),
            None => Ok(()),
        }
    }

    /// Puts the new folder in the place of the old one in one step, and removes that.
    fn exchange(&self) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, &self.temporary, CWD, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_dir_all(&self.temporary),
            // A file system that cannot: for a moment there is neither.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                let old = self.temporary.with_extension("old");
                fs::rename(&self.target, &old)?;
                fs::rename(&self.temporary, &self.target)?;
                fs::remove_dir_all(&old)
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for LocalOutput {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let removed = match self.is_folder {
            true => fs::remove_dir_all(&self.temporary),
            false => fs::remove_file(&self.temporary),
        };
        if let Err(e) = removed
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("temporary file \"{}\" was not removed: {e}", self.temporary.display());
        }
    }
}

/// A file under a temporary name.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    /// The name that it will have.
    name: String,
    bytes: u64,
}

impl LocalFile {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it durable.
    pub fn close(self) -> Result<u64> {
        self.file.sync_all().map_err(|e| io_error(&self.name, e))?;
        Ok(self.bytes)
    }
}

impl Write for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A folder that has files is replaced only if that was asked for, and only if it holds data alone.
fn check_folder(path: &str, folder: &Path, options: &CopyOptions) -> Result<()> {
    let mut stack = vec![folder.to_path_buf()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| io_error(path, e))? {
            let file = entry.map_err(|e| io_error(path, e))?.path();
            if file.is_dir() {
                stack.push(file);
                continue;
            }
            if !options.overwrite {
                return Err(Error::new(DUPLICATE_FILE, format!("folder \"{path}\" is not empty"))
                    .with_hint("OVERWRITE true replaces all that is in it"));
            }
            if !is_data(&file) {
                let message = format!("folder \"{path}\" is not replaced: \"{}\" is no data file", file.display());
                return Err(
                    Error::new(DUPLICATE_FILE, message).with_hint("choose another folder, or move the file away")
                );
            }
        }
    }
    Ok(())
}

fn is_data(file: &Path) -> bool {
    const ENDINGS: [&str; 7] = [".parquet", ".parq", ".csv", ".tsv", ".json", ".jsonl", ".ndjson"];
    let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = [".gz", ".zst"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.starts_with(['_', '.']) || ENDINGS.iter().any(|end| plain.ends_with(end))
}

fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_folders(&path)?;
        }
    }
    sync(folder)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
