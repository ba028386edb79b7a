//! `make bench`: every Nexmark query over the built-in generator, over files of JSON lines and over a Kafka topic of the same
//! lines, each kept as a view and sent to `blackhole`, on a server of its own.
//!
//! Prints a line for each run: events/s of all events (also those that the query leaves out), CPU seconds, peak memory and
//! the size of the data directory. `MILLSTREAM_NEXMARK_EVENTS` (default one million) sets the number of events,
//! `MILLSTREAM_NEXMARK_QUERIES` (`q5,q7`), `MILLSTREAM_NEXMARK_INPUTS` (`generator,files,kafka`) and
//! `MILLSTREAM_NEXMARK_OUTPUTS` (`view,blackhole`) what is run, `MILLSTREAM_NEXMARK_FILES` a folder of lines made before,
//! such as those that another system reads in the same run.

#[path = "../tests/it/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../tests/it/kafka.rs"]
#[allow(dead_code)]
mod kafka;
#[path = "../tests/it/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../tests/it/seed.rs"]
#[allow(dead_code)]
mod seed;
#[path = "../tests/it/server.rs"]
#[allow(dead_code)]
mod server;

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_connectors::nexmark::JsonEvents;

use client::Session;
use kafka::{Producer, Record};
use server::Server;

const QUERIES: usize = 23;
/// Files and partitions that the lines are dealt over, so that two cores can read.
const PARTS: usize = 2;
/// As a round of events, so that event time advances alike in all parts.
const DEALT_EVENTS: u64 = 50;
/// Longest time that one run may take.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Generator,
    Files,
    Kafka,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    View,
    Blackhole,
}

fn main() {
    if cfg!(debug_assertions) {
        println!("nexmark: not measured in a debug build");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(run());
}

async fn run() {
    let chosen = |name: &str, all: &str| -> Vec<String> {
        let list: String = seed::setting(name, all.to_string());
        list.split(',').map(str::to_string).collect()
    };
    let all: Vec<String> = (0..QUERIES).map(|q| format!("q{q}")).collect();
    let queries = chosen("MILLSTREAM_NEXMARK_QUERIES", &all.join(","));
    let inputs = chosen("MILLSTREAM_NEXMARK_INPUTS", "generator,files,kafka");
    let outputs = chosen("MILLSTREAM_NEXMARK_OUTPUTS", "view,blackhole");
    let given: String = seed::setting("MILLSTREAM_NEXMARK_FILES", String::new());
    let own = tempfile::Builder::new().prefix("millstream-nexmark-").tempdir().expect("a temporary directory");
    let mut data = Data { events: seed::setting("MILLSTREAM_NEXMARK_EVENTS", 1_000_000), ..Data::default() };
    let named = |name: &str| inputs.iter().any(|i| i == name);
    if named("files") || named("kafka") {
        data.folder = match given.is_empty() {
            true => write_lines(own.path(), data.events),
            false => PathBuf::from(given),
        };
        let lines: Vec<usize> = data.parts().iter().map(|part| count_lines(part)).collect();
        data.events = lines.iter().sum::<usize>() as u64;
        if named("kafka") {
            data.topic = fill_topic(&data);
        }
    }
    println!("{} events", data.events);
    println!(
        "{:<5} {:<10} {:<10} {:>12} {:>10} {:>12} {:>10} {:>10}",
        "query", "input", "output", "events/s", "CPU s", "per CPU s", "peak MiB", "disk MiB"
    );
    for query in &queries {
        for (input, name) in [(Input::Generator, "generator"), (Input::Files, "files"), (Input::Kafka, "kafka")] {
            for (output, word) in [(Output::View, "view"), (Output::Blackhole, "blackhole")] {
                if named(name) && outputs.iter().any(|o| o == word) {
                    match measure(query, input, output, &data).await {
                        Ok(m) => println!(
                            "{query:<5} {name:<10} {word:<10} {:>12.0} {:>10.2} {:>12.0} {:>10} {:>10}",
                            data.events as f64 / m.elapsed.as_secs_f64(),
                            m.cpu_seconds,
                            data.events as f64 / m.cpu_seconds,
                            m.peak_bytes >> 20,
                            m.disk_bytes >> 20
                        ),
                        Err(refusal) => println!("{query:<5} {name:<10} {word:<10} refused: {refusal}"),
                    }
                }
            }
        }
    }
}

/// What is read.
#[derive(Default)]
struct Data {
    events: u64,
    folder: PathBuf,
    topic: String,
}

impl Data {
    fn parts(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).expect("a folder of lines");
        let mut parts: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
        parts.sort();
        parts
    }
}

/// What a run took.
struct Measured {
    elapsed: Duration,
    cpu_seconds: f64,
    peak_bytes: u64,
    disk_bytes: u64,
}

/// Writes the events as lines.
fn write_lines(folder: &Path, events: u64) -> PathBuf {
    let make = JsonEvents::new(1);
    let open = |part: usize| {
        let file = std::fs::File::create(folder.join(format!("part-{part:05}.jsonl"))).expect("a file");
        BufWriter::with_capacity(1 << 20, file)
    };
    let mut files: Vec<_> = (0..PARTS).map(open).collect();
    let mut line = String::new();
    for n in 0..events {
        line.clear();
        make.append(n, &mut line);
        line.push('\n');
        files[(n / DEALT_EVENTS) as usize % PARTS].write_all(line.as_bytes()).expect("room for the lines");
    }
    files.iter_mut().for_each(|file| file.flush().expect("room for the lines"));
    folder.to_path_buf()
}

fn count_lines(path: &Path) -> usize {
    let mut file = BufReader::with_capacity(1 << 20, std::fs::File::open(path).expect("a file of lines"));
    let mut lines = 0;
    loop {
        let piece = file.fill_buf().expect("a file of lines");
        if piece.is_empty() {
            return lines;
        }
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
        let length = piece.len();
        file.consume(length);
    }
}

/// Sends the lines to a topic, a partition for each file.
fn fill_topic(data: &Data) -> String {
    let topic = format!("nexmark-{}", std::process::id());
    let parts = data.parts();
    kafka::create_topic(&topic, parts.len() as i32);
    let producer = Producer::new();
    let mut readers: Vec<_> = parts
        .iter()
        .map(|p| BufReader::with_capacity(1 << 20, std::fs::File::open(p).expect("a file")).lines())
        .collect();
    let mut open = true;
    while open {
        open = false;
        for (partition, lines) in readers.iter_mut().enumerate() {
            for line in lines.by_ref().take(DEALT_EVENTS as usize) {
                open = true;
                producer.send(&topic, &Record::of(partition as i32, line.expect("UTF-8")));
            }
        }
    }
    producer.flush();
    topic
}

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/nexmark").join(name).with_extension("sql");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The statements that make the source and its relations.
fn source(input: Input, data: &Data) -> String {
    let json = text("json_source");
    match input {
        Input::Generator => {
            let script = text("source");
            let (before, rest) = script.split_once("WITH (").expect("the source's options");
            let (_, after) = rest.split_once(");").expect("the end of the options");
            format!("{before}WITH (connector = 'nexmark', events = {}, seed = 1);{after}", data.events)
        }
        Input::Files => {
            json.replace("(FROM)", &format!("(connector = 'filesystem', path = '{}')", data.folder.display()))
        }
        Input::Kafka => json.replace(
            "(FROM)",
            &format!(
                "(connector = 'kafka', topic = '{}', properties.bootstrap.server = '{}', scan.startup.mode = 'earliest')",
                data.topic,
                kafka::bootstrap()
            ),
        ),
    }
}

async fn measure(query: &str, input: Input, output: Output, data: &Data) -> Result<Measured, client::Failure> {
    let mut server = Server::start();
    let session = server.connect().await;
    for statement in source(input, data).split_inclusive(";\n") {
        session.run(statement).await;
    }
    let create = text(query);
    let statements: Vec<String> = create.split_inclusive(";\n").map(str::to_string).collect();
    let (last, before) = statements.split_last().expect("a query");
    for statement in before {
        session.run(statement).await;
    }
    let last = match output {
        Output::View => last.clone(),
        Output::Blackhole => {
            let (_, select) = last.split_once(" AS\n").expect("CREATE MATERIALIZED VIEW … AS");
            format!("CREATE SINK s AS\n{} WITH (connector = 'blackhole')", select.trim_end().trim_end_matches(';'))
        }
    };
    let bytes: u64 = match input {
        Input::Files => data.parts().iter().map(|p| p.metadata().expect("a file").len()).sum(),
        Input::Generator | Input::Kafka => data.events,
    };
    let (cpu, start) = (cpu_seconds(&server), Instant::now());
    session.try_run(&last).await?;
    let elapsed = until_read(&session, bytes, start).await;
    let cpu_seconds = cpu_seconds(&server) - cpu;
    let peak_bytes = peak_bytes(&server);
    server.terminate();
    Ok(Measured { elapsed, cpu_seconds, peak_bytes, disk_bytes: disk_bytes(&server.data_dir()) })
}

/// Waits until the views hold everything.
async fn until_read(session: &Session, end: u64, start: Instant) -> Duration {
    loop {
        let position = session.value("SELECT coalesce(sum(position), 0) FROM millstream.sources").await;
        let elapsed = start.elapsed();
        if position == end.to_string() {
            return elapsed;
        }
        assert!(elapsed < LIMIT, "{position} of {end} after {elapsed:?}");
        tokio::time::sleep((elapsed / 100).clamp(Duration::from_millis(5), Duration::from_millis(100))).await;
    }
}

/// CPU time that the server has used, in all its threads.
fn cpu_seconds(server: &Server) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("a running process");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("ticks");
    // Linux counts in hundredths of a second for all its users.
    (ticks(11) + ticks(12)) as f64 / 100.0
}

fn peak_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a VmHWM line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("kibibytes") * 1024
}

fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
