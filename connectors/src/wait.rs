//! What a sink's writer waits for, told to those who look on: a call of a client library blocks for as long as it likes, and
//! says nothing until it is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Shared by a writer, which says what it waits for, and those who ask. Cheap to clone; a clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Wait {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    step: Option<Step>,
    /// Why the outside cannot be reached, as the client last said.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Step {
    since: Instant,
    what: String,
}

impl Wait {
    /// Waits from here on: `what` says for what, as a sentence without an end.
    pub fn begin(&self, what: impl Into<String>) {
        self.inner.lock().step = Some(Step { since: Instant::now(), what: what.into() });
    }

    /// Waits no more.
    pub fn end(&self) {
        self.inner.lock().step = None;
    }

    /// What the client says of the outside; `None` when all is well again.
    pub fn trouble(&self, trouble: Option<String>) {
        self.inner.lock().trouble = trouble;
    }

    /// What is waited for, and for how long, if that is `patience` already.
    pub fn told(&self, patience: Duration) -> Option<String> {
        let inner = self.inner.lock();
        let step = inner.step.as_ref().filter(|step| step.since.elapsed() >= patience)?;
        let (what, seconds) = (&step.what, step.since.elapsed().as_secs());
        Some(match &inner.trouble {
            Some(trouble) => format!("{what} for {seconds} s: {trouble}"),
            None => format!("{what} for {seconds} s"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_while_it_lasts() {
        let wait = Wait::default();
        let other = wait.clone();
        assert_eq!(other.told(Duration::ZERO), None);
        wait.trouble(Some("no route".into()));
        wait.begin("topic \"t\" waits");
        assert_eq!(other.told(Duration::from_secs(60)), None);
        assert_eq!(other.told(Duration::ZERO).as_deref(), Some("topic \"t\" waits for 0 s: no route"));
        wait.trouble(None);
        assert_eq!(other.told(Duration::ZERO).as_deref(), Some("topic \"t\" waits for 0 s"));
        wait.end();
        assert_eq!(other.told(Duration::ZERO), None);
    }
}
