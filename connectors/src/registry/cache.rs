//! Schemas by their numbers, each asked for once for all partitions of a source.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_catalog::object::SchemaText;
use parking_lot::Mutex;

use super::{Client, RegistryError};
use crate::format::Failure;

/// A number that the registry does not know is asked for again after so long.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// More numbers than this are no schemas but broken records.
const SCHEMAS_MAX: usize = 10_000;

/// Schemas of one registry, parsed.
pub(crate) struct SchemaCache<T> {
    client: Arc<Client>,
    parse: fn(&SchemaText) -> Result<T, String>,
    by_id: Mutex<HashMap<u32, Known<T>>>,
}

enum Known<T> {
    Schema(Arc<T>),
    /// No record of it can be read.
    Unreadable(String),
    /// The registry did not know it.
    Unknown(String, Instant),
}

impl<T> SchemaCache<T> {
    /// An empty cache.
    pub fn new(client: Arc<Client>, parse: fn(&SchemaText) -> Result<T, String>) -> Self {
        Self { client, parse, by_id: Mutex::default() }
    }

    /// The schema of a number.
    ///
    /// # Errors
    /// Malformed, if the registry does not know it or it cannot be parsed; unavailable, if the registry does not answer.
    pub fn get(&self, id: u32) -> Result<Arc<T>, Failure> {
        {
            let by_id = self.by_id.lock();
            match by_id.get(&id) {
                Some(Known::Schema(schema)) => return Ok(schema.clone()),
                Some(Known::Unreadable(error)) => return Err(Failure::Malformed(error.clone())),
                Some(Known::Unknown(error, at)) if at.elapsed() < UNKNOWN_FOR => {
                    return Err(Failure::Malformed(error.clone()));
                }
                _ => {}
            }
        }
        // Without the lock: other partitions go on with the schemas that they know.
        let known = match self.client.schema(id) {
            Ok(text) => match (self.parse)(&text) {
                Ok(schema) => Known::Schema(Arc::new(schema)),
                Err(e) => Known::Unreadable(format!("schema id {id} of the schema registry cannot be read: {e}")),
            },
            Err(RegistryError::Unknown(error)) => Known::Unknown(error, Instant::now()),
            // Credentials that are refused may be let in again; a record is not to blame.
            Err(RegistryError::Unavailable(error) | RegistryError::Refused { message: error, .. }) => {
                return Err(Failure::Unavailable(error));
            }
        };
        let answer = match &known {
            Known::Schema(schema) => Ok(schema.clone()),
            Known::Unreadable(error) | Known::Unknown(error, _) => Err(Failure::Malformed(error.clone())),
        };
        let mut by_id = self.by_id.lock();
        if by_id.len() >= SCHEMAS_MAX {
            by_id.retain(|_, known| matches!(known, Known::Schema(_)));
        }
        by_id.insert(id, known);
        answer
    }
}

impl<T> fmt::Debug for SchemaCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schemas of {:?}", self.client)
    }
}
