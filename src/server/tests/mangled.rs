//! Broken start-ups and messages: whatever bytes come, the server answers or ends the connection, and stays.
//!
//! Conversations of drivers are cut, their bytes changed, repeated and mixed. No connection may hang or panic.
//! `MILLSTREAM_MANGLED_CASES` and `MILLSTREAM_SEED` set the number of conversations and the seed.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing_subscriber::fmt::MakeWriter;

use super::fake::Running;
use super::raw::{bind, describe, execute, message, parse, query, startup, sync};
use crate::scram::{Exchange, Verifier};

const CASES: usize = 600;
/// Longest time that the server may take to be done with a client that has left.
const LIMIT: Duration = Duration::from_secs(20);

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

fn cases() -> usize {
    setting("MILLSTREAM_MANGLED_CASES").map_or(CASES, |n| n as usize)
}

fn random() -> StdRng {
    StdRng::seed_from_u64(setting("MILLSTREAM_SEED").unwrap_or(20_261_129))
}

/// What drivers send, message by message, behind their start-up.
fn conversations() -> Vec<Vec<Vec<u8>>> {
    vec![
        vec![query("numbers 3; insert 1"), query(""), message(b'X', b"")],
        vec![
            parse("s", "numbers 5"),
            bind("p", "s", &[Some("1"), None], &[1]),
            describe(b'P', "p"),
            execute("p", 2),
            message(b'H', b""),
            execute("p", 0),
            message(b'C', b"Sp\0"),
            sync(),
        ],
        vec![parse("", "oops"), bind("", "", &[], &[]), execute("", 0), sync(), query("fail")],
        vec![message(b'd', b"1\t2\n"), message(b'c', b""), message(b'f', b"no\0"), sync()],
        vec![message(b'p', b"SCRAM-SHA-256\0\0\0\0\x08n,,n=,r=x"), message(b'F', b"\0\0\0\0"), query("numbers 1")],
    ]
}

/// Bytes broken in one to three ways, with pieces of others.
fn mangled(own: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut out = own.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(0..=out.len());
        let len = random.random_range(0..8);
        let end = (at + len).min(out.len());
        match random.random_range(0..6) {
            0 => out.truncate(at),
            1 if at < out.len() => out[at] ^= 1 << random.random_range(0..8),
            2 if at < out.len() => out[at] = [0, 1, 4, 0x7f, 0x80, 0xff][random.random_range(0..6)],
            3 => drop(out.drain(at..end)),
            4 => {
                let from = random.random_range(0..=other.len());
                let piece = other[from..(from + len).min(other.len())].to_vec();
                out.splice(at..at, piece);
            }
            _ => {
                let piece = out[at..end].to_vec();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

/// What is logged in the meantime.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn mangled_messages_are_answered_or_refused() {
    let log = Log::default();
    let lines = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
    // The server's tasks run on this thread.
    let _guard = tracing::subscriber::set_default(lines);
    let server = Running::start().await;
    let (mut random, all) = (random(), conversations());
    let greeting = startup(196_608, &[("user", "raw"), ("options", "-c statement_timeout=5s")]);
    let flat: Vec<u8> = all.iter().flatten().flatten().copied().collect();
    for case in 0..cases() {
        let messages = &all[random.random_range(0..all.len())];
        let bytes = match case % 3 {
            // The start-up itself.
            0 => mangled(&greeting, &flat, &mut random),
            // One message, or all of them as one stream.
            1 => {
                let broken = random.random_range(0..messages.len());
                let own = messages.iter().enumerate().flat_map(|(i, m)| match i == broken {
                    true => mangled(m, &flat, &mut random),
                    false => m.clone(),
                });
                [greeting.clone(), own.collect()].concat()
            }
            _ => [greeting.clone(), mangled(&messages.concat(), &flat, &mut random)].concat(),
        };
        let mut stream = server.raw().await;
        // It may have been ended already.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "case {case} hangs: {bytes:02x?}");
    }
    let client = server.client().await;
    assert_eq!(client.query("numbers 3", &[]).await.unwrap().len(), 3);
    let log = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn mangled_proofs_are_refused() {
    let (mut random, verifier) = (random(), Verifier::new("secret"));
    let last = "c=biws,r=abcdefgh,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let first = "n,,n=user,r=abcdefgh";
    for _ in 0..cases() {
        let broken = |own: &str, other: &str, random: &mut StdRng| {
            String::from_utf8_lossy(&mangled(own.as_bytes(), other.as_bytes(), random)).into_owned()
        };
        if let Ok((exchange, answer)) = Exchange::begin(verifier.clone(), &broken(first, last, &mut random)) {
            let nonce = answer.split(',').next().unwrap_or_default();
            let proof = broken(&last.replace("r=abcdefgh", nonce), first, &mut random);
            assert!(!matches!(exchange.end(&proof), Ok(Some(_))), "{proof} proves nothing");
        }
    }
}
