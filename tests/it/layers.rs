//! Keeps the dependency direction: reads the sources' paths and refuses those that point the wrong way.
//!
//! `{server, task} -> session -> {batch, stream} -> state -> catalog`; `sql` and `connectors` never see each other;
//! each of pgwire, RocksDB and librdkafka is known to one place only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;

/// What each top-level module of the server may name. `error`, `config` and `failpoint` are below everything.
const MODULES: &[(&str, &[&str])] = &[
    ("main", &["server", "session", "config", "demo", "task", "stream", "state", "batch"]),
    ("lib", &[]),
    ("calendar", &[]),
    ("config", &[]),
    ("error", &[]),
    ("failpoint", &[]),
    ("demo", &["server", "session"]),
    ("server", &["session", "task", "stream", "scram"]),
    ("task", &["session", "stream", "calendar"]),
    ("session", &["batch", "stream", "state", "calendar", "scram"]),
    ("batch", &["stream", "state"]),
    ("stream", &["state"]),
    ("state", &[]),
    ("scram", &[]),
];

/// What every module may name.
const COMMON: &[&str] = &["error", "config", "failpoint", "Error", "Result"];

/// Crates that only the sources below one of the given paths may name.
const CONFINED: &[(&str, &[&str])] = &[
    ("pgwire", &["src/server"]),
    ("axum", &["src/server"]),
    ("rocksdb", &["src/state"]),
    ("rdkafka", &["connectors/src/kafka", "connectors/src/mock"]),
    ("millstream_sql", &["src"]),
    ("millstream_connectors", &["src"]),
    ("datafusion", &["src"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file of the workspace's crates, relative to the root.
fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a source directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path.strip_prefix(root()).expect("a path below the root").to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    ["src", "catalog/src", "sql/src", "connectors/src"].iter().for_each(|dir| walk(&root().join(dir), &mut found));
    found.sort();
    found
}

/// The file's text without comments, so that docs may name whatever they explain.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(root().join(path)).expect("a source file");
    let comment = Regex::new(r"(?m)(^|\s)//.*$").expect("a valid pattern");
    comment.replace_all(&text, "").into_owned()
}

/// The first segments of all paths that begin with `crate::`, grouped imports included.
fn crate_modules(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, prefix) in code.match_indices("crate::") {
        // `$crate::` in a macro and names such as `other_crate::` are something else.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => drop(found.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())),
            Some(group) => found.extend(top_level_names(group)),
        }
    }
    found
}

/// The first identifier of each element of a `{a::b, c::{d, e}}` group, given from behind its opening brace.
fn top_level_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut name, mut taken) = (0, Vec::new(), String::new(), false);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                taken = false;
            }
            c if depth == 0 && !taken && (c.is_alphanumeric() || c == '_') => name.push(c),
            _ if !name.is_empty() => taken = true,
            _ => {}
        }
    }
    names.push(name);
    names.retain(|name| !name.is_empty());
    names
}

/// The top-level module that a file of `src/` belongs to.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("src").ok()?;
    Some(inside.iter().next()?.to_str()?.trim_end_matches(".rs").to_string())
}

#[test]
fn dependency_direction() {
    let mut wrong = Vec::new();
    for path in sources() {
        let code = code(&path);
        for (name, homes) in CONFINED {
            let named = Regex::new(&format!(r"\b{name}::|\buse {name}\b")).expect("a valid pattern").is_match(&code);
            if named && !homes.iter().any(|home| path.to_string_lossy().starts_with(home)) {
                wrong.push(format!("{} names {name}, which only {} may", path.display(), homes.join(" and ")));
            }
        }
        let Some(module) = module_of(&path) else { continue };
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}: module {module} has no place in the table of this test", path.display()));
            continue;
        };
        for target in crate_modules(&code) {
            let is_module = MODULES.iter().any(|(name, _)| *name == target);
            let fine = target == module || allowed.contains(&target.as_str()) || COMMON.contains(&target.as_str());
            if is_module && !fine && module != "lib" {
                wrong.push(format!("{}: {module} names {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "the dependency direction is broken:\n  {}", wrong.join("\n  "));
}

#[test]
fn crates_depend_only_downwards() {
    for (manifest, forbidden) in [
        ("catalog/Cargo.toml", &["millstream-", "rdkafka", "rocksdb", "pgwire"][..]),
        ("sql/Cargo.toml", &["millstream-connectors", "rdkafka", "rocksdb", "pgwire", "tokio"][..]),
        ("connectors/Cargo.toml", &["millstream-sql", "rocksdb", "pgwire"][..]),
    ] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("a manifest");
        let dependencies = text.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        for name in forbidden {
            let named = dependencies.lines().any(|line| line.starts_with(name));
            assert!(!named, "{manifest} depends on {name}*");
        }
    }
}

/// The test above must be able to fail: its reading of paths is right.
#[test]
fn paths_are_read() {
    let code = "use crate::state::Store;\nuse crate::{stream::{Delta, x}, batch as b};\nlet x = $crate::nothing();";
    let names: Vec<String> = crate_modules(code).into_iter().collect();
    assert_eq!(names, ["batch", "state", "stream"]);
    assert_eq!(module_of(Path::new("src/server/mod.rs")).as_deref(), Some("server"));
    assert_eq!(module_of(Path::new("src/error.rs")).as_deref(), Some("error"));
    assert_eq!(module_of(Path::new("sql/src/lib.rs")), None);
}
