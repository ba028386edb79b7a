//! A schema registry inside a test: the part of the REST API that [`super::client`] speaks, on a loopback port.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

/// A registry that ends with the test.
pub struct MockRegistry {
    pub url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    /// Answers 503 as long as it is set.
    down: AtomicBool,
    /// Does not answer as long as it is set.
    silent: AtomicBool,
    /// `Authorization` that requests must have.
    authorization: Mutex<Option<String>>,
    /// What is registered, in the order of ids from 1: subject, type, text, references.
    schemas: Mutex<Vec<(String, String, String, Value)>>,
    requests: Mutex<Vec<String>>,
}

impl MockRegistry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State::default());
        let own = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stop.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    let own = own.clone();
                    std::thread::spawn(move || own.serve(stream));
                }
            }
        });
        Self { url, state }
    }

    /// Registers a schema; its id.
    pub fn add(&self, subject: &str, schema_type: &str, text: &str, references: Value) -> u32 {
        let mut schemas = self.state.schemas.lock();
        schemas.push((subject.into(), schema_type.into(), text.into(), references));
        schemas.len() as u32
    }

    /// Registers a schema in Avro.
    pub fn avro(&self, subject: &str, text: &str) -> u32 {
        self.add(subject, "AVRO", text, json!([]))
    }

    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::Relaxed);
    }

    pub fn set_silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::Relaxed);
    }

    /// From here on asks for these credentials in base64.
    pub fn protect(&self, basic: &str) {
        *self.state.authorization.lock() = Some(format!("Basic {basic}"));
    }

    /// What was asked so far: method and path.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().clone()
    }

    /// The text of a subject's newest schema.
    pub fn text(&self, subject: &str) -> Option<String> {
        self.state.schemas.lock().iter().rev().find(|s| s.0 == subject).map(|s| s.2.clone())
    }
}

impl Drop for MockRegistry {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.url.trim_start_matches("http://"));
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            let request = line.trim().to_string();
            let (mut length, mut authorization) = (0, None);
            loop {
                line.clear();
                if reader.read_line(&mut line).is_err() || line.trim().is_empty() {
                    break;
                }
                let (name, value) = line.trim().split_once(':').unwrap_or((line.trim(), ""));
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.trim().parse().unwrap_or(0),
                    "authorization" => authorization = Some(value.trim().to_string()),
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_err() {
                return;
            }
            while self.silent.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let (status, answer) = self.answer(&request, authorization, &body);
            let text = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            let stream = reader.get_mut();
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes())).is_err() {
                return;
            }
            line.clear();
        }
    }

    fn answer(&self, request: &str, authorization: Option<String>, body: &[u8]) -> (u16, Value) {
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        self.requests.lock().push(format!("{method} {path}"));
        if self.down.load(Ordering::Relaxed) {
            return (503, json!({ "error_code": 50301, "message": "away" }));
        }
        let needed = self.authorization.lock().clone();
        if needed.is_some() && needed != authorization {
            return (401, json!({ "error_code": 40101, "message": "Unauthorized" }));
        }
        let mut schemas = self.schemas.lock();
        let of = |schemas: &Vec<(String, String, String, Value)>, i: usize| {
            let (subject, schema_type, text, references) = &schemas[i];
            json!({ "subject": subject, "id": i + 1, "version": 1, "schemaType": schema_type, "schema": text,
                    "references": references })
        };
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["schemas", "ids", id]) => match id.parse::<usize>() {
                Ok(id) if id >= 1 && id <= schemas.len() => (200, of(&schemas, id - 1)),
                _ => (404, json!({ "error_code": 40403, "message": "Schema not found" })),
            },
            ("GET", ["subjects", subject, "versions", _]) => match schemas.iter().rposition(|s| s.0 == *subject) {
                Some(i) => (200, of(&schemas, i)),
                None => (404, json!({ "error_code": 40401, "message": "Subject not found." })),
            },
            ("POST", ["subjects", subject, "versions"]) => {
                let body: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
                let text = body.get("schema").and_then(Value::as_str).unwrap_or("").to_string();
                if let Some(i) = schemas.iter().position(|s| s.0 == *subject && s.2 == text) {
                    return (200, json!({ "id": i + 1 }));
                }
                if schemas.iter().any(|s| s.0 == *subject) && subject.contains("fixed") {
                    return (409, json!({ "error_code": 409, "message": "Schema is incompatible" }));
                }
                schemas.push((subject.to_string(), "AVRO".into(), text, json!([])));
                (200, json!({ "id": schemas.len() }))
            }
            _ => (404, json!({ "error_code": 404, "message": "HTTP 404 Not Found" })),
        }
    }
}
