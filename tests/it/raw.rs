//! A client that sends the extended protocol's messages one by one, as drivers do in a pipeline.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection past its start-up.
pub struct Raw {
    stream: TcpStream,
    /// The last RowDescription, as it came.
    pub described: String,
}

impl Raw {
    /// Connects to a server on this port.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the server listens");
        let mut raw = Self { stream, described: String::new() };
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0millstream\0database\0millstream\0\0");
        let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
        packet.extend_from_slice(&body);
        raw.stream.write_all(&packet).await.expect("the start-up packet is sent");
        raw.until_ready().await;
        raw
    }

    /// Parse, Bind and Execute of a statement without parameters, and no Sync.
    pub async fn execute(&mut self, sql: &str) {
        let parse = format!("\0{sql}\0\0\0");
        for (kind, body) in [(b'P', parse.as_bytes()), (b'B', &[0; 8]), (b'E', &[0; 5])] {
            self.send(kind, body).await;
        }
    }

    /// A simple query, whose answer is not read yet.
    pub async fn query(&mut self, sql: &str) {
        self.send(b'Q', format!("{sql}\0").as_bytes()).await;
    }

    /// Describe of a portal, and Sync; the errors. Its columns are then in [`Raw::described`].
    pub async fn describe_portal(&mut self, name: &str) -> String {
        self.send(b'D', format!("P{name}\0").as_bytes()).await;
        self.send(b'S', &[]).await;
        self.until_ready().await
    }

    /// Reads up to ReadyForQuery; the errors that came before it.
    pub async fn answer(&mut self) -> String {
        self.until_ready().await
    }

    /// Sync; the errors that came before ReadyForQuery, by SQLSTATE and message.
    pub async fn sync(&mut self) -> String {
        self.send(b'S', &[]).await;
        self.until_ready().await
    }

    async fn send(&mut self, kind: u8, body: &[u8]) {
        let mut message = vec![kind];
        message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).await.expect("the message is sent");
    }

    async fn until_ready(&mut self) -> String {
        let mut errors = String::new();
        loop {
            let kind = self.stream.read_u8().await.expect("a message");
            let length = self.stream.read_u32().await.expect("its length") as usize - 4;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.expect("its body");
            match kind {
                b'Z' => return errors,
                b'E' => errors.push_str(&String::from_utf8_lossy(&body)),
                b'T' => self.described = String::from_utf8_lossy(&body).into_owned(),
                _ => {}
            }
        }
    }
}
