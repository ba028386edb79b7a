//! The oracle with late rows: a view holds its SELECT over all rows but those that it has recorded as late, which are
//! exactly those that came after their window had closed; restarts change nothing.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::client::Session;
use crate::seed;
use crate::server::Server;

const DELAY_S: i64 = 20;

/// Windows of some length that begin every so many seconds.
#[derive(Clone, Copy)]
struct Windows {
    name: &'static str,
    from: &'static str,
    every_s: i64,
    length_s: i64,
    on_close: bool,
}

const VIEWS: &[Windows] = &[
    Windows { name: "fixed", from: "TUMBLE(t, ts, INTERVAL '1 minute')", every_s: 60, length_s: 60, on_close: false },
    Windows { name: "closed", from: "TUMBLE(t, ts, INTERVAL '30 seconds')", every_s: 30, length_s: 30, on_close: true },
    Windows {
        name: "hopping",
        from: "HOP(t, ts, INTERVAL '20 seconds', INTERVAL '1 minute')",
        every_s: 20,
        length_s: 60,
        on_close: false,
    },
];

impl Windows {
    fn ddl(&self) -> String {
        let emit = if self.on_close { " EMIT ON WINDOW CLOSE" } else { "" };
        format!("CREATE MATERIALIZED VIEW {} WITH (late_rows = 'keep') AS {}{emit}", self.name, self.select("true"))
    }

    fn select(&self, condition: &str) -> String {
        format!(
            "SELECT window_start, window_end, k, count(*) AS rows, sum(n) AS total, max(n) AS newest FROM {} \
             WHERE {condition} GROUP BY window_start, window_end, k",
            self.from
        )
    }

    /// Ends of the windows that a time is in, seconds.
    fn ends(&self, at_s: i64) -> impl Iterator<Item = i64> {
        let last_start = at_s.div_euclid(self.every_s) * self.every_s;
        let Windows { every_s, length_s, .. } = *self;
        (0..length_s / every_s).map(move |back| last_start - back * every_s + length_s)
    }
}

fn stamp(second: i64) -> String {
    format!("2024-05-01 {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// The late rows that a view has recorded, as `(n, end of the window)`.
async fn recorded(session: &Session, view: &str) -> BTreeSet<(i64, String)> {
    let rows = session
        .run(&format!("SELECT row, count, CAST(watermark AS TEXT) FROM millstream.late_rows WHERE view = '{view}'"))
        .await
        .rows;
    let mut found = BTreeSet::new();
    for row in &rows {
        let text = |n: usize| row[n].as_deref().expect("not NULL");
        let json: serde_json::Value = serde_json::from_str(text(0)).expect("a JSON object");
        let time = |column: &str| json[column].as_str().expect("a time").replace('T', " ");
        assert_eq!(text(1), "1", "{row:?}");
        // The watermark is that of the first time column: windows that begin before it are closed.
        assert!(time("window_start").as_str() < text(2), "the window was not closed: {row:?}");
        // The first argument of the aggregates.
        let n = json["n"].as_i64().expect("a number");
        assert!(found.insert((n, time("window_end"))), "recorded twice: {row:?}");
    }
    found
}

/// The numbers of the late rows that a view of sessions has recorded, and that its `late_rows` counts them.
async fn recorded_of_sessions(session: &Session, view: &str) -> BTreeSet<i64> {
    let rows = session.run(&format!("SELECT row FROM millstream.late_rows WHERE view = '{view}'")).await.rows;
    let number = |row: &Vec<Option<String>>| {
        let json: serde_json::Value = serde_json::from_str(row[0].as_deref().expect("not NULL")).expect("JSON");
        json["n"].as_i64().expect("a number")
    };
    let found: BTreeSet<i64> = rows.iter().map(number).collect();
    let counted = session.value(&format!("SELECT late_rows FROM millstream.views WHERE name = '{view}'")).await;
    assert_eq!(counted, found.len().to_string(), "{view}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_put_out_once() {
    const SESSIONS: &str = "SESSION(t PARTITION BY k, ts, INTERVAL '40 seconds')";
    let select = |from: &str, condition: &str| {
        format!(
            "SELECT window_start, window_end, k, count(*) AS rows, sum(n) AS total, max(n) AS newest FROM {from} \
             WHERE {condition} GROUP BY window_start, window_end, k"
        )
    };
    let cases: usize = seed::setting("MILLSTREAM_LATE_CASES", 4);
    let mut random = StdRng::seed_from_u64(seed::seed("late sessions"));
    let mut server = Server::start();
    let mut closed = 0;
    for case in 0..cases {
        let mut session = server.connect().await;
        session
            .run(&format!(
                "CREATE TABLE t (n INT, k INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '{DELAY_S} seconds') \
                 APPEND ONLY"
            ))
            .await;
        for (view, emit) in [("current", ""), ("final", " EMIT ON WINDOW CLOSE")] {
            let options = "WITH (late_rows = 'keep')";
            let sql = select(SESSIONS, "true");
            session.run(&format!("CREATE MATERIALIZED VIEW {view} {options} AS {sql}{emit}")).await;
        }
        let rows_of_final = format!("SELECT window_start, window_end, k, n FROM {SESSIONS}");
        session.run(&format!("CREATE MATERIALIZED VIEW members AS {rows_of_final} EMIT ON WINDOW CLOSE")).await;
        let mut late = BTreeSet::new();
        let (mut clock_s, mut n, mut newest_s) = (3600, 0, None);
        for _ in 0..16 {
            let watermark_s: Option<i64> = newest_s.map(|newest: i64| newest - DELAY_S);
            let mut rows = Vec::new();
            for _ in 0..random.random_range(1..8) {
                n += 1;
                clock_s += random.random_range(0..25);
                let behind_s = if random.random_ratio(1, 4) { random.random_range(0..90) } else { 0 };
                let at_s = clock_s - behind_s;
                rows.push(format!("({n}, {}, TIMESTAMP '{}')", random.random_range(0..3), stamp(at_s)));
                newest_s = newest_s.max(Some(at_s));
                late.extend((watermark_s.is_some_and(|watermark| at_s < watermark)).then_some(n));
            }
            session.run(&format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
            if random.random_ratio(1, 6) {
                server.kill();
                server.restart();
                session = server.connect().await;
            }
            let numbers: Vec<String> = late.iter().map(i64::to_string).collect();
            let taken = format!(
                "SESSION((SELECT * FROM t WHERE n NOT IN ({})) PARTITION BY k, ts, INTERVAL '40 seconds')",
                if numbers.is_empty() { "0".to_string() } else { numbers.join(", ") }
            );
            let is_final = format!("window_end <= TIMESTAMP '{}'", stamp(newest_s.expect("there are rows") - DELAY_S));
            for (view, expected) in [
                ("current", select(&taken, "true")),
                ("final", select(&taken, &is_final)),
                ("members", format!("{} WHERE {is_final}", rows_of_final.replace(SESSIONS, &taken))),
            ] {
                if view != "members" {
                    assert_eq!(recorded_of_sessions(&session, view).await, late, "case {case}, late rows of {view}");
                }
                let expected = session.rows(&expected).await;
                assert_eq!(session.rows(&format!("SELECT * FROM {view}")).await, expected, "case {case}, {view}");
                closed += expected.len();
            }
        }
        session.run("DROP TABLE t CASCADE").await;
    }
    assert!(closed > cases * 10, "hardly any session is closed: the generator tests nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_rows_are_recorded_and_left_out() {
    let cases: usize = seed::setting("MILLSTREAM_LATE_CASES", 4);
    let mut random = StdRng::seed_from_u64(seed::seed("late rows"));
    let mut server = Server::start();
    let mut total = 0;
    for case in 0..cases {
        let mut session = server.connect().await;
        session
            .run(&format!(
                "CREATE TABLE t (n INT, k INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '{DELAY_S} seconds') \
                 APPEND ONLY"
            ))
            .await;
        for view in VIEWS {
            session.run(&view.ddl()).await;
        }
        let mut late: Vec<BTreeSet<(i64, String)>> = VIEWS.iter().map(|_| BTreeSet::new()).collect();
        let (mut clock_s, mut n, mut newest_s) = (3600, 0, None);
        for _ in 0..12 {
            let watermark_s: Option<i64> = newest_s.map(|newest: i64| newest - DELAY_S);
            let mut rows = Vec::new();
            for _ in 0..random.random_range(1..8) {
                n += 1;
                clock_s += random.random_range(0..15);
                let behind_s = if random.random_ratio(1, 4) { random.random_range(0..180) } else { 0 };
                let at_s = clock_s - behind_s;
                rows.push(format!("({n}, {}, TIMESTAMP '{}')", random.random_range(0..3), stamp(at_s)));
                newest_s = newest_s.max(Some(at_s));
                for (view, late) in VIEWS.iter().zip(&mut late) {
                    let closed = view.ends(at_s).filter(|end| watermark_s.is_some_and(|watermark| *end <= watermark));
                    late.extend(closed.map(|end| (n, stamp(end))));
                }
            }
            session.run(&format!("INSERT INTO t VALUES {}", rows.join(", "))).await;
            if random.random_ratio(1, 6) {
                server.kill();
                server.restart();
                session = server.connect().await;
            }
            for (view, late) in VIEWS.iter().zip(&late) {
                let found = recorded(&session, view.name).await;
                assert_eq!(found, *late, "case {case}, late rows of {}", view.name);
                let counted = session
                    .value(&format!("SELECT late_rows FROM millstream.views WHERE name = '{}'", view.name))
                    .await;
                assert_eq!(counted, late.len().to_string());
                let mut condition: String = "true".into();
                for (n, end) in &found {
                    condition += &format!(" AND NOT (n = {n} AND window_end = TIMESTAMP '{end}')");
                }
                if let (true, Some(newest_s)) = (view.on_close, newest_s) {
                    condition += &format!(" AND window_end <= TIMESTAMP '{}'", stamp(newest_s - DELAY_S));
                }
                let expected = session.rows(&view.select(&condition)).await;
                assert_eq!(session.rows(&format!("SELECT * FROM {}", view.name)).await, expected, "{}", view.name);
            }
        }
        total += late.iter().map(BTreeSet::len).sum::<usize>();
        session.run("DROP TABLE t CASCADE").await;
    }
    assert!(total > cases, "hardly any row is late: the generator tests nothing");
}
