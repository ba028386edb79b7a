//! A TCP connection to a port of this machine that a test can slow down.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::broker::Broker;
use crate::process::free_port;

/// Bytes that are passed on at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// Passes on whatever comes to its own port, until the test run ends.
pub struct Link {
    port: u16,
    bytes_per_second: Arc<AtomicU64>,
}

impl Link {
    /// A link to a port, as fast as it gets.
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let bytes_per_second = Arc::new(AtomicU64::new(u64::MAX));
        let rate = bytes_per_second.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Nobody listens there yet: the client sees the end.
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let ends = (from.try_clone().expect("a second handle"), to.try_clone().expect("a second handle"));
                    let rate = rate.clone();
                    std::thread::spawn(move || pass_on(ends, &rate));
                }
            }
        });
        Self { port: own, bytes_per_second }
    }

    /// A broker whose clients reach it through a link alone.
    pub fn with_broker() -> (Broker, Self) {
        let port = free_port();
        let link = Self::to(port);
        let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}", link.port);
        let mut broker = Broker::prepared(port, free_port(), &advertised);
        broker.restart();
        (broker, link)
    }

    /// From here on each connection passes on so many bytes a second in each direction.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }
}

fn pass_on((mut from, mut to): (TcpStream, TcpStream), bytes_per_second: &AtomicU64) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        let rate = bytes_per_second.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs_f64(n as f64 / rate as f64));
        if to.write_all(&piece[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}
