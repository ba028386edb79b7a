//! Channels: who listens to what, and how a notification gets there.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::api::OutOfBand;
use crate::error::Error;

/// Notifications that may wait for a client that does not read.
pub const OUTBOX_EVENTS: usize = 1024;

/// The listeners of a database.
#[derive(Default)]
pub struct Channels {
    /// By channel, the outboxes of sessions.
    listeners: Mutex<HashMap<String, BTreeMap<u64, mpsc::Sender<OutOfBand>>>>,
}

impl Channels {
    /// A session listens to a channel.
    pub fn listen(&self, channel: &str, session: u64, outbox: mpsc::Sender<OutOfBand>) {
        self.listeners.lock().entry(channel.to_string()).or_default().insert(session, outbox);
    }

    /// A session listens to a channel no longer.
    pub fn unlisten(&self, channel: &str, session: u64) {
        let mut listeners = self.listeners.lock();
        if let Some(of_channel) = listeners.get_mut(channel) {
            of_channel.remove(&session);
            if of_channel.is_empty() {
                listeners.remove(channel);
            }
        }
    }

    /// Tells all who listen. Does not wait: who has too much waiting already is sent away, for it would miss something.
    pub fn notify(&self, process_id: i32, channel: &str, payload: &str) {
        let mut listeners = self.listeners.lock();
        let Some(of_channel) = listeners.get_mut(channel) else { return };
        of_channel.retain(|_, outbox| {
            let event =
                OutOfBand::Notification { process_id, channel: channel.to_string(), payload: payload.to_string() };
            match outbox.try_send(event) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    let outbox = outbox.clone();
                    tokio::spawn(async move {
                        // A session that is gone needs no end.
                        let _ = outbox.send(OutOfBand::Terminate(too_slow())).await;
                    });
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }
}

/// 53400: more waits for a listener than is kept.
pub fn too_slow() -> Error {
    Error::new("53400", format!("more than {OUTBOX_EVENTS} notifications wait for the session"))
        .with_hint("read notifications faster, and do not stay in a transaction while you listen")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(event: Option<OutOfBand>) -> String {
        match event {
            Some(OutOfBand::Notification { process_id, channel, payload }) => {
                format!("{process_id} {channel} {payload}")
            }
            Some(OutOfBand::Terminate(e)) => e.sqlstate().to_string(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn who_listens_is_told_and_nobody_else() {
        let channels = Channels::default();
        let (a, mut of_a) = mpsc::channel(10);
        let (b, mut of_b) = mpsc::channel(10);
        channels.listen("x", 1, a.clone());
        channels.listen("x", 1, a.clone());
        channels.listen("y", 2, b.clone());
        channels.notify(7, "x", "one");
        channels.notify(7, "nobody", "two");
        channels.notify(8, "y", "three");
        channels.unlisten("x", 1);
        channels.notify(7, "x", "four");
        drop((a, b, channels));
        assert_eq!(text(of_a.recv().await), "7 x one");
        assert!(of_a.recv().await.is_none());
        assert_eq!(text(of_b.recv().await), "8 y three");
    }

    #[tokio::test]
    async fn who_does_not_read_is_sent_away_and_holds_up_nobody() {
        let channels = Channels::default();
        let (slow, mut of_slow) = mpsc::channel(2);
        channels.listen("x", 1, slow);
        for i in 0..5 {
            channels.notify(7, "x", &i.to_string());
        }
        assert_eq!(text(of_slow.recv().await), "7 x 0");
        assert_eq!(text(of_slow.recv().await), "7 x 1");
        assert_eq!(text(of_slow.recv().await), "53400");
        assert!(channels.listeners.lock()["x"].is_empty());
    }
}
