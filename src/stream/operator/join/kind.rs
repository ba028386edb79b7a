//! The kinds of join: which pairs and which rows on their own each of them puts out.

/// What a join puts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
    /// Left rows that have a match.
    Semi,
    /// Left rows that have none.
    Anti,
    /// Left rows, with a column that says whether they have a match.
    Mark,
}

/// How rows of one side are put out on their own, beside pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// Those without a match, with NULLs for the other side.
    Padded,
    Matched,
    Unmatched,
    /// All, with whether they have a match.
    Marked,
}

impl JoinKind {
    /// Its name in EXPLAIN.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inner => "inner",
            Self::Left => "left",
            Self::Right => "right",
            Self::Full => "full",
            Self::Semi => "semi",
            Self::Anti => "anti",
            Self::Mark => "mark",
        }
    }

    /// Whether pairs of matching rows are put out.
    pub(super) fn pairs(self) -> bool {
        matches!(self, Self::Inner | Self::Left | Self::Right | Self::Full)
    }

    /// What comes of the rows of a side (0 left, 1 right) on their own.
    pub(super) fn alone(self, side: usize) -> Option<Alone> {
        match (self, side) {
            (Self::Left | Self::Full, 0) | (Self::Right | Self::Full, 1) => Some(Alone::Padded),
            (Self::Semi, 0) => Some(Alone::Matched),
            (Self::Anti, 0) => Some(Alone::Unmatched),
            (Self::Mark, 0) => Some(Alone::Marked),
            _ => None,
        }
    }

    /// Whether the result only grows if both inputs do.
    pub fn keeps_append_only(self) -> bool {
        matches!(self, Self::Inner | Self::Semi)
    }

    /// Whether columns of a side (0 left, 1 right) are in the result.
    pub fn shows(self, side: usize) -> bool {
        side == 0 || self.pairs()
    }
}

impl Alone {
    /// Whether a row is put out that has, or has not, a match.
    pub fn shows(self, matched: bool) -> bool {
        match self {
            Self::Padded | Self::Unmatched => !matched,
            Self::Matched => matched,
            Self::Marked => true,
        }
    }
}
