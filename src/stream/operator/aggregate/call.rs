//! Which aggregates there are, and one with its columns.

use crate::stream::operator::order_key::SortColumn;

/// What an aggregate computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateKind {
    Count,
    Sum,
    Avg,
    Min,
    Max,
    BoolAnd,
    BoolOr,
    BitAnd,
    BitOr,
    BitXor,
    VarPop,
    VarSamp,
    StddevPop,
    StddevSamp,
    ArrayAgg,
    StringAgg,
    FirstValue,
    LastValue,
    PercentileCont,
    PercentileDisc,
    Mode,
    ApproxCountDistinct,
}

impl AggregateKind {
    const ALL: [Self; 22] = [
        Self::Count,
        Self::Sum,
        Self::Avg,
        Self::Min,
        Self::Max,
        Self::BoolAnd,
        Self::BoolOr,
        Self::BitAnd,
        Self::BitOr,
        Self::BitXor,
        Self::VarPop,
        Self::VarSamp,
        Self::StddevPop,
        Self::StddevSamp,
        Self::ArrayAgg,
        Self::StringAgg,
        Self::FirstValue,
        Self::LastValue,
        Self::PercentileCont,
        Self::PercentileDisc,
        Self::Mode,
        Self::ApproxCountDistinct,
    ];

    /// The aggregate of this name, if it is one that can be kept.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the order of the values decides the result.
    pub fn depends_on_order(self) -> bool {
        matches!(self, Self::ArrayAgg | Self::StringAgg | Self::FirstValue | Self::LastValue) || self.is_ordered_set()
    }

    /// Whether WITHIN GROUP says of which values, in which order, it is.
    pub fn is_ordered_set(self) -> bool {
        matches!(self, Self::PercentileCont | Self::PercentileDisc | Self::Mode)
    }

    /// Whether it does not matter how often a value is there.
    pub fn ignores_copies(self) -> bool {
        use AggregateKind as K;
        matches!(self, K::Min | K::Max | K::BoolAnd | K::BoolOr | K::BitAnd | K::BitOr | K::ApproxCountDistinct)
    }

    /// Its SQL name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::BoolAnd => "bool_and",
            Self::BoolOr => "bool_or",
            Self::BitAnd => "bit_and",
            Self::BitOr => "bit_or",
            Self::BitXor => "bit_xor",
            Self::VarPop => "var_pop",
            Self::VarSamp => "var_samp",
            Self::StddevPop => "stddev_pop",
            Self::StddevSamp => "stddev_samp",
            Self::ArrayAgg => "array_agg",
            Self::StringAgg => "string_agg",
            Self::FirstValue => "first_value",
            Self::LastValue => "last_value",
            Self::PercentileCont => "percentile_cont",
            Self::PercentileDisc => "percentile_disc",
            Self::Mode => "mode",
            Self::ApproxCountDistinct => "approx_count_distinct",
        }
    }
}

/// One aggregate over columns of the input.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateCall {
    pub kind: AggregateKind,
    /// Position of the argument; `None` for COUNT(*).
    pub argument: Option<usize>,
    /// Position of the boolean column of a FILTER.
    pub filter: Option<usize>,
    /// Whether each value counts once.
    pub distinct: bool,
    /// The order of the values, for those that depend on it.
    pub order_by: Vec<SortColumn>,
    /// What STRING_AGG puts between two values.
    pub separator: Option<String>,
    /// The fraction of a percentile, from 0 to 1.
    pub fraction: Option<f64>,
}

impl AggregateCall {
    /// An aggregate over all values of a column, or over rows if there is none.
    pub fn plain(kind: AggregateKind, argument: Option<usize>) -> Self {
        Self { kind, argument, filter: None, distinct: false, order_by: Vec::new(), separator: None, fraction: None }
    }
}
