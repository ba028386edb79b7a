//! Which options of a source may change while it is there.

use std::collections::BTreeMap;

use millstream_catalog::object::Source;

use crate::error::{ConnectorError, Result};

/// Options of which a change needs nothing but a new reader.
const MAY_CHANGE: [&str; 4] = ["idle_timeout", "late_rows", "on_error", "on_out_of_range"];
/// The prefix of those that are the client library's.
const CLIENT: &str = "properties.";
/// Two names of one option.
const BOOTSTRAP: [&str; 2] = ["properties.bootstrap.server", "properties.bootstrap.servers"];

/// The changes of a source's options as `ALTER SOURCE … SET` gives them, each under the name that the source has it under.
/// What the values are is for [`crate::SourceSpec::new`] to check.
///
/// # Errors
/// 0A000 for an option that must stay as it is, saying why.
pub fn changes(source: &Source, options: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let mut changes = BTreeMap::new();
    for (name, value) in options {
        let lower = name.to_ascii_lowercase();
        if let Some(reason) = stays(&lower) {
            return Err(ConnectorError::unsupported(format!(
                "option \"{lower}\" of a source cannot be changed: {reason}"
            ))
            .with_hint(format!("those that can be are {}, {CLIENT}*", MAY_CHANGE.join(", "))));
        }
        let is_it = |written: &&String| {
            let written = written.to_ascii_lowercase();
            written == lower || (BOOTSTRAP.contains(&written.as_str()) && BOOTSTRAP.contains(&lower.as_str()))
        };
        let written = source.options.keys().find(is_it).cloned().unwrap_or(lower);
        changes.insert(written, value.clone());
    }
    Ok(changes)
}

/// Whether some of the changes are of how the outside is reached, so that it has to be asked again.
pub fn reaches_outside(changes: &BTreeMap<String, String>) -> bool {
    changes.keys().any(|name| name.to_ascii_lowercase().starts_with(CLIENT))
}

/// Why an option must stay as it is, if it must.
fn stays(option: &str) -> Option<&'static str> {
    if MAY_CHANGE.contains(&option) || option.starts_with(CLIENT) {
        return None;
    }
    Some(match option {
        "connector" | "topic" | "path" => "the positions are of what it names; make another source",
        _ if option.starts_with("scan.") => "it says where the first reader started, and that has been",
        _ => "the rows of the views depend on it; make another source",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_positions_depend_on_stays() {
        let given = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
        };
        let options = given(&[("topic", "t"), ("properties.bootstrap.servers", "a:1")]);
        let source = Source { columns: vec![], watermark: None, options, format: None, primary_key: vec![] };
        let changed =
            changes(&source, &given(&[("properties.bootstrap.server", "b:1"), ("on_error", "skip")])).unwrap();
        assert_eq!(changed, given(&[("properties.bootstrap.servers", "b:1"), ("on_error", "skip")]));
        assert!(reaches_outside(&changed));
        for option in ["topic", "scan.startup.mode", "colour"] {
            let e = changes(&source, &given(&[(option, "x")])).unwrap_err();
            assert_eq!(e.sqlstate(), "0A000", "{option}");
        }
    }
}
