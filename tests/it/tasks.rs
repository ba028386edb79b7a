//! Scheduled SQL: runs that the server's death breaks off, times that it misses, runs that overlap, fail, hang and pile up.
//!
//! The clock of tasks is put forward and back through the file `clock` among the fail points.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::NoTls;

use crate::client::Session;
use crate::process::http_get;
use crate::seed;
use crate::server::Server;

const SOON: Duration = Duration::from_secs(60);
const HOUR_US: i64 = 3_600_000_000;

/// Long enough for what must not happen to have happened.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(2500)).await;
}

async fn count(session: &Session, sql: &str) -> i64 {
    session.value(&format!("SELECT count(*) FROM {sql}")).await.parse().expect("a count")
}

/// The last columns of a task's runs, in their order.
async fn runs(session: &Session, task: &str) -> Vec<String> {
    let sql = format!("SELECT run, attempt, state FROM millstream.task_runs WHERE task = '{task}'");
    let mut rows: Vec<(i64, String)> = Vec::new();
    for row in session.run(&sql).await.rows {
        let value = |n: usize| row[n].clone().unwrap_or_default();
        rows.push((value(0).parse().expect("a number"), format!("{} {}", value(1), value(2))));
    }
    rows.sort();
    rows.into_iter().map(|(_, text)| text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_the_server_dies_in_takes_effect_once() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE t (id INT PRIMARY KEY, v INT)").await;
    session.run("INSERT INTO t VALUES (1, 1), (2, 2)").await;
    session.run("CREATE TABLE sums (at TIMESTAMPTZ, total BIGINT)").await;
    session.run("CREATE TABLE log (at TIMESTAMPTZ, what TEXT)").await;
    session
        .run(
            "CREATE TASK fold AS $$ INSERT INTO sums SELECT run_time(), sum(v) FROM t; UPDATE t SET v = v + 1; \
             INSERT INTO log VALUES (run_time(), 'done') $$",
        )
        .await;
    session.run("CREATE TASK after_fold AFTER fold AS INSERT INTO log VALUES (run_time(), 'followed')").await;
    let mut expected = Vec::new();
    for (hour, point) in ["task.started", "task.before_commit", "task.committed"].into_iter().enumerate() {
        let time = format!("2026-01-01 0{hour}:00:00+00");
        let client = server.connect().await;
        server.arm(point, "abort 1 1");
        let waiting = client.try_run(&format!("EXECUTE TASK fold FOR TIMESTAMP '{time}'")).await;
        assert!(waiting.is_err(), "{point}: the server did not die");
        assert!(server.ends_within(SOON), "{point}");
        server.wait();
        server.disarm();
        server.restart();
        let session = server.connect().await;
        expected.push(format!("{time}|{}", 3 + 2 * hour));
        let lines: Vec<&str> = expected.iter().map(String::as_str).collect();
        session.eventually("SELECT * FROM sums", SOON, &lines).await;
        session.eventually(&format!("SELECT what FROM log WHERE at = '{time}'"), SOON, &["done", "followed"]).await;
    }
    let session = server.connect().await;
    a_while().await;
    assert_eq!(session.rows("SELECT * FROM sums").await, expected);
    assert_eq!(session.value("SELECT sum(v) FROM t").await, "9");
    assert_eq!(count(&session, "log").await, 6);
    let states = runs(&session, "fold").await;
    // Where the commit came through, the run has succeeded at once.
    assert_eq!(states, ["1 abandoned", "2 succeeded", "1 abandoned", "2 succeeded", "1 succeeded"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_catch_up_all_each_second_runs_once_over_kills() {
    let mut random = StdRng::seed_from_u64(seed::seed("tasks"));
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE seconds (at TIMESTAMPTZ)").await;
    session
        .run("CREATE TASK tick EVERY '1 second' WITH (catch_up = 'all', overlap = 'queue') AS INSERT INTO seconds VALUES (run_time())")
        .await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..3000))).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
        server.restart();
    }
    let session = server.connect().await;
    a_while().await;
    session.eventually("SELECT count(*) FROM millstream.task_runs WHERE state IN ('queued', 'abandoned') AND queued_at < now() - INTERVAL '20 s'", SOON, &["0"]).await;
    session.run("ALTER TASK tick SUSPEND").await;
    session.eventually("SELECT state FROM millstream.tasks", SOON, &["suspended"]).await;
    let gaps = "SELECT count(*), count(DISTINCT at), extract(epoch FROM max(at) - min(at))::bigint + 1 FROM seconds";
    let row = session.rows(gaps).await.remove(0);
    let numbers: Vec<&str> = row.split('|').collect();
    assert!(numbers[0] == numbers[1] && numbers[1] == numbers[2], "runs, distinct times, seconds: {row}");
    assert!(numbers[0].parse::<i64>().expect("a number") >= 5, "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_while_the_server_is_down_goes_by_catch_up() {
    let mut server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE ran (task TEXT, at TIMESTAMPTZ)").await;
    for catch_up in ["none", "latest", "all"] {
        let body = format!("INSERT INTO ran VALUES ('{catch_up}', run_time())");
        session
            .run(&format!(
                "CREATE TASK t_{catch_up} SCHEDULE CRON '30 * * * *' AT TIME ZONE 'Asia/Kathmandu' WITH (catch_up = '{catch_up}') AS {body}"
            ))
            .await;
    }
    session.eventually("SELECT count(*) FROM millstream.tasks WHERE next_run > now()", SOON, &["3"]).await;
    a_while().await;
    server.terminate();
    server.arm("clock", &(3 * HOUR_US).to_string());
    server.restart();
    let session = server.connect().await;
    let ran = "SELECT task, count(*) FROM ran GROUP BY task";
    session.eventually(ran, SOON, &["all|3", "latest|1"]).await;
    let skipped = "SELECT task, error LIKE '%passed while the server was not running' FROM millstream.task_runs WHERE state = 'skipped'";
    assert_eq!(session.rows(skipped).await, ["t_latest|t", "t_none|t"]);
    let triggers = "SELECT DISTINCT triggered_by FROM millstream.task_runs WHERE state = 'succeeded'";
    assert_eq!(session.rows(triggers).await, ["catch-up"]);
    // The latest of the three is what was run.
    assert_eq!(
        session
            .value(
                "SELECT (SELECT max(at) FROM ran WHERE task = 'all') = (SELECT max(at) FROM ran WHERE task = 'latest')"
            )
            .await,
        "t"
    );
    // Back again: what was run is not run twice, though its time comes again.
    server.arm("clock", "0");
    a_while().await;
    server.arm("clock", &(3 * HOUR_US).to_string());
    a_while().await;
    assert_eq!(session.rows(ran).await, ["all|3", "latest|1"]);
    // A clock that jumps while the server runs is the same as one that goes on without it.
    server.arm("clock", &(5 * HOUR_US).to_string());
    session.eventually(ran, SOON, &["all|5", "latest|2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_of_a_task_never_overlap() {
    let server = Server::start();
    let session = server.connect().await;
    for overlap in ["skip", "queue"] {
        session
            .run(&format!(
                "CREATE TASK {overlap} EVERY '1 second' WITH (overlap = '{overlap}') AS SELECT pg_sleep(1.5)"
            ))
            .await;
    }
    let ended = "SELECT task, count(*) > 2 FROM millstream.task_runs WHERE state = 'succeeded' GROUP BY task";
    session.eventually(ended, SOON, &["queue|t", "skip|t"]).await;
    let overlapping = "millstream.task_runs a JOIN millstream.task_runs b ON a.task = b.task AND a.run < b.run \
                       AND b.started_at < a.ended_at AND a.started_at < b.ended_at";
    assert_eq!(count(&session, overlapping).await, 0);
    assert!(count(&session, "millstream.task_runs WHERE task = 'skip' AND state = 'skipped'").await > 0);
    assert_eq!(count(&session, "millstream.task_runs WHERE task = 'queue' AND state = 'skipped'").await, 0);
    assert!(count(&session, "millstream.task_runs WHERE task = 'queue' AND state = 'queued'").await > 0);
    // In their order.
    let order = "SELECT count(*) FROM millstream.task_runs a JOIN millstream.task_runs b ON a.task = b.task \
                 AND a.scheduled_at < b.scheduled_at AND a.started_at > b.started_at";
    assert_eq!(session.value(order).await, "0");
    session.run("DROP TASK queue").await;
    session.run("DROP TASK skip").await;
    assert_eq!(count(&session, "millstream.task_runs").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_run_is_tried_again_and_many_of_them_suspend_the_task() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE gate (id INT)").await;
    session.run("CREATE TABLE done (at TIMESTAMPTZ, v INT)").await;
    session
        .run(
            "CREATE TASK shaky WITH (retries = 2, retry_backoff = '50 ms', suspend_after_failures = 2) \
             AS INSERT INTO done SELECT run_time(), 1 / count(*) FROM gate",
        )
        .await;
    let failure = session.error("EXECUTE TASK shaky FOR TIMESTAMP '2026-01-01 00:00+00'").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("22012"), "{failure}");
    assert_eq!(runs(&session, "shaky").await, ["1 failed", "2 failed", "3 failed"]);
    assert_eq!(session.value("SELECT failures_in_a_row FROM millstream.tasks").await, "1");
    session.error("EXECUTE TASK shaky FOR TIMESTAMP '2026-01-02 00:00+00'").await;
    session.eventually("SELECT state FROM millstream.tasks", SOON, &["suspended"]).await;
    let why = session.value("SELECT suspended_because FROM millstream.tasks").await;
    assert!(why.contains("2 runs in a row") && why.contains("division by zero"), "{why}");
    session.run("ALTER TASK shaky RESUME").await;
    session.run("ALTER TASK shaky SET (retries = 100)").await;
    session.eventually("SELECT failures_in_a_row FROM millstream.tasks", SOON, &["0"]).await;
    // The gate opens while it is tried.
    let opener = server.connect().await;
    let open = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        opener.run("INSERT INTO gate VALUES (1)").await;
    };
    let (outcome, ()) = tokio::join!(session.try_run("EXECUTE TASK shaky FOR TIMESTAMP '2026-01-03 00:00+00'"), open);
    outcome.expect("a try that succeeds");
    assert_eq!(session.rows("SELECT * FROM done").await, ["2026-01-03 00:00:00+00|1"]);
    let (_, metrics) = http_get(server.http_port(), "/metrics").expect("metrics");
    for line in [
        "millstream_task_runs_total{schema=\"public\",task=\"shaky\",state=\"succeeded\"} 1",
        "millstream_task_runs_total{schema=\"public\",task=\"shaky\",state=\"failed\"} 2",
        "millstream_task_failures_in_a_row{schema=\"public\",task=\"shaky\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_by_its_timeout_its_client_or_with_its_task() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE out (a INT)").await;
    session
        .run("CREATE TASK slow WITH (timeout = '300 ms') AS $$ INSERT INTO out VALUES (1); SELECT pg_sleep(60) $$")
        .await;
    let start = Instant::now();
    let failure = session.error("EXECUTE TASK slow").await;
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
    assert!(failure.message.contains("timeout of the task"), "{failure}");
    assert!(start.elapsed() < Duration::from_secs(20));
    session.run("ALTER TASK slow SET (timeout = '0')").await;
    let client = server.connect().await;
    let cancel = client.client.cancel_token();
    let running = tokio::spawn(async move { client.try_run("EXECUTE TASK slow").await });
    session.eventually("SELECT state FROM millstream.tasks", SOON, &["running"]).await;
    // Who its statements run as, and what they do.
    let shown = "SELECT \"user\", state FROM millstream.sessions WHERE application_name = 'task slow'";
    session.eventually(shown, SOON, &["millstream|active"]).await;
    cancel.cancel_query(NoTls).await.expect("a cancel request");
    let failure = running.await.expect("no panic").expect_err("a run that is cancelled");
    assert_eq!(failure.sqlstate.as_deref(), Some("57014"), "{failure}");
    assert_eq!(runs(&session, "slow").await, ["1 failed", "1 canceled"]);
    assert_eq!(session.value("SELECT failures_in_a_row FROM millstream.tasks").await, "1");
    let client = server.connect().await;
    let running = tokio::spawn(async move { client.try_run("EXECUTE TASK slow").await });
    session.eventually("SELECT state FROM millstream.tasks", SOON, &["running"]).await;
    session.run("DROP TASK slow").await;
    let failure = running.await.expect("no panic").expect_err("a run whose task is dropped");
    assert_eq!(failure.sqlstate.as_deref(), Some("42704"), "{failure}");
    session.eventually(shown, SOON, &[]).await;
    assert_eq!(count(&session, "out").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_stand_alone_commit_what_is_before_them() {
    let server = Server::start();
    let session = server.connect().await;
    let file = server.dir().join("out.parquet").display().to_string();
    session.run("CREATE TABLE t (a INT)").await;
    session
        .run(&format!(
            "CREATE TASK export WITH (retries = 50, retry_backoff = '100 ms') AS $$ INSERT INTO t VALUES (1); \
             COPY (SELECT count(*) AS n FROM t) TO '{file}'; \
             INSERT INTO t SELECT 10 / (count(*) - 1) FROM t $$"
        ))
        .await;
    // The last statement fails on one row, and what is before it is not done again.
    let other = server.connect().await;
    let add = async {
        tokio::time::sleep(Duration::from_millis(800)).await;
        other.run("INSERT INTO t VALUES (2)").await;
    };
    let (outcome, ()) = tokio::join!(session.try_run("EXECUTE TASK export"), add);
    outcome.expect("a try that succeeds");
    assert_eq!(session.rows("SELECT * FROM t").await, ["1", "10", "2"]);
    assert_eq!(session.rows(&format!("SELECT n FROM read_parquet('{file}')")).await, ["1"]);
    let last = session.rows("SELECT state, rows FROM millstream.task_runs ORDER BY run DESC LIMIT 1").await;
    assert_eq!(last, ["succeeded|3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_repeated_on_what_it_read_or_says_what_is_gone() {
    let server = Server::start();
    let session = server.connect().await;
    let dir = server.dir().join("ledger");
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = |name: &str| dir.join(name).display().to_string();
    session.run(&format!("COPY (SELECT n FROM generate_series(1, 3) AS s (n)) TO '{}'", file("a.parquet"))).await;
    session.run(&format!("CREATE EXTERNAL TABLE ledger STORED AS PARQUET LOCATION '{}/'", dir.display())).await;
    session.run("CREATE TABLE seen (at TIMESTAMPTZ, n BIGINT)").await;
    session.run("CREATE TABLE rates (r INT)").await;
    session.run("INSERT INTO rates VALUES (10)").await;
    session
        .run(
            "CREATE TASK look AS INSERT INTO seen SELECT run_time(), (SELECT count(*) FROM ledger) * max(r) FROM rates",
        )
        .await;
    session.run("EXECUTE TASK look FOR TIMESTAMP '2026-01-01 00:00+00'").await;
    let run = session.value("SELECT max(run) FROM millstream.task_runs").await;
    let inputs = session.value("SELECT inputs FROM millstream.task_runs").await;
    assert!(inputs.contains("a.parquet") && inputs.contains("public.rates") && inputs.contains("epoch"), "{inputs}");
    session.run(&format!("COPY (SELECT n FROM generate_series(1, 4) AS s (n)) TO '{}'", file("b.parquet"))).await;
    session.run("EXECUTE TASK look FOR TIMESTAMP '2026-01-02 00:00+00'").await;
    session.run(&format!("EXECUTE TASK look AS OF RUN {run}")).await;
    let seen = session.rows("SELECT * FROM seen").await;
    assert_eq!(seen, ["2026-01-01 00:00:00+00|30", "2026-01-01 00:00:00+00|30", "2026-01-02 00:00:00+00|70"]);
    assert_eq!(session.value(&format!("SELECT count(*) FROM millstream.task_runs WHERE repeats = {run}")).await, "1");
    session.run("UPDATE rates SET r = 20").await;
    let failure = session.error(&format!("EXECUTE TASK look AS OF RUN {run}")).await;
    assert_eq!(failure.sqlstate.as_deref(), Some("55000"), "{failure}");
    assert!(failure.message.contains("public.rates"), "{failure}");
    session.run("CREATE TASK files AS INSERT INTO seen SELECT run_time(), count(*) FROM ledger").await;
    session.run("EXECUTE TASK files").await;
    let run = session.value("SELECT max(run) FROM millstream.task_runs WHERE task = 'files'").await;
    std::fs::remove_file(file("b.parquet")).expect("the file");
    let failure = session.error(&format!("EXECUTE TASK files AS OF RUN {run}")).await;
    assert!(failure.message.contains("b.parquet") && failure.message.contains("not there any more"), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tasks_that_are_due_at_once_take_turns() {
    const TASKS: usize = 1000;
    let server = Server::with(&[("MILLSTREAM__TASKS__MAX_RUNNING", "4")]);
    let session = server.connect().await;
    session.run("CREATE TABLE ran (task INT)").await;
    for n in 0..TASKS {
        session.run(&format!("CREATE TASK t{n} SCHEDULE CRON '0 0 1 1 *' AS INSERT INTO ran VALUES ({n})")).await;
    }
    session.eventually("SELECT count(*) FROM millstream.tasks WHERE state = 'waiting'", SOON, &["1000"]).await;
    a_while().await;
    // A year later.
    server.arm("clock", &(366 * 24 * HOUR_US).to_string());
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut most = 0;
    loop {
        let asked = Instant::now();
        let done = count(&session, "ran").await;
        slowest = slowest.max(asked.elapsed());
        let running = count(&session, "millstream.sessions WHERE application_name LIKE 'task %'").await;
        most = most.max(running);
        if done == TASKS as i64 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(240), "{done} of {TASKS} tasks have run");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most <= 4, "{most} runs at one time");
    assert!(slowest < Duration::from_secs(5), "a reader waited {slowest:?}");
    assert_eq!(session.value("SELECT count(DISTINCT task) FROM ran").await, TASKS.to_string());
    eprintln!("{TASKS} tasks in {:?}, the slowest read took {slowest:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_after_several_runs_once_when_all_have_succeeded() {
    let server = Server::start();
    let session = server.connect().await;
    session.run("CREATE TABLE joined (at TIMESTAMPTZ)").await;
    session.run("CREATE TABLE gate (id INT)").await;
    session.run("CREATE TASK left_one AS SELECT 1").await;
    session.run("CREATE TASK right_one AS SELECT 1 / count(*) FROM gate").await;
    session.run("CREATE TASK last_one AFTER left_one, right_one AS INSERT INTO joined VALUES (run_time())").await;
    let time = "2026-01-01 00:00:00+00";
    session.run(&format!("EXECUTE TASK left_one FOR TIMESTAMP '{time}'")).await;
    session.error(&format!("EXECUTE TASK right_one FOR TIMESTAMP '{time}'")).await;
    a_while().await;
    assert_eq!(count(&session, "joined").await, 0);
    session.run("INSERT INTO gate VALUES (1)").await;
    session.run(&format!("EXECUTE TASK right_one FOR TIMESTAMP '{time}'")).await;
    session.eventually("SELECT * FROM joined", SOON, &[time]).await;
    // Both at the same time.
    let other = server.connect().await;
    let execute = |task: &str| format!("EXECUTE TASK {task} FOR TIMESTAMP '2026-02-02 00:00+00'");
    let (left, right) = (execute("left_one"), execute("right_one"));
    tokio::join!(session.run(&left), other.run(&right));
    a_while().await;
    assert_eq!(session.rows("SELECT * FROM joined").await, [time, "2026-02-02 00:00:00+00"]);
}
