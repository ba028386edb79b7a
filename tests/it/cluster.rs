//! Two Kafka brokers that hold the same, and a controller: either of the two can go.

use crate::broker::Broker;
use crate::kafka;
use crate::process::free_port;

/// Settings of all of them: everything is on both brokers, and one of them is enough to go on.
const SHARED: &str = "default.replication.factor=2\nmin.insync.replicas=1\n\
    offsets.topic.replication.factor=2\ntransaction.state.log.replication.factor=2\n\
    broker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500\n\
    share.coordinator.state.topic.replication.factor=2";

pub struct Cluster {
    /// Decides who leads; named so that it lives as long as they do.
    _controller: Broker,
    brokers: [Broker; 2],
}

impl Cluster {
    /// Starts them and waits until both brokers are known.
    pub fn start() -> Self {
        let controller_port = free_port();
        let listener = format!("CONTROLLER://127.0.0.1:{controller_port}");
        let mut controller = Broker::prepared(
            free_port(),
            controller_port,
            &format!(
                "{SHARED}\nprocess.roles=controller\nnode.id=1\nlisteners={listener}\nadvertised.listeners={listener}"
            ),
        )
        .silent();
        let mut brokers = [2, 3].map(|node| {
            let port = free_port();
            let more =
                format!("{SHARED}\nprocess.roles=broker\nnode.id={node}\nlisteners=PLAINTEXT://127.0.0.1:{port}");
            Broker::prepared(port, controller_port, &more)
        });
        controller.launch();
        brokers.iter_mut().for_each(Broker::launch);
        brokers.iter_mut().for_each(Broker::wait);
        let cluster = Cluster { _controller: controller, brokers };
        kafka::wait_until_known(&cluster.address(), 2);
        cluster
    }

    /// All brokers, with commas between them.
    pub fn address(&self) -> String {
        self.brokers.iter().map(Broker::address).collect::<Vec<_>>().join(",")
    }

    /// Makes a topic that is on both brokers.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        kafka::create_replicated(&self.address(), name, partitions, 2);
    }

    /// Which of the two leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> usize {
        // The nodes are 2 and 3.
        kafka::leader(&self.address(), topic, partition) as usize - 2
    }

    /// SIGKILL to one of them.
    pub fn stop(&mut self, broker: usize) {
        self.brokers[broker].stop();
    }

    /// Starts it again and waits until both have everything.
    pub fn restart(&mut self, broker: usize) {
        self.brokers[broker].restart();
        kafka::wait_until_in_sync(&self.address(), 2);
    }
}
