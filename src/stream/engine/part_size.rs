//! How many rows of a sink go together: fewer after a timeout, more again after a while in which all went well.

/// Most rows that are sent together.
const ROWS_MAX: usize = 32_768;
/// Fewest rows that are sent together after timeouts.
const ROWS_MIN: usize = 256;
/// Parts that have to go well before larger ones are tried: each that times out in vain costs the time of many.
const GROWS_AFTER: u32 = 16;

/// The bound on the rows of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartSize {
    rows_max: usize,
    /// Parts that went well since the bound was changed last.
    went: u32,
}

impl Default for PartSize {
    fn default() -> Self {
        Self { rows_max: ROWS_MAX, went: 0 }
    }
}

impl PartSize {
    /// Most rows of the next part.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// A part was sent.
    pub fn went(&mut self) {
        self.went += 1;
        if self.went >= GROWS_AFTER {
            *self = Self { rows_max: (self.rows_max * 2).min(ROWS_MAX), went: 0 };
        }
    }

    /// A part of so many rows was not sent in time; 0 if it had none.
    pub fn timed_out(&mut self, rows: usize) {
        if rows > 0 {
            *self = Self { rows_max: (rows.min(self.rows_max) / 2).max(ROWS_MIN), went: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_halve_what_was_tried_and_time_without_one_doubles_it() {
        let mut size = PartSize::default();
        size.timed_out(0);
        assert_eq!(size.rows_max(), ROWS_MAX);
        size.timed_out(9000);
        assert_eq!(size.rows_max(), 4500);
        for _ in 0..GROWS_AFTER {
            assert_eq!(size.rows_max(), 4500);
            size.went();
        }
        assert_eq!(size.rows_max(), 9000);
        (0..9).for_each(|_| size.timed_out(9000));
        assert_eq!(size.rows_max(), ROWS_MIN);
        (0..9 * GROWS_AFTER).for_each(|_| size.went());
        assert_eq!(size.rows_max(), ROWS_MAX);
    }
}
