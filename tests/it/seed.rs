//! Seeds and sizes of the generated tests, from the environment.

use std::str::FromStr;

/// A number from the environment; unset or empty gives the default, anything else that does not parse panics.
pub fn setting<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        _ => default,
    }
}

/// The seed of a generated test: `MILLSTREAM_SEED`, else a fixed one, so that a red run is red again.
pub fn seed(test: &str) -> u64 {
    let seed = setting("MILLSTREAM_SEED", 20_261_123);
    eprintln!("{test}: MILLSTREAM_SEED={seed}");
    seed
}
