//! What becomes of scheduled times: which are run, which wait, which are skipped. Pure: the time is given.
//!
//! A time is *missed* if nobody looked when it came: the server was not running, or its clock has jumped. What becomes of those
//! is the option `catch_up`; of a time that comes while an earlier run is not over, the option `overlap`. The cursor only moves
//! forward, so a time is decided once.

use crate::calendar::Calendar;
use crate::session::tasks::{CatchUp, Overlap, Trigger};

/// Runs of a task that may wait; more are skipped.
pub const QUEUE_MAX: usize = 1000;

/// A task and the time.
pub struct Situation<'a> {
    pub calendar: &'a Calendar,
    pub catch_up: CatchUp,
    pub overlap: Overlap,
    /// All times up to this one are decided. Microseconds since 1970, as all times here.
    pub cursor_us: i64,
    /// Times up to this one that are not decided were missed.
    pub missed_until_us: i64,
    pub now_us: i64,
    /// Runs that are not over.
    pub open: usize,
}

/// What is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Run { scheduled_us: i64, trigger: Trigger },
    Skip { scheduled_us: i64, why: Why },
}

/// Why a time is not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// So many times, this one the first or the last of them, were missed.
    Missed {
        count: u32,
        first_us: i64,
        last_us: i64,
    },
    Overlap,
    QueueFull,
}

/// What becomes of the times up to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub steps: Vec<Step>,
    pub cursor_us: i64,
    /// Whether missed times are left, which are run one after the other.
    pub is_behind: bool,
}

/// Decides about all times up to now.
pub fn decide(s: &Situation<'_>) -> Decision {
    let mut decision = Decision { steps: Vec::new(), cursor_us: s.cursor_us, is_behind: false };
    let mut open = s.open;
    let missed_until_us = s.missed_until_us.min(s.now_us);
    if let Some(missed) = s.calendar.due(s.cursor_us, missed_until_us) {
        let passed = |count| Why::Missed { count, first_us: missed.first_us, last_us: missed.last_us };
        match s.catch_up {
            CatchUp::None => {
                decision.steps.push(Step::Skip { scheduled_us: missed.last_us, why: passed(missed.count) });
                decision.cursor_us = missed.last_us;
            }
            CatchUp::Latest => {
                if missed.count > 1 {
                    decision.steps.push(Step::Skip { scheduled_us: missed.first_us, why: passed(missed.count - 1) });
                }
                decision.steps.push(Step::Run { scheduled_us: missed.last_us, trigger: Trigger::CatchUp });
                decision.cursor_us = missed.last_us;
                open += 1;
            }
            CatchUp::All => {
                if open == 0 {
                    decision.steps.push(Step::Run { scheduled_us: missed.first_us, trigger: Trigger::CatchUp });
                    decision.cursor_us = missed.first_us;
                    open += 1;
                }
                if s.calendar.next_after(decision.cursor_us).is_some_and(|next| next <= missed_until_us) {
                    decision.is_behind = true;
                    return decision;
                }
            }
        }
    }
    while let Some(scheduled_us) = s.calendar.next_after(decision.cursor_us).filter(|next| *next <= s.now_us) {
        decision.cursor_us = scheduled_us;
        let step = match s.overlap {
            _ if open == 0 => Step::Run { scheduled_us, trigger: Trigger::Schedule },
            Overlap::Queue if open < QUEUE_MAX => Step::Run { scheduled_us, trigger: Trigger::Schedule },
            Overlap::Queue => Step::Skip { scheduled_us, why: Why::QueueFull },
            Overlap::Skip => Step::Skip { scheduled_us, why: Why::Overlap },
        };
        open += usize::from(matches!(step, Step::Run { .. }));
        decision.steps.push(step);
    }
    decision
}

impl Why {
    /// For people.
    pub fn text(&self) -> String {
        let time = |us: i64| jiff::Timestamp::from_microsecond(us).map_or_else(|_| us.to_string(), |t| t.to_string());
        match self {
            Self::Missed { count: 1, first_us, last_us } if first_us == last_us => {
                "its time passed while the server was not running".to_string()
            }
            Self::Missed { count, first_us, last_us } => {
                let at_least = if *count >= crate::calendar::Due::COUNT_MAX - 1 { "at least " } else { "" };
                format!(
                    "{at_least}{count} scheduled times from {} to {} passed while the server was not running",
                    time(*first_us),
                    time(*last_us)
                )
            }
            Self::Overlap => "an earlier run was not over".to_string(),
            Self::QueueFull => format!("{QUEUE_MAX} earlier runs were not over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const MINUTE: i64 = 60 * SECOND;

    /// A task that is due each minute, under a simulated clock. A run takes a while, and is over when the test says so.
    struct Simulated {
        calendar: Calendar,
        catch_up: CatchUp,
        overlap: Overlap,
        cursor_us: i64,
        missed_until_us: i64,
        is_behind: bool,
        open: usize,
        ran: Vec<(i64, Trigger)>,
        skipped: Vec<(i64, Why)>,
    }

    impl Simulated {
        fn new(catch_up: CatchUp, overlap: Overlap) -> Self {
            Self {
                calendar: Calendar::every(MINUTE).unwrap(),
                catch_up,
                overlap,
                cursor_us: 0,
                missed_until_us: 0,
                is_behind: false,
                open: 0,
                ran: Vec::new(),
                skipped: Vec::new(),
            }
        }

        /// What the scheduler does when it looks at the clock.
        fn look(&mut self, now_us: i64) {
            if self.is_behind {
                self.missed_until_us = now_us;
            }
            let decision = decide(&Situation {
                calendar: &self.calendar,
                catch_up: self.catch_up,
                overlap: self.overlap,
                cursor_us: self.cursor_us,
                missed_until_us: self.missed_until_us,
                now_us,
                open: self.open,
            });
            (self.cursor_us, self.is_behind) = (decision.cursor_us, decision.is_behind);
            for step in decision.steps {
                match step {
                    Step::Run { scheduled_us, trigger } => {
                        self.open += 1;
                        self.ran.push((scheduled_us / MINUTE, trigger));
                    }
                    Step::Skip { scheduled_us, why } => self.skipped.push((scheduled_us / MINUTE, why)),
                }
            }
        }

        /// The server starts, or finds that the clock has jumped.
        fn start(&mut self, now_us: i64) {
            self.missed_until_us = now_us;
            self.look(now_us);
        }

        fn over(&mut self) {
            self.open -= 1;
        }

        fn times(&self) -> Vec<i64> {
            self.ran.iter().map(|(time, _)| *time).collect()
        }
    }

    #[test]
    fn each_time_runs_once_however_often_the_clock_is_looked_at() {
        let mut task = Simulated::new(CatchUp::Latest, Overlap::Skip);
        for second in 0..=200 {
            task.look(second * SECOND);
            task.look(second * SECOND);
            task.open = 0;
        }
        assert_eq!(task.ran, [1, 2, 3].map(|t| (t, Trigger::Schedule)));
    }

    #[test]
    fn a_clock_that_jumps_back_runs_nothing_twice() {
        let mut task = Simulated::new(CatchUp::All, Overlap::Queue);
        task.look(5 * MINUTE);
        assert_eq!(task.times(), [1, 2, 3, 4, 5]);
        task.open = 0;
        for now in [2 * MINUTE, 3 * MINUTE, 5 * MINUTE] {
            task.start(now);
        }
        assert_eq!(task.times(), [1, 2, 3, 4, 5]);
        task.look(6 * MINUTE);
        assert_eq!(task.times(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_was_missed_goes_by_catch_up() {
        let mut none = Simulated::new(CatchUp::None, Overlap::Skip);
        none.start(5 * MINUTE + SECOND);
        let missed =
            |count, first: i64, last: i64| Why::Missed { count, first_us: first * MINUTE, last_us: last * MINUTE };
        assert_eq!((none.times(), none.skipped.clone()), (vec![], vec![(5, missed(5, 1, 5))]));
        none.look(6 * MINUTE);
        assert_eq!(none.ran, [(6, Trigger::Schedule)]);

        let mut latest = Simulated::new(CatchUp::Latest, Overlap::Skip);
        latest.start(5 * MINUTE + SECOND);
        assert_eq!(latest.ran, [(5, Trigger::CatchUp)]);
        assert_eq!(latest.skipped, [(1, missed(4, 1, 5))]);

        let mut all = Simulated::new(CatchUp::All, Overlap::Skip);
        all.start(3 * MINUTE + SECOND);
        all.look(3 * MINUTE + 2 * SECOND);
        assert_eq!(all.ran, [(1, Trigger::CatchUp)]);
        // The times that come meanwhile are made up for too, though the option says to skip.
        for now in [4 * MINUTE, 4 * MINUTE + SECOND, 4 * MINUTE + 2 * SECOND, 4 * MINUTE + 3 * SECOND] {
            all.over();
            all.look(now);
        }
        assert_eq!(all.times(), [1, 2, 3, 4]);
        assert!(all.skipped.is_empty() && !all.is_behind);
        all.look(5 * MINUTE);
        assert!(all.skipped.is_empty());
        all.look(6 * MINUTE);
        assert_eq!(all.skipped, [(6, Why::Overlap)]);
    }

    #[test]
    fn what_comes_while_a_run_is_not_over_goes_by_overlap() {
        let mut skip = Simulated::new(CatchUp::Latest, Overlap::Skip);
        (1..=3).for_each(|minute| skip.look(minute * MINUTE));
        assert_eq!(skip.times(), [1]);
        assert_eq!(skip.skipped, [(2, Why::Overlap), (3, Why::Overlap)]);
        skip.over();
        skip.look(4 * MINUTE);
        assert_eq!(skip.times(), [1, 4]);

        let mut queue = Simulated::new(CatchUp::Latest, Overlap::Queue);
        (1..=3).for_each(|minute| queue.look(minute * MINUTE));
        assert_eq!(queue.times(), [1, 2, 3]);
        queue.open = QUEUE_MAX;
        queue.look(4 * MINUTE);
        assert_eq!(queue.skipped, [(4, Why::QueueFull)]);
    }
}
