//! A Kafka broker of a test's own, which it can stop and start again.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::kafka::{Producer, Record, create_topic_on, wait_for_broker};
use crate::process::{free_port, spawn};

/// A broker on a port and a directory of its own. Killed, and its directory removed, when dropped.
pub struct Broker {
    dir: TempDir,
    port: u16,
    controller_port: u16,
    properties: String,
    /// Whether clients can ask it; a controller takes no part in that.
    serves: bool,
    /// Where it asks for a password, if it does.
    sasl_port: Option<u16>,
    child: Option<Child>,
}

impl Broker {
    /// Starts an empty broker and waits until it answers.
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same with more lines of configuration.
    pub fn with(properties: &str) -> Self {
        let mut broker = Self::prepared(free_port(), free_port(), properties);
        broker.restart();
        broker
    }

    /// One that does not run yet, with a directory of its own.
    pub(super) fn prepared(port: u16, controller_port: u16, properties: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("millstream-kafka-").tempdir().expect("a temporary directory");
        let properties = properties.to_string();
        Broker { dir, port, controller_port, serves: true, properties, sasl_port: None, child: None }
    }

    /// The same that clients cannot ask.
    pub(super) fn silent(mut self) -> Self {
        self.serves = false;
        self
    }

    /// `host:port`, also while it is stopped.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From the next start on it asks for the password of user `u` too, at the address that this returns.
    pub fn ask_password(&mut self, password: &str) -> String {
        let (port, controller_port) = (self.port, self.controller_port);
        let sasl_port = *self.sasl_port.get_or_insert_with(free_port);
        let plain = format!("PLAINTEXT://127.0.0.1:{port}");
        let sasl = format!("SASL_PLAINTEXT://127.0.0.1:{sasl_port}");
        self.properties = format!(
            "listeners={plain},{sasl},CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners={plain},{sasl}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_plaintext.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_u=\"{password}\";"
        );
        format!("127.0.0.1:{sasl_port}")
    }

    /// Starts it again on what it had, and waits until it answers.
    pub fn restart(&mut self) {
        self.launch();
        self.wait();
    }

    /// Starts it and does not wait.
    pub(super) fn launch(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        let log = std::fs::File::create(self.dir.path().join("out.log")).expect("the broker's log can be made");
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/dev/kafka/kafka.sh"));
        command.arg("run").arg(self.dir.path()).arg(self.port.to_string()).arg(self.controller_port.to_string());
        command.env("KAFKA_PROPERTIES", &self.properties);
        command.env("KAFKA_JIT_LEVEL", "1").env("KAFKA_HEAP", "256m");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log has a second handle")).stderr(log);
        self.child = Some(spawn(command).expect("bash runs dev/kafka/kafka.sh"));
    }

    /// Waits until it answers.
    pub(super) fn wait(&mut self) {
        let (address, log) = (self.address(), self.dir.path().join("out.log"));
        if let Some(child) = self.child.as_mut().filter(|_| self.serves) {
            wait_for_broker(&address, child, &log);
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
    }

    /// Makes a topic.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        create_topic_on(&self.address(), name, partitions);
    }

    /// Sends text payloads to one partition and waits for the acknowledgement.
    pub fn produce(&self, topic: &str, partition: i32, payloads: &[&str]) {
        let producer = Producer::to(&self.address());
        payloads.iter().for_each(|payload| producer.send(topic, &Record::of(partition, *payload)));
        producer.flush();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}
