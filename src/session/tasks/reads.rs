//! What a run has read: the epoch, the relations and the files, so that it can be explained, and repeated on the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_catalog::ObjectId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::batch::files::{FileReads, FileVersion};
use crate::batch::lake::VersionReads;
use crate::error::{Error, Result, sqlstate};

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// The committed epoch that tables and views were read as of; that of the first of its statements that read one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// OIDs of stored relations and sources, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relations: BTreeMap<String, ObjectId>,
    /// Files of external tables by name, and of `read_parquet` by its argument.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, Vec<FileVersion>>,
    /// Versions of Delta tables, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, u64>,
}

/// Takes note of what the statements of a run read.
#[derive(Debug, Default)]
pub struct Reads {
    found: Mutex<Inputs>,
    files: Mutex<BTreeMap<String, Arc<FileReads>>>,
    versions: Mutex<BTreeMap<String, Arc<VersionReads>>>,
    /// The number and the inputs of the run that is repeated.
    repeated: Option<(u64, Inputs)>,
}

impl Reads {
    /// For a run that is to read what another has read.
    pub fn again(run: u64, inputs: Inputs) -> Self {
        Self { repeated: Some((run, inputs)), ..Self::default() }
    }

    /// A stored relation is read as of an epoch; it has changed last at `changed`, or not since before that.
    ///
    /// # Errors
    /// 55000 if a run is repeated, and the relation is not what it was then.
    pub fn relation(&self, name: String, id: ObjectId, epoch: u64, changed: u64) -> Result<()> {
        if let Some((run, inputs)) = &self.repeated {
            let is_same = inputs.relations.get(&name) == Some(&id) && inputs.epoch.is_some_and(|then| changed <= then);
            if !is_same {
                return Err(not_kept(format!("\"{name}\" may have changed since run {run} read it")));
            }
        }
        let mut found = self.found.lock();
        found.epoch.get_or_insert(epoch);
        found.relations.insert(name, id);
        Ok(())
    }

    /// A source is read, whose records nobody keeps here.
    ///
    /// # Errors
    /// 55000 if a run is repeated.
    pub fn source(&self, name: String, id: ObjectId) -> Result<()> {
        if let Some((run, _)) = &self.repeated {
            return Err(not_kept(format!("run {run} read source \"{name}\", whose records are not kept")));
        }
        self.found.lock().relations.insert(name, id);
        Ok(())
    }

    /// Files are read: of an external table by its name, or by the argument of `read_parquet`.
    ///
    /// # Errors
    /// 55000 if a run is repeated that has not read them.
    pub fn files(&self, name: String) -> Result<Arc<FileReads>> {
        let mut files = self.files.lock();
        if let Some(reads) = files.get(&name) {
            return Ok(reads.clone());
        }
        let reads = Arc::new(match &self.repeated {
            None => FileReads::default(),
            Some((run, inputs)) => {
                let then = inputs.files.get(&name).cloned();
                FileReads::only(
                    then.ok_or_else(|| not_kept(format!("run {run} did not read the files of \"{name}\"")))?,
                )
            }
        });
        files.insert(name, reads.clone());
        Ok(reads)
    }

    /// A Delta table is read, by its name or by the argument of `read_delta`.
    ///
    /// # Errors
    /// 55000 if a run is repeated that has not read it.
    pub fn version(&self, name: String) -> Result<Arc<VersionReads>> {
        let mut versions = self.versions.lock();
        if let Some(reads) = versions.get(&name) {
            return Ok(reads.clone());
        }
        let reads = Arc::new(match &self.repeated {
            None => VersionReads::default(),
            Some((run, inputs)) => {
                let then = inputs.versions.get(&name).copied();
                VersionReads::only(then.ok_or_else(|| not_kept(format!("run {run} did not read \"{name}\"")))?)
            }
        });
        versions.insert(name, reads.clone());
        Ok(reads)
    }

    /// All that was read so far.
    pub fn inputs(&self) -> Inputs {
        let mut inputs = self.found.lock().clone();
        let versions = self.versions.lock();
        inputs.versions = versions.iter().filter_map(|(name, reads)| Some((name.clone(), reads.read()?))).collect();
        inputs.files = self.files.lock().iter().map(|(name, reads)| (name.clone(), reads.read())).collect();
        inputs
    }
}

fn not_kept(what: String) -> Error {
    Error::new(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, what)
        .with_hint("EXECUTE TASK ... FOR TIMESTAMP runs it again on what is there now")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_run_reads_what_was_read_or_says_what_is_not_kept() {
        let (t, name) = (ObjectId(20000), || "public.t".to_string());
        let reads = Reads::default();
        reads.relation(name(), t, 7, 5).unwrap();
        let inputs = reads.inputs();
        assert_eq!((inputs.epoch, inputs.relations[&name()]), (Some(7), t));
        Reads::again(1, inputs.clone()).relation(name(), t, 30, 7).unwrap();
        let changed = Reads::again(1, inputs.clone()).relation(name(), t, 30, 8).unwrap_err();
        assert_eq!(changed.message(), "\"public.t\" may have changed since run 1 read it");
        let other = Reads::again(1, inputs.clone()).relation(name(), ObjectId(20001), 30, 7).unwrap_err();
        assert_eq!(other.sqlstate(), "55000");
        assert_eq!(Reads::again(1, inputs.clone()).source("s".into(), t).unwrap_err().sqlstate(), "55000");
        assert_eq!(Reads::again(1, inputs).files("x".into()).unwrap_err().sqlstate(), "55000");
    }
}
