//! Settings of the server: flags over environment over the TOML file over defaults, every one typed, named and explained.
//!
//! A setting has one name everywhere: `epoch.max_rows` in the file (a table `epoch`), `MILLSTREAM__EPOCH__MAX_ROWS` in the
//! environment, `--set epoch.max_rows=…` on the command line, a row in `millstream.settings`. [`SETTINGS`] lists them all;
//! a name that is not in it is an error.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result, sqlstate};

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, about = "Continuous SQL over Kafka and batch SQL over Parquet, in one server.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What the program is asked to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Run the server with a stream of made-up card payments, fraud views over it, and a ledger to reconcile with.
    Demo(DemoArgs),
}

/// Flags of `millstream serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the server's state; created if missing, locked while the server runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address for PostgreSQL clients.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address for /livez, /readyz and /metrics.
    #[arg(long, value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any setting by its name; may be repeated.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
}

/// Flags of `millstream demo`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    long_about = "Run the server with a stream of made-up card payments, three kinds of fraud planted among them, continuous\n\
        views that find it, a Kafka topic of alerts, and a Parquet ledger with planted breaks to reconcile with.\n\n\
        Without --kafka the demo carries a broker of its own, in memory, and lives in a temporary directory: each start is\n\
        a new demo. With --kafka HOST:PORT --data-dir DIR the topics \"payments\" and \"fraud-alerts\" are on that broker, and\n\
        the next start with the same flags continues where this one stopped.",
    after_help = "It prints the psql line to connect with, then how it goes: in place on a terminal, a line every few seconds \
        elsewhere. Ctrl-C or SIGTERM stops it."
)]
pub struct DemoArgs {
    /// A real Kafka broker; needs --data-dir.
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Payments per second.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Cards that pay [default: 20 for each payment per second].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub cards: Option<u32>,
    /// Honest payments between two planted frauds, roughly.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub fraud_every: u32,
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The `log.*` settings.
#[derive(Debug, Clone)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A `tracing` filter: `info`, `millstream=debug,warn`.
    pub filter: String,
}

/// The `batch.*` settings.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// All queries together; past it they spill.
    pub memory_limit_bytes: usize,
    /// `None`: a directory `spill` in the data directory.
    pub spill_dir: Option<PathBuf>,
    /// Footers of Parquet files.
    pub metadata_cache_bytes: usize,
}

/// The `state.*` settings.
#[derive(Debug, Clone)]
pub struct StateConfig {
    /// Hot keys of the operators.
    pub cache_bytes: usize,
    /// Blocks of the store's files.
    pub block_cache_bytes: usize,
    /// Memtables of the store.
    pub write_buffer_bytes: usize,
    /// Past it an epoch's write set spills.
    pub max_write_set_bytes: usize,
    /// Past it the statement that caused it fails.
    pub write_set_limit_bytes: usize,
}

/// The `epoch.*` settings: what one epoch takes at most.
#[derive(Debug, Clone)]
pub struct EpochConfig {
    pub max_rows: usize,
    pub max_bytes: usize,
    pub max_ms: u64,
}

/// The `tls.*` settings.
#[derive(Debug, Clone, Default)]
pub struct TlsConfig {
    /// The server's certificate and those that it is signed by, in PEM format; `None`: connections are not encrypted.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Whether connections that are not encrypted are refused.
    pub required: bool,
}

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub max_connections: usize,
    /// How long running statements may go on after SIGTERM.
    pub shutdown_grace: Duration,
    /// A snapshot older than this ends its reader with 72000.
    pub snapshot_max_age: Duration,
    /// Dead letters and late rows are kept for so long; 0: for ever.
    pub dead_letter_retention: Duration,
    pub log: LogConfig,
    pub tls: TlsConfig,
    pub batch: BatchConfig,
    pub state: StateConfig,
    pub epoch: EpochConfig,
    /// Changes that are kept for subscriptions.
    pub subscribe_history_bytes: usize,
    /// Runs of tasks at one time.
    pub tasks_at_once: usize,
    origins: BTreeMap<&'static str, Origin>,
}

/// Where a value comes from; a later one wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl Origin {
    /// The word in `millstream.settings.source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }
}

/// A row of `millstream.settings`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingRow {
    pub name: &'static str,
    pub value: String,
    pub default: &'static str,
    pub source: &'static str,
    pub description: &'static str,
}

/// A setting's name, default and meaning, and how it is read into and out of [`Config`].
pub struct Setting {
    pub name: &'static str,
    pub default: &'static str,
    pub description: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
    show: fn(&Config) -> String,
}

macro_rules! settings {
    ($($name:literal: $kind:ident => $($field:ident).+, $default:literal, $description:literal;)+) => {
        /// Every setting, by name.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            name: $name,
            default: $default,
            description: $description,
            set: |config, text| { config.$($field).+ = $kind::parse(text)?; Ok(()) },
            show: |config| $kind::show(&config.$($field).+),
        }),+];
    };
}

settings! {
    "batch.memory_limit_bytes": size => batch.memory_limit_bytes, "1GiB",
        "Memory of all queries together; past it sorts, joins and aggregates spill to disk.";
    "batch.spill_dir": optional_path => batch.spill_dir, "",
        "Where queries spill; empty: the directory spill in the data directory.";
    "batch.metadata_cache_bytes": size => batch.metadata_cache_bytes, "64MiB",
        "Memory for the footers of Parquet files, which are read once while a file does not change.";
    "data_dir": path => data_dir, "millstream-data",
        "Directory of the server's state; created if missing, locked while the server runs.";
    "dead_letter_retention": duration => dead_letter_retention, "30d",
        "How long dead letters and kept late rows stay; 0s: for ever.";
    "epoch.max_bytes": size => epoch.max_bytes, "64MiB",
        "Input that one epoch takes at most.";
    "epoch.max_ms": count => epoch.max_ms, "100",
        "Milliseconds that the input of one epoch may keep it busy, as far as the last epochs tell.";
    "epoch.max_rows": count => epoch.max_rows, "262144",
        "Input rows that one epoch takes at most.";
    "http": address => http, "127.0.0.1:6566",
        "Address for /livez, /readyz and /metrics.";
    "listen": address => listen, "127.0.0.1:6565",
        "Address for PostgreSQL clients.";
    "log.filter": text => log.filter, "info,deltalake_core=error,buoyant_kernel=error",
        "Which log lines are written: a level, or target=level pairs.";
    "log.format": log_format => log.format, "text",
        "How log lines look: text or json.";
    "max_connections": count => max_connections, "200",
        "Client connections at one time; one more is refused with 53300.";
    "shutdown_grace": duration => shutdown_grace, "10s",
        "How long running statements may go on after SIGTERM.";
    "snapshot_max_age": duration => snapshot_max_age, "10min",
        "A reader whose snapshot is older ends with 72000.";
    "state.block_cache_bytes": size => state.block_cache_bytes, "256MiB",
        "Cache of the store's blocks.";
    "state.cache_bytes": size => state.cache_bytes, "256MiB",
        "Cache of the operators' hot keys.";
    "state.max_write_set_bytes": size => state.max_write_set_bytes, "256MiB",
        "Write set of one epoch that goes through the log; a larger one is committed as sorted files.";
    "state.write_buffer_bytes": size => state.write_buffer_bytes, "128MiB",
        "Memtables of the store.";
    "state.write_set_limit_bytes": size => state.write_set_limit_bytes, "1GiB",
        "Memory of one epoch's changes; a statement that needs more fails with 54000.";
    "subscribe.history_bytes": size => subscribe_history_bytes, "64MiB",
        "Changes of all relations that somebody subscribes to; who is behind them ends with 53400.";
    "tasks.max_running": count => tasks_at_once, "4",
        "Runs of scheduled tasks at one time; others wait.";
    "tls.cert_file": optional_path => tls.cert_file, "",
        "Certificate of the server and those that it is signed by, in PEM format; empty: no encryption. SIGHUP reads it again.";
    "tls.key_file": optional_path => tls.key_file, "",
        "Private key of the certificate, in PEM format, which nobody else may read.";
    "tls.required": switch => tls.required, "off",
        "Whether connections that are not encrypted are refused: on or off.";
}

impl Config {
    /// The settings for these flags, this process's environment and the file that `--config` names.
    pub fn load(args: &ServeArgs) -> Result<Self> {
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::from_sources(file, from_environment(environment)?, args.settings()?)
    }

    /// The defaults with these values on top, as if they were flags; for tests and embedding.
    pub fn with(values: &[(&str, &str)]) -> Result<Self> {
        let flags = values.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        Self::from_sources(Vec::new(), Vec::new(), flags)
    }

    fn from_sources(file: Pairs, environment: Pairs, flags: Pairs) -> Result<Self> {
        let mut config = Self::unset();
        for setting in SETTINGS {
            (setting.set)(&mut config, setting.default)
                .map_err(|e| Error::internal(format!("default of {}: {e}", setting.name)))?;
        }
        for (origin, pairs) in [(Origin::File, file), (Origin::Environment, environment), (Origin::Flag, flags)] {
            for (name, text) in pairs {
                config.assign(origin, &name, &text)?;
            }
        }
        config.check()?;
        Ok(config)
    }

    fn assign(&mut self, origin: Origin, name: &str, text: &str) -> Result<()> {
        let Some(setting) = SETTINGS.iter().find(|s| s.name == name) else {
            let known = SETTINGS.iter().map(|s| s.name).collect::<Vec<_>>().join(", ");
            return Err(invalid(format!("unknown setting \"{name}\" in the {}", origin.as_str()))
                .with_hint(format!("settings are: {known}")));
        };
        (setting.set)(self, text).map_err(|e| {
            invalid(format!("invalid value for setting \"{name}\": {e}")).with_hint(setting.description)
        })?;
        self.origins.insert(setting.name, origin);
        Ok(())
    }

    /// What no single setting can tell.
    fn check(&self) -> Result<()> {
        let TlsConfig { cert_file, key_file, required } = &self.tls;
        if cert_file.is_some() != key_file.is_some() {
            return Err(invalid("settings \"tls.cert_file\" and \"tls.key_file\" go together")
                .with_hint("give both, or neither for connections without encryption"));
        }
        if *required && cert_file.is_none() {
            return Err(invalid("setting \"tls.required\" needs a certificate")
                .with_hint("give tls.cert_file and tls.key_file"));
        }
        for (name, value) in [
            ("max_connections", self.max_connections),
            ("epoch.max_rows", self.epoch.max_rows),
            ("epoch.max_bytes", self.epoch.max_bytes),
            ("epoch.max_ms", self.epoch.max_ms as usize),
            ("state.max_write_set_bytes", self.state.max_write_set_bytes),
            ("state.write_set_limit_bytes", self.state.write_set_limit_bytes),
            ("tasks.max_running", self.tasks_at_once),
        ] {
            if value == 0 {
                return Err(invalid(format!("setting \"{name}\" must be greater than 0")));
            }
        }
        Ok(())
    }

    /// The rows of `millstream.settings`.
    pub fn rows(&self) -> Vec<SettingRow> {
        SETTINGS
            .iter()
            .map(|s| SettingRow {
                name: s.name,
                value: (s.show)(self),
                default: s.default,
                source: self.origins.get(s.name).copied().unwrap_or(Origin::Default).as_str(),
                description: s.description,
            })
            .collect()
    }

    /// Whether a setting has another origin than its default.
    pub fn is_set(&self, name: &str) -> bool {
        self.origins.get(name).is_some_and(|origin| *origin != Origin::Default)
    }

    /// Where queries spill.
    pub fn spill_dir(&self) -> PathBuf {
        self.batch.spill_dir.clone().unwrap_or_else(|| self.data_dir.join("spill"))
    }

    /// The value before the defaults of [`SETTINGS`] are assigned.
    fn unset() -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: PathBuf::new(),
            listen: nowhere,
            http: nowhere,
            max_connections: 0,
            shutdown_grace: Duration::ZERO,
            snapshot_max_age: Duration::ZERO,
            dead_letter_retention: Duration::ZERO,
            log: LogConfig { format: LogFormat::Text, filter: String::new() },
            batch: BatchConfig { memory_limit_bytes: 0, spill_dir: None, metadata_cache_bytes: 0 },
            state: StateConfig {
                cache_bytes: 0,
                block_cache_bytes: 0,
                write_buffer_bytes: 0,
                max_write_set_bytes: 0,
                write_set_limit_bytes: 0,
            },
            epoch: EpochConfig { max_rows: 0, max_bytes: 0, max_ms: 0 },
            tls: TlsConfig::default(),
            subscribe_history_bytes: 0,
            tasks_at_once: 0,
            origins: BTreeMap::new(),
        }
    }
}

impl ServeArgs {
    /// The flags as settings; `--set` first, so that a flag of its own wins.
    fn settings(&self) -> Result<Pairs> {
        let mut pairs = Vec::new();
        for text in &self.set {
            let (name, value) =
                text.split_once('=').ok_or_else(|| invalid(format!("--set {text}: expected NAME=VALUE")))?;
            pairs.push((name.trim().to_string(), value.trim().to_string()));
        }
        let path = |p: &PathBuf| p.to_string_lossy().into_owned();
        let named = [
            ("data_dir", self.data_dir.as_ref().map(path)),
            ("listen", self.listen.clone()),
            ("http", self.http.clone()),
            ("log.format", self.log_format.clone()),
        ];
        pairs.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
        Ok(pairs)
    }
}

/// Setting names with their values as text.
type Pairs = Vec<(String, String)>;

fn read_file(path: &Path) -> Result<Pairs> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Error::new(sqlstate::UNDEFINED_FILE, format!("cannot read the settings file {}: {e}", path.display()))
    })?;
    from_toml(&text).map_err(|e| invalid(format!("settings file {}: {}", path.display(), e.message())))
}

fn from_toml(text: &str) -> Result<Pairs> {
    flatten(config::Config::builder().add_source(config::File::from_str(text, config::FileFormat::Toml)))
}

fn from_environment(variables: std::collections::HashMap<String, String>) -> Result<Pairs> {
    let source =
        config::Environment::with_prefix("MILLSTREAM").prefix_separator("__").separator("__").source(Some(variables));
    flatten(config::Config::builder().add_source(source))
}

fn flatten(builder: config::ConfigBuilder<config::builder::DefaultState>) -> Result<Pairs> {
    let value: serde_json::Value =
        builder.build().and_then(config::Config::try_deserialize).map_err(|e| invalid(e.to_string()))?;
    let mut pairs = Vec::new();
    flatten_into(String::new(), value, &mut pairs);
    Ok(pairs)
}

fn flatten_into(name: String, value: serde_json::Value, pairs: &mut Pairs) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                flatten_into(name, value, pairs);
            }
        }
        serde_json::Value::String(text) => pairs.push((name, text)),
        other => pairs.push((name, other.to_string())),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
}

/// Whole numbers without a unit.
mod count {
    use std::fmt::Display;
    use std::str::FromStr;

    pub fn parse<T: FromStr>(text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("expected a whole number, found \"{text}\""))
    }

    pub fn show(value: &impl Display) -> String {
        value.to_string()
    }
}

/// Bytes: a whole number, with `KiB`, `MiB`, `GiB`, `TiB` or `kB`, `MB`, `GB`, `TB` behind it or none.
mod size {
    const UNITS: [(&str, usize); 10] = [
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];

    pub fn parse(text: &str) -> Result<usize, String> {
        let (number, unit) = super::split_unit(text);
        let number: usize = number.parse().map_err(|_| format!("expected a size such as 64MiB, found \"{text}\""))?;
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .ok_or_else(|| format!("unknown unit \"{unit}\"; units are B, KiB, MiB, GiB, TiB, kB, MB, GB, TB"))?;
        number.checked_mul(*factor).ok_or_else(|| format!("\"{text}\" is too large"))
    }

    /// The largest binary unit that leaves a whole number.
    pub fn show(value: &usize) -> String {
        let (name, factor) = UNITS[2..6]
            .iter()
            .rev()
            .find(|(_, factor)| *value > 0 && value.is_multiple_of(*factor))
            .copied()
            .unwrap_or(("", 1));
        format!("{}{name}", value / factor)
    }
}

/// Durations: a whole number with `ms`, `s`, `min`, `h` or `d`.
mod duration {
    use std::time::Duration;

    const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

    pub fn parse(text: &str) -> Result<Duration, String> {
        let (number, unit) = super::split_unit(text);
        let number: u64 = number.parse().map_err(|_| format!("expected a duration such as 10min, found \"{text}\""))?;
        let (_, factor) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| format!("\"{text}\" needs a unit: ms, s, min, h or d"))?;
        number.checked_mul(*factor).map(Duration::from_millis).ok_or_else(|| format!("\"{text}\" is too long"))
    }

    /// The largest unit that leaves a whole number.
    pub fn show(value: &Duration) -> String {
        let ms = value.as_millis() as u64;
        let (name, factor) =
            UNITS.iter().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor)).copied().unwrap_or(("ms", 1));
        format!("{}{name}", ms / factor)
    }
}

mod address {
    use super::{SocketAddr, ToSocketAddrs};

    pub fn parse(text: &str) -> Result<SocketAddr, String> {
        text.to_socket_addrs()
            .ok()
            .and_then(|mut addresses| addresses.next())
            .ok_or_else(|| format!("expected HOST:PORT, found \"{text}\""))
    }

    pub fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

mod text {
    pub fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_string())
    }

    pub fn show(value: &str) -> String {
        value.to_string()
    }
}

mod path {
    use super::{Path, PathBuf};

    pub fn parse(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("expected a path".into()) } else { Ok(PathBuf::from(text)) }
    }

    pub fn show(value: &Path) -> String {
        value.display().to_string()
    }
}

mod optional_path {
    use super::PathBuf;

    pub fn parse(text: &str) -> Result<Option<PathBuf>, String> {
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    pub fn show(value: &Option<PathBuf>) -> String {
        value.as_ref().map(|p| p.display().to_string()).unwrap_or_default()
    }
}

mod switch {
    pub fn parse(text: &str) -> Result<bool, String> {
        match text {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            other => Err(format!("expected on or off, found \"{other}\"")),
        }
    }

    pub fn show(value: &bool) -> String {
        if *value { "on".into() } else { "off".into() }
    }
}

mod log_format {
    use super::LogFormat;

    pub fn parse(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("expected text or json, found \"{other}\"")),
        }
    }

    pub fn show(value: &LogFormat) -> String {
        match value {
            LogFormat::Text => "text".into(),
            LogFormat::Json => "json".into(),
        }
    }
}

/// A number and the unit behind it.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(values: &[(&str, &str)]) -> Pairs {
        values.iter().map(|(n, v)| ((*n).to_string(), (*v).to_string())).collect()
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = from_toml("max_connections = 7\n[epoch]\nmax_rows = 10\nmax_ms = 20\nmax_bytes = '2MiB'\n").unwrap();
        let environment = from_environment(std::collections::HashMap::from([
            ("MILLSTREAM__EPOCH__MAX_ROWS".to_string(), "11".to_string()),
            ("MILLSTREAM__EPOCH__MAX_MS".to_string(), "21".to_string()),
            ("MILLSTREAM_CACHE".to_string(), "not a setting".to_string()),
        ]))
        .unwrap();
        let args = ServeArgs { set: vec!["epoch.max_rows=12".into()], ..ServeArgs::default() };
        let config = Config::from_sources(file, environment, args.settings().unwrap()).unwrap();
        assert_eq!(config.epoch.max_rows, 12);
        assert_eq!(config.epoch.max_ms, 21);
        assert_eq!(config.epoch.max_bytes, 2 << 20);
        assert_eq!(config.max_connections, 7);
        assert_eq!(config.snapshot_max_age, Duration::from_secs(600));
        let row = |name: &str| config.rows().into_iter().find(|r| r.name == name).unwrap();
        assert_eq!((row("epoch.max_rows").value.as_str(), row("epoch.max_rows").source), ("12", "flag"));
        assert_eq!((row("epoch.max_bytes").value.as_str(), row("epoch.max_bytes").source), ("2MiB", "file"));
        assert_eq!((row("snapshot_max_age").value.as_str(), row("snapshot_max_age").source), ("10min", "default"));
    }

    #[test]
    fn an_unknown_setting_lists_the_known_ones() {
        let error = Config::from_sources(from_toml("[epoch]\nmax_row = 1").unwrap(), vec![], vec![]).unwrap_err();
        assert_eq!(error.message(), "unknown setting \"epoch.max_row\" in the file");
        assert!(error.hint().unwrap().contains("epoch.max_rows"), "{error:?}");
    }

    #[test]
    fn values_are_typed() {
        for (name, value, wanted) in [
            ("epoch.max_rows", "many", "expected a whole number"),
            ("epoch.max_bytes", "3 parsecs", "unknown unit \"parsecs\""),
            ("snapshot_max_age", "600", "needs a unit"),
            ("log.format", "xml", "expected text or json"),
            ("listen", "6565", "expected HOST:PORT"),
            ("max_connections", "0", "greater than 0"),
        ] {
            let error = Config::from_sources(vec![], vec![], pairs(&[(name, value)])).unwrap_err();
            assert!(error.message().contains(wanted), "{name}={value}: {error}");
        }
    }

    #[test]
    fn settings_of_encryption_go_together() {
        let error = Config::with(&[("tls.cert_file", "a.crt")]).unwrap_err();
        assert_eq!(error.message(), "settings \"tls.cert_file\" and \"tls.key_file\" go together");
        let error = Config::with(&[("tls.required", "on")]).unwrap_err();
        assert_eq!(error.message(), "setting \"tls.required\" needs a certificate");
        assert!(Config::with(&[("tls.cert_file", "a"), ("tls.key_file", "b"), ("tls.required", "on")]).is_ok());
    }

    #[test]
    fn every_default_shows_as_it_is_written() {
        for row in Config::with(&[]).unwrap().rows() {
            assert_eq!(row.value, row.default, "{}", row.name);
        }
    }

    #[test]
    fn the_command_line_of_the_readme_parses() {
        let cli = Cli::try_parse_from([
            "millstream",
            "serve",
            "--data-dir",
            "d",
            "--listen",
            "127.0.0.1:1",
            "--http",
            "127.0.0.1:2",
            "--log-format",
            "json",
            "--set",
            "epoch.max_ms=5",
        ])
        .unwrap();
        let Command::Serve(args) = cli.command else { panic!("expected serve") };
        let config = Config::from_sources(vec![], vec![], args.settings().unwrap()).unwrap();
        assert_eq!((config.data_dir, config.log.format, config.epoch.max_ms), ("d".into(), LogFormat::Json, 5));
        let cli = Cli::try_parse_from(["millstream", "demo", "--kafka", "h:1", "--data-dir", "d"]).unwrap();
        assert!(matches!(cli.command, Command::Demo(DemoArgs { kafka: Some(_), .. })));
    }
}
