//! What a PostgreSQL driver sees.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, pin_mut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::fake::Running;

fn texts(messages: &[SimpleQueryMessage]) -> Vec<String> {
    messages
        .iter()
        .filter_map(|m| match m {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("NULL").to_string()).collect::<Vec<_>>().join("|"))
            }
            SimpleQueryMessage::CommandComplete(n) => Some(format!("complete {n}")),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn several_statements_in_one_message() {
    let server = Running::start().await;
    let client = server.client().await;
    let messages = client.simple_query("numbers 2; insert 1; numbers 1").await.unwrap();
    assert_eq!(texts(&messages), ["0|row 0", "1|row 1", "complete 2", "complete 0", "0|row 0", "complete 1"]);
    // The driver shows an empty query as complete.
    assert_eq!(texts(&client.simple_query("").await.unwrap()), ["complete 0"]);
    // Only a message with several statements is a block of its own.
    assert_eq!(texts(&client.simple_query("blocks").await.unwrap()), ["complete 1"]);
}

#[tokio::test]
async fn errors_carry_their_fields_and_the_session_goes_on() {
    let server = Running::start().await;
    let client = server.client().await;
    let error = client.simple_query("numbers 1; oops").await.unwrap_err();
    let db = error.as_db_error().unwrap();
    assert_eq!((db.code(), db.message()), (&SqlState::SYNTAX_ERROR, "syntax error at or near \"oops\""));
    assert_eq!(db.position(), Some(&tokio_postgres::error::ErrorPosition::Original(12)));
    assert_eq!((db.hint(), db.severity()), (Some("do not"), "ERROR"));
    let error = client.simple_query("fail").await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().detail(), Some("as asked"));
    let error = client.query("unknown", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
    // An error after rows were sent, in both protocols.
    for error in [
        client.simple_query("fail_after").await.map(drop).unwrap_err(),
        client.query("fail_after", &[]).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
    }
    assert_eq!(client.query("numbers 3", &[]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn parameters_and_results_in_binary_form() {
    let server = Running::start().await;
    let client = server.client().await;
    let rows = client
        .query(
            "echo boolean, smallint, integer, bigint, real, double precision, text, bytea, oid",
            &[&true, &-2_i16, &3_i32, &-4_i64, &1.5_f32, &-2.25_f64, &"aé\u{1F600}", &vec![0_u8, 255], &7_u32],
        )
        .await
        .unwrap();
    let row = &rows[0];
    assert_eq!((row.get::<_, bool>(0), row.get::<_, i16>(1), row.get::<_, i32>(2)), (true, -2, 3));
    assert_eq!((row.get::<_, i64>(3), row.get::<_, f32>(4), row.get::<_, f64>(5)), (-4, 1.5, -2.25));
    assert_eq!((row.get::<_, &str>(6), row.get::<_, u32>(8)), ("aé\u{1F600}", 7));
    assert_eq!(row.get::<_, Vec<u8>>(7), [0, 255]);
    let rows = client
        .query("echo bigint[], text[], integer", &[&vec![Some(1_i64), None], &vec!["a b", ""], &None::<i32>])
        .await
        .unwrap();
    assert_eq!(rows[0].get::<_, Vec<Option<i64>>>(0), [Some(1), None]);
    assert_eq!(rows[0].get::<_, Vec<String>>(1), ["a b", ""]);
    assert_eq!(rows[0].get::<_, Option<i32>>(2), None);
    let rows = client.query("echo integer[]", &[&Vec::<i32>::new()]).await.unwrap();
    assert_eq!(rows[0].get::<_, Vec<i32>>(0), Vec::<i32>::new());
    let moment = std::time::UNIX_EPOCH + Duration::from_micros(1_704_164_645_123_456);
    let rows = client.query("echo timestamp without time zone, timestamp with time zone", &[&moment, &moment]).await;
    assert_eq!(rows.unwrap()[0].get::<_, std::time::SystemTime>(1), moment);
}

#[tokio::test]
async fn a_prepared_statement_runs_many_times_and_pipelined() {
    let server = Running::start().await;
    let client = server.client().await;
    let echo = client.prepare("echo bigint").await.unwrap();
    assert_eq!(echo.params(), [tokio_postgres::types::Type::INT8]);
    assert_eq!(echo.columns()[0].type_(), &tokio_postgres::types::Type::INT8);
    let all = futures::future::join_all((0..100_i64).map(|i| {
        let (client, echo) = (&client, &echo);
        async move { client.query_one(echo, &[&i]).await.unwrap().get::<_, i64>(0) }
    }))
    .await;
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    assert_eq!(client.execute("insert", &[]).await.unwrap(), 0);
}

#[tokio::test]
async fn portals_stop_at_their_row_limit() {
    let server = Running::start().await;
    let mut client = server.client().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("numbers 10", &[]).await.unwrap();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        sizes.push(transaction.query_portal(&portal, 4).await.unwrap().len());
    }
    assert_eq!(sizes, [4, 4, 2, 0, 0]);
    let rest = transaction.bind("numbers 10000", &[]).await.unwrap();
    assert_eq!(transaction.query_portal(&rest, 4095).await.unwrap().len(), 4095);
    assert_eq!(transaction.query_portal(&rest, 2).await.unwrap().len(), 2);
    let last = transaction.query_portal(&rest, 0).await.unwrap();
    assert_eq!((last.len(), last[0].get::<_, i64>(0), last[5902].get::<_, i64>(0)), (5903, 4097, 9999));
    transaction.commit().await.unwrap();
    drop((portal, rest));
    client.simple_query("insert").await.unwrap();
    server.until("portals end with their transaction", |s| s.open_streams.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_failed_block_takes_only_rollback() {
    let server = Running::start().await;
    let client = server.client().await;
    client.simple_query("begin").await.unwrap();
    client.query("fail_after", &[]).await.unwrap_err();
    let error = client.simple_query("numbers 1").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    client.simple_query("rollback").await.unwrap();
    client.simple_query("numbers 1").await.unwrap();
}

#[tokio::test]
async fn a_cancel_reaches_a_statement_that_sleeps() {
    let server = Running::start().await;
    let client = server.client().await;
    let cancel = client.cancel_token();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    let error = client.simple_query("sleep 60000").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to user request");
    assert_eq!(server.seen.cancelled.load(Ordering::SeqCst), 1);
    client.simple_query("numbers 1").await.unwrap();
}

#[tokio::test]
async fn a_cancel_reaches_streams_that_hang_or_flow() {
    let server = Running::start().await;
    let client = server.client().await;
    for statement in ["hang", "numbers 1000000000"] {
        let rows = client.query_raw(statement, std::iter::empty::<i32>()).await.unwrap();
        pin_mut!(rows);
        assert!(rows.next().await.unwrap().is_ok());
        client.cancel_token().cancel_query(NoTls).await.unwrap();
        let error = rows.try_for_each(|_| std::future::ready(Ok(()))).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{statement}");
        server.until("the stream is dropped", |s| s.open_streams.load(Ordering::SeqCst) == 0).await;
    }
    // A late cancel hits nothing.
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    assert_eq!(client.query("numbers 5", &[]).await.unwrap().len(), 5);
}

#[tokio::test]
async fn statement_timeouts_say_so() {
    let server = Running::start().await;
    let client = server.client().await;
    client.simple_query("set_timeout 100").await.unwrap();
    for statement in ["sleep 60000", "hang"] {
        let error = client.simple_query(statement).await.unwrap_err();
        assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to statement timeout");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_stream() {
    let server = Running::start().await;
    let client = server.client().await;
    let rows = client.query_raw("numbers 100000000", std::iter::empty::<i32>()).await.unwrap();
    pin_mut!(rows);
    rows.next().await.unwrap().unwrap();
    let mut before = 0;
    // Socket buffers fill, then nothing more is pulled.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = server.seen.batches.load(Ordering::SeqCst);
        if now == before && now > 0 {
            break;
        }
        before = now;
    }
    let pulled = server.seen.batches.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.seen.batches.load(Ordering::SeqCst), pulled);
    assert!(pulled < 100_000_000 / 4096 / 2, "{pulled} batches were pulled for a client that read one row");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_statement() {
    let server = Running::start().await;
    for statement in ["hang", "numbers 1000000000", "sleep 60000"] {
        let (client, connection) = server.connect_with_task("user=tester").await.unwrap();
        let running = tokio::spawn(async move { client.simple_query(statement).await.map(drop) });
        tokio::time::sleep(Duration::from_millis(200)).await;
        // The driver's connection task owns the socket.
        connection.abort();
        assert!(running.await.unwrap().is_err());
        server
            .until("stream and session are dropped", |s| {
                s.open_streams.load(Ordering::SeqCst) == 0 && s.sessions.load(Ordering::SeqCst) == 0
            })
            .await;
    }
    assert_eq!(server.seen.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn notices_notifications_and_settings_reach_the_client() {
    let server = Running::start().await;
    let address = format!("host=127.0.0.1 port={} user=tester", server.sql.port());
    let (client, mut connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = futures::future::poll_fn(|cx| connection.poll_message(cx)).await {
            let _ = sender.send(format!("{message:?}"));
        }
    });
    client.simple_query("notice").await.unwrap();
    assert!(events.recv().await.unwrap().contains("look out"));
    client.simple_query("begin; notify held").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), events.recv()).await.is_err());
    client.simple_query("commit").await.unwrap();
    assert!(events.recv().await.unwrap().contains("held"));
}

#[tokio::test]
async fn copy_out_and_in() {
    let server = Running::start().await;
    let client = server.client().await;
    let out: Vec<_> = client.copy_out("copy_out").await.unwrap().try_collect().await.unwrap();
    assert_eq!(out.concat(), b"0\ttext\n1\ttext\n2\ttext\n");
    let sink = client.copy_in::<_, bytes::Bytes>("copy_in 1000000").await.unwrap();
    pin_mut!(sink);
    use futures::SinkExt;
    for _ in 0..100 {
        sink.send(bytes::Bytes::from(vec![b'x'; 1000])).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 100_000);
    // The server fails it early; the client may still be sending.
    let sink = client.copy_in::<_, bytes::Bytes>("copy_in 10").await.unwrap();
    pin_mut!(sink);
    for _ in 0..10 {
        if sink.send(bytes::Bytes::from(vec![b'x'; 1000])).await.is_err() {
            break;
        }
    }
    let error = sink.finish().await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().message(), "too much data");
    // The client gives up.
    let sink = client.copy_in::<_, bytes::Bytes>("copy_in 1000").await.unwrap();
    drop(sink);
    assert_eq!(client.query("numbers 2", &[]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn start_up_parameters_reach_the_session() {
    let server = Running::start().await;
    let client = server.connect("user=u dbname=d application_name=a options='-c search_path=x'").await.unwrap();
    let messages = client.simple_query("whoami").await.unwrap();
    let text = &texts(&messages)[0];
    assert!(text.starts_with("u@d "), "{text}");
    assert!(text.contains("\"application_name\": \"a\"") && text.contains("\"search_path\": \"x\""), "{text}");
    let error = server.connect("user=u dbname=nowhere").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INVALID_CATALOG_NAME));
    assert_eq!(error.as_db_error().unwrap().severity(), "FATAL");
}

#[tokio::test]
async fn a_full_server_refuses_clients_but_takes_cancels() {
    let server = Running::with(&[("max_connections", "1")], std::future::ready(())).await;
    let client = server.client().await;
    let error = server.connect("user=late").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    let cancel = client.cancel_token();
    let (result, _) = tokio::join!(client.simple_query("sleep 60000"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel_query(NoTls).await.unwrap();
    });
    assert_eq!(result.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn a_panic_ends_one_statement_only() {
    let server = Running::start().await;
    let (one, other) = (server.client().await, server.client().await);
    let error = one.simple_query("panic").await.unwrap_err();
    assert_eq!(error.as_db_error().map(|e| (e.severity(), e.code())), Some(("ERROR", &SqlState::INTERNAL_ERROR)));
    let error = one.query("panic", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::INTERNAL_ERROR));
    assert_eq!(one.query("numbers 1", &[]).await.unwrap().len(), 1);
    assert_eq!(other.query("numbers 1", &[]).await.unwrap().len(), 1);
}

async fn http_get(server: &Running, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn readiness_follows_the_engine() {
    let (open, opened) = tokio::sync::oneshot::channel::<()>();
    let server = Running::with(&[], async { opened.await.unwrap() }).await;
    assert!(http_get(&server, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(http_get(&server, "/readyz").await.starts_with("HTTP/1.1 503"));
    let error = server.connect("user=early").await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW));
    open.send(()).unwrap();
    let _client = loop {
        match server.connect("user=patient").await {
            Ok(client) => break client,
            Err(e) => assert_eq!(e.code(), Some(&SqlState::CANNOT_CONNECT_NOW)),
        }
    };
    assert!(http_get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = http_get(&server, "/metrics").await;
    assert!(metrics.contains("\nmillstream_connections_total "), "{metrics}");
}

#[tokio::test]
async fn shutdown_lets_statements_finish_and_sends_idle_clients_away() {
    let server = Running::start().await;
    let (idle, busy) = (server.client().await, server.client().await);
    let busy = tokio::spawn(async move { busy.simple_query("sleep 300").await.map(|m| texts(&m)) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert_eq!(busy.await.unwrap().unwrap(), ["complete 0"]);
    server.task.await.unwrap().unwrap();
    assert_eq!(server.seen.closed.load(Ordering::SeqCst), 1);
    assert!(idle.simple_query("numbers 1").await.is_err());
}

#[tokio::test]
async fn shutdown_cancels_what_outlasts_the_grace() {
    let server = Running::with(&[("shutdown_grace", "100ms")], std::future::ready(())).await;
    let (sleeper, streamer) = (server.client().await, server.client().await);
    let sleeping = tokio::spawn(async move { sleeper.simple_query("sleep 60000").await.map(drop) });
    let streaming = tokio::spawn(async move { streamer.simple_query("hang").await.map(drop) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let asked = Instant::now();
    server.shutdown.cancel();
    for task in [sleeping, streaming] {
        let error = task.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::ADMIN_SHUTDOWN));
    }
    server.task.await.unwrap().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
}
