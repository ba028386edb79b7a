//! Fail points: named places at which a debug build can be told to die, to find the disk full or slow, or to take another
//! bound than its own, for the tests of all that.
//!
//! `MILLSTREAM_FAILPOINTS` names a directory. A fail point is armed while a file of its name is there, and the file says
//! what happens to who passes it:
//!
//! | contents | |
//! |---|---|
//! | `abort P SEED` | the process ends at once, with probability `P` at each passing |
//! | `panic` | panics, every time |
//! | `full` | fails with 53100, every time |
//! | `full N` | fails with 53100 `N` times; the file counts down and goes |
//! | `slow MS` | takes so many milliseconds, every time |
//!
//! The file of a bound that is asked for by [`value`] holds a number.
//!
//! Release builds have no fail points: [`pass`] and [`note`] are empty there, and bounds are what they are.

use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use parking_lot::Mutex;

use crate::error::{Error, Result, sqlstate};

/// Fail points that were passed while armed, which makes each draw of a seed another one.
static DRAWS: AtomicU64 = AtomicU64::new(0);

/// Passes the fail point `name`.
///
/// # Errors
/// 53100 if it is armed to say that the disk is full.
#[inline]
pub fn pass(name: &str) -> Result<()> {
    match directory() {
        Some(directory) => pass_armed(directory, name),
        None => Ok(()),
    }
}

/// The bound `name`: `default`, unless a test says otherwise.
#[inline]
pub fn value(name: &str, default: u64) -> u64 {
    directory().and_then(|directory| value_in(directory, name)).unwrap_or(default)
}

/// Where armed fail points are, if there are any.
#[inline]
fn directory() -> Option<&'static Path> {
    if !cfg!(debug_assertions) {
        return None;
    }
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    DIRECTORY.get_or_init(|| std::env::var_os("MILLSTREAM_FAILPOINTS").map(PathBuf::from)).as_deref()
}

fn value_in(directory: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()
}

/// Passes the fail point `name.object`: one of many objects.
///
/// # Errors
/// As [`pass`].
#[inline]
pub fn pass_for(name: &str, object: &str) -> Result<()> {
    if cfg!(debug_assertions) { pass(&format!("{name}.{object}")) } else { Ok(()) }
}

/// Notes something for a test, in a file beside the directory of fail points, while there are any.
#[inline]
pub fn note(name: &str, text: impl FnOnce() -> Option<String>) {
    // One at a time, so that what was seen later is also written later.
    static NOTES: Mutex<()> = Mutex::new(());
    if cfg!(debug_assertions)
        && let Some(directory) = std::env::var_os("MILLSTREAM_FAILPOINTS").map(PathBuf::from)
        && let Some(around) = directory.parent()
    {
        let _one = NOTES.lock();
        let Some(text) = text() else { return };
        let draft = around.join(format!("{name}.draft"));
        let written = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, around.join(name)));
        if let Err(e) = written {
            tracing::warn!(error = %e, "a note for a test cannot be written");
        }
    }
}

/// How far a test has put the clock of tasks forward or back: the number of microseconds in the file `clock` among the fail
/// points; 0 if there is none.
pub fn clock_offset_us() -> i64 {
    if !cfg!(debug_assertions) {
        return 0;
    }
    let directory = std::env::var_os("MILLSTREAM_FAILPOINTS").map(PathBuf::from);
    let text = directory.and_then(|directory| std::fs::read_to_string(directory.join("clock")).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn pass_armed(directory: &Path, name: &str) -> Result<()> {
    let path = directory.join(name);
    let Ok(action) = std::fs::read_to_string(&path) else { return Ok(()) };
    let words: Vec<&str> = action.split_whitespace().collect();
    match words.as_slice() {
        ["abort", probability, seed] => {
            let (Ok(probability), Ok(seed)) = (probability.parse::<f64>(), seed.parse::<u64>()) else {
                return Err(malformed(name, &action));
            };
            let draw = FixedState::with_seed(seed).hash_one(DRAWS.fetch_add(1, Ordering::Relaxed));
            if (draw as f64) < probability * u64::MAX as f64 {
                tracing::warn!(fail_point = name, "the process ends");
                std::process::abort();
            }
            Ok(())
        }
        ["full"] => Err(full(name)),
        ["panic"] => panic!("fail point {name}"),
        ["slow", ms] => {
            let ms = ms.parse().map_err(|_| malformed(name, &action))?;
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        }
        ["full", times] => {
            let times: u64 = times.parse().map_err(|_| malformed(name, &action))?;
            let counted = match times {
                0 | 1 => std::fs::remove_file(&path),
                _ => std::fs::write(&path, format!("full {}", times - 1)),
            };
            counted.map_err(Error::from).and(Err(full(name)))
        }
        _ => Err(malformed(name, &action)),
    }
}

fn full(name: &str) -> Error {
    Error::new(sqlstate::DISK_FULL, format!("fail point {name}: no space left on device"))
}

fn malformed(name: &str, action: &str) -> Error {
    Error::internal(format!("fail point {name} cannot do \"{action}\""))
}

#[cfg(test)]
mod tests {
    use super::{pass_armed, value_in};

    #[test]
    fn fails_as_often_as_it_is_told_to() {
        let directory = tempfile::tempdir().unwrap();
        assert!(pass_armed(directory.path(), "a.point").is_ok());
        std::fs::write(directory.path().join("a.point"), "full 2").unwrap();
        assert!(pass_armed(directory.path(), "another.point").is_ok());
        for _ in 0..2 {
            let error = pass_armed(directory.path(), "a.point").unwrap_err();
            assert_eq!(error.sqlstate(), "53100");
        }
        assert!(pass_armed(directory.path(), "a.point").is_ok());
        std::fs::write(directory.path().join("a.point"), "full").unwrap();
        assert!((0..9).all(|_| pass_armed(directory.path(), "a.point").is_err()));
        std::fs::write(directory.path().join("a.point"), "abort 0 7\n").unwrap();
        assert!((0..9).all(|_| pass_armed(directory.path(), "a.point").is_ok()));
        std::fs::write(directory.path().join("a.point"), "slow 20").unwrap();
        let start = std::time::Instant::now();
        assert!(pass_armed(directory.path(), "a.point").is_ok());
        assert!(start.elapsed().as_millis() >= 20);
        std::fs::write(directory.path().join("a.bound"), "7\n").unwrap();
        assert_eq!((value_in(directory.path(), "a.bound"), value_in(directory.path(), "another")), (Some(7), None));
        std::fs::write(directory.path().join("a.point"), "burn").unwrap();
        assert_eq!(pass_armed(directory.path(), "a.point").unwrap_err().sqlstate(), "XX000");
    }
}
