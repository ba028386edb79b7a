//! The functions of the dialect: DataFusion's, with PostgreSQL's in place of those that differ.
//!
//! * [`arithmetic`]: `+ - * / %` with overflow and division by zero reported
//! * [`cast`]: casts by PostgreSQL's rules
//! * `datetime`: `now()`, EXTRACT, AT TIME ZONE; `dates`: `to_char` and kin by `template` and `number_template`, `age`,
//!   `date_trunc`
//! * `interval`: order, scaling and parts of intervals
//! * `math`: rounding, roots, logarithms
//! * [`sums`]: `sum` and `avg` with exact results; [`moments`]: variance and standard deviation; [`float_sum`] and `float_aggregates`: both of floats;
//!   `ordered_set`: percentiles and `mode`; `own_type`: `min`, `max`, `array_agg` with the type of their argument
//! * [`approx_distinct`] has `approx_count_distinct`
//! * `ranking`: `row_number`, `rank`, `dense_rank`, `ntile` with PostgreSQL's types
//! * `encoding`: bytes as text; `text`: lengths, `format`, patterns; `json`: builders
//! * [`windows`]: the functions under TUMBLE and HOP
//! * [`run`]: `run_time()`, `run_date()` and `run_parameter()` of a task's run, likewise
//! * [`session`]: `current_user`, `version()` and kin, replaced by constants when a statement is planned

pub mod approx_distinct;
pub mod arithmetic;
pub mod cast;
mod dates;
mod datetime;
mod define;
mod encoding;
mod float_aggregates;
pub mod float_sum;
pub(crate) mod interval;
pub(crate) mod json;
pub(crate) mod math;
pub mod moments;
mod number_template;
pub mod ordered_set;
mod own_type;
mod ranking;
pub mod run;
pub mod session;
pub mod sums;
mod template;
mod text;
pub mod windows;
pub(crate) mod with_ties;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use datafusion_expr::{AggregateUDF, ScalarUDF, WindowUDF};

/// All functions, each once; aliases are in the functions themselves.
#[derive(Debug, Clone, Default)]
pub struct FunctionSet {
    pub scalar: Vec<Arc<ScalarUDF>>,
    pub aggregate: Vec<Arc<AggregateUDF>>,
    pub window: Vec<Arc<WindowUDF>>,
}

struct Index {
    set: FunctionSet,
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
}

/// Every function that a query may call; the same in views, ad-hoc queries and tasks.
pub fn functions() -> &'static FunctionSet {
    &index().set
}

/// A scalar function by its name or alias in lower case.
pub fn scalar(name: &str) -> Option<Arc<ScalarUDF>> {
    index().scalar.get(name).cloned()
}

/// An aggregate function by name.
pub fn aggregate(name: &str) -> Option<Arc<AggregateUDF>> {
    index().aggregate.get(name).cloned()
}

/// A window function by name.
pub fn window(name: &str) -> Option<Arc<WindowUDF>> {
    index().window.get(name).cloned()
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        // Later ones win: ours stand in place of DataFusion's of the same name.
        let mut scalar = HashMap::new();
        let base = datafusion_functions::all_default_functions()
            .into_iter()
            .chain(datafusion_functions_nested::all_default_nested_functions())
            .chain(json_functions())
            .filter(|f| !REMOVED.contains(&f.name()));
        for f in base.chain(own_scalars()) {
            for name in f.aliases().iter().map(String::as_str).chain([f.name()]) {
                scalar.insert(name.to_string(), f.clone());
            }
        }
        let mut aggregate = HashMap::new();
        let base = datafusion_functions_aggregate::all_default_aggregate_functions();
        let own = [sums::sum(), sums::avg(), approx_distinct::approx_count_distinct()].into_iter();
        let own = own.chain(moments::all()).chain(ordered_set::all()).chain(own_type::all());
        for f in base.into_iter().chain(own) {
            for name in f.aliases().iter().map(String::as_str).chain([f.name()]) {
                aggregate.insert(name.to_string(), f.clone());
            }
        }
        if let Some(bool_and) = aggregate.get("bool_and").cloned() {
            aggregate.insert("every".to_string(), bool_and);
        }
        let mut window = HashMap::new();
        for f in datafusion_functions_window::all_default_window_functions().into_iter().chain(ranking::all()) {
            for name in f.aliases().iter().map(String::as_str).chain([f.name()]) {
                window.insert(name.to_string(), f.clone());
            }
        }
        let set = FunctionSet {
            scalar: unique(&scalar, |f| f.name().to_string()),
            aggregate: unique(&aggregate, |f| f.name().to_string()),
            window: unique(&window, |f| f.name().to_string()),
        };
        Index { set, scalar, aggregate, window }
    })
}

/// DataFusion's functions that would show what is not PostgreSQL's, or read the machine.
///
/// The conversions read other patterns and give nanoseconds; without them a query gets an error instead of another value.
const REMOVED: [&str; 15] = [
    "arrow_cast",
    "arrow_try_cast",
    "arrow_metadata",
    "version",
    "now",
    "date_part",
    "to_char",
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    "to_date",
    "to_time",
    "to_unixtime",
];

/// What EXTRACT is planned as.
pub(crate) fn extract() -> Arc<ScalarUDF> {
    datetime::extract()
}

pub(crate) use dates::zoned_plus_interval;

/// The function with the session's time zone in it, if it is one that looks at it.
pub(crate) fn in_zone(function: &ScalarUDF, zone: &str) -> Option<ScalarUDF> {
    define::in_zone(function, zone).or_else(|| datetime::in_zone(function, zone))
}

fn own_scalars() -> Vec<Arc<ScalarUDF>> {
    let mut own = vec![
        arithmetic::binary(arithmetic::Op::Add),
        arithmetic::binary(arithmetic::Op::Sub),
        arithmetic::binary(arithmetic::Op::Mul),
        arithmetic::binary(arithmetic::Op::Div),
        arithmetic::binary(arithmetic::Op::Rem),
        arithmetic::negate(),
        windows::tumble_start(),
        windows::hop_starts(),
        windows::cumulate_start(),
        windows::cumulate_ends(),
        with_ties::with_ties(),
    ];
    own.extend(session::all());
    own.extend(run::all());
    own.extend(datetime::all());
    own.extend(interval::all());
    own.extend(math::all());
    own.extend(text::all());
    own.extend(dates::all());
    own.extend(json::all());
    own.extend(encoding::all());
    own
}

fn json_functions() -> Vec<Arc<ScalarUDF>> {
    use datafusion_functions_json::udfs;
    vec![
        udfs::json_get_json_udf(),
        udfs::json_as_text_udf(),
        udfs::json_get_str_udf(),
        udfs::json_get_int_udf(),
        udfs::json_get_float_udf(),
        udfs::json_get_bool_udf(),
        udfs::json_contains_udf(),
        udfs::json_length_udf(),
    ]
}

fn unique<T: Clone>(map: &HashMap<String, Arc<T>>, name: impl Fn(&T) -> String) -> Vec<Arc<T>> {
    let mut all: Vec<(String, Arc<T>)> =
        map.iter().filter(|(key, f)| **key == name(f)).map(|(key, f)| (key.clone(), f.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, f)| f).collect()
}
