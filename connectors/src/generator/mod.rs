//! Made-up records: realistic payments with planted fraud.
