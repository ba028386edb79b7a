//! The epoch loop: one thread that drives all continuous views and is the only writer of the store.
//!
//! * [`handle`]: what sessions call: DDL, DML, the published version of everything.
//! * [`epoch`]: the loop: take what is ready, push it through the views, freeze, hand to the committer.
//! * [`commit`]: the committer thread: one RocksDB write an epoch, then publication.
//! * [`work`]: what an epoch computes; [`intake`]: how much it takes.
//! * [`objects`]: what runs for the catalog's objects: started, replaced, ended.
//! * [`rollback`]: back to the last committed epoch when one fails.
//! * [`pipeline`]: one view or sink: its operators and where its rows go.
//! * [`source`]: the reader of a source, its positions and watermark; `partition`: one partition of it.
//! * `alter`: what stands still, and how what runs follows the catalog.
//! * `retention`: how long dead letters and late rows are kept.
//! * [`history`]: the last changes of what somebody subscribes to.
//! * [`inserted`]: rows that INSERT adds to a source.
//! * `closing`: when time alone closes a window.
//! * [`catch_up`]: a new view reads a source's history.
//! * [`throttle`]: how fast a new view takes what was there before it.
//! * [`table`]: row tables: checks and applies the writes of sessions; `records`: what tasks note of their runs.
//! * [`outbox`]: sinks: pending rows on disk, kept until they are sent; `piece`: how they are stored; [`waiting`]: what waits,
//!   for people; `sender`: the thread that sends them, `part_size`: how many at once; `sinks`: the loop's part; `bell`: what wakes the
//!   sender.

mod alter;
mod bell;
pub mod catch_up;
mod closing;
pub mod commit;
pub mod epoch;
pub mod handle;
pub mod history;
pub mod indexes;
pub mod inserted;
pub mod intake;
mod objects;
pub mod outbox;
mod part_size;
mod partition;
mod piece;
pub mod pipeline;
pub mod published;
mod records;
mod retention;
mod rollback;
mod sender;
mod sinks;
pub mod source;
pub mod stats;
pub mod system;
pub mod table;
mod throttle;
pub mod waiting;
mod work;

pub use handle::{
    Change, DdlRequest, DdlStep, Engine, NewObject, OnConflict, SinkChange, TableWrite, TaskRecord, WriteOutcome,
    WriteRequest,
};
pub use objects::{BACKFILL_RATE_LIMIT, LATE_ROWS, LATE_ROWS_KEEP, STATE_TTL};
pub use published::Published;
