//! Where a reader starts, and what it does where that place is gone.

use crate::chunk::Positions;

/// Where a reader starts, and where it ends.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Next offset to read, by partition. Empty: the start mode of the source decides. Otherwise partitions that are not
    /// in it are new and are read from their beginning, so that none of their records is missed.
    pub positions: Positions,
    /// With ends only the partitions named there are read, each up to its end: its last chunk ends there exactly.
    pub ends: Option<Positions>,
    /// What the positions are of, as [`crate::Chunk::origin`] told it; `None`: that is not known yet.
    pub origin: Option<String>,
    /// Go on here where positions are gone or are of another topic, this once, and not as the source's options say.
    pub reset: Option<Reset>,
}

/// Where a partition goes on whose position is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// At the first record that there is.
    Earliest,
    /// After the last record.
    Latest,
}

impl Reset {
    /// The words of options and statements.
    pub const WORDS: [(&'static str, Self); 2] = [("earliest", Self::Earliest), ("latest", Self::Latest)];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
        }
    }

    /// The one of a word, whose case does not matter.
    pub fn of(word: &str) -> Option<Self> {
        Self::WORDS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(word.trim())).map(|(_, reset)| reset)
    }
}
