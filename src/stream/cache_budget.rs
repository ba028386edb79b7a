//! The memory of all caches of operators' state together, shared out evenly among those in use.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What all caches together may take unless somebody says otherwise.
pub const TOTAL_BYTES_DEFAULT: usize = 256 << 20;

static TOTAL_BYTES: AtomicUsize = AtomicUsize::new(TOTAL_BYTES_DEFAULT);
static SHARES: AtomicUsize = AtomicUsize::new(0);

/// Sets what all caches together may take; they shrink to it at the end of their next epoch.
pub fn set_total_bytes(bytes: usize) {
    TOTAL_BYTES.store(bytes, Ordering::Relaxed);
}

/// One cache's part of the memory: nothing until it is used, and given back when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Share {
    fixed_bytes: Option<usize>,
    in_use: bool,
}

impl Share {
    /// A part of this size, whatever others take.
    pub fn fixed(bytes: usize) -> Self {
        Self { fixed_bytes: Some(bytes), in_use: false }
    }

    /// Counts the cache among those in use.
    pub fn take(&mut self) {
        if !self.in_use && self.fixed_bytes.is_none() {
            SHARES.fetch_add(1, Ordering::Relaxed);
            self.in_use = true;
        }
    }

    /// Bytes that the cache may take now.
    pub fn bytes(&self) -> usize {
        let even = || TOTAL_BYTES.load(Ordering::Relaxed) / SHARES.load(Ordering::Relaxed).max(1);
        self.fixed_bytes.unwrap_or_else(even)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.in_use {
            SHARES.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Share;

    #[test]
    fn what_is_dropped_is_given_back() {
        let mut one = Share::default();
        one.take();
        let alone = one.bytes();
        let others: Vec<Share> = (0..1000)
            .map(|_| {
                let mut share = Share::default();
                share.take();
                share
            })
            .collect();
        assert!(one.bytes() <= alone / 500);
        drop(others);
        assert!(one.bytes() > alone / 500);
        assert_eq!(Share::fixed(7).bytes(), 7);
    }
}
