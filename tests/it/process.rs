//! Child processes that never outlive the test run, and the loopback ports that they listen on.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rand::Rng;

type Job = Box<dyn FnOnce() + Send>;

/// Starts `command` so that the kernel kills it when this process ends, however it ends.
///
/// The kernel's parent-death signal follows the *thread* that forked, and test threads come and go; so all children
/// are forked by one thread that lives as long as the process.
pub fn spawn(mut command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .expect("the spawner thread starts");
        Mutex::new(sender)
    });
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let (reply, answer) = channel();
    let job: Job = Box::new(move || drop(reply.send(command.spawn())));
    spawner.lock().expect("no spawner panics").send(job).expect("the spawner thread lives");
    answer.recv().expect("the spawner answers")
}

/// Sends `signal` to a child that has not been waited for.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: the child is ours and not yet reaped, so its id cannot have been reused.
    unsafe { libc::kill(child.id() as libc::pid_t, signal) };
}

/// A free loopback port, handed out once. It lies below the range from which the kernel takes ports for outgoing
/// connections, so that it is still free when a killed server comes back to it.
pub fn free_port() -> u16 {
    static TAKEN: OnceLock<Mutex<HashSet<u16>>> = OnceLock::new();
    let mut taken = TAKEN.get_or_init(Default::default).lock().expect("no holder panics");
    loop {
        let port = rand::rng().random_range(12_000..32_000);
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
}

/// Calls `attempt` every `pause` until it gives a value or `limit` has passed; then panics with `what` and the last
/// error.
pub fn wait_for<T>(what: &str, limit: Duration, pause: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if start.elapsed() > limit => panic!("{what}: not within {limit:?}: {error}"),
            Err(_) => std::thread::sleep(pause),
        }
    }
}

/// The status code and body of `GET path` from a loopback port.
pub fn http_get(port: u16, path: &str) -> Result<(u16, String), String> {
    let io = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(io)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(io)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").map_err(io)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(io)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string());
    match (status, body) {
        (Some(status), Some(body)) => Ok((status, body)),
        _ => Err(format!("not an HTTP answer: {answer:?}")),
    }
}
