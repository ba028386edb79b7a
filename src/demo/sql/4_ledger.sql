-- The bank's own ledger: Parquet files, one for each book, closed every few seconds. Some entries are wrong.
CREATE EXTERNAL TABLE IF NOT EXISTS ledger (
  txn_id BIGINT, card_id BIGINT, account_id BIGINT, amount DECIMAL(12,2), currency VARCHAR, booked_at TIMESTAMP, d DATE
)
STORED AS PARQUET LOCATION '$LEDGER' PARTITIONED BY (d);

-- The books that are closed: up to which payment the ledger says that it is complete.
CREATE TABLE IF NOT EXISTS books (book INT PRIMARY KEY, first_txn_id BIGINT, last_txn_id BIGINT, entries BIGINT);

-- Every payment that is not in the ledger exactly once and with its amount, and every entry without a payment.
CREATE VIEW IF NOT EXISTS reconciliation AS
WITH closed AS (SELECT coalesce(max(last_txn_id), 0) AS txn_id FROM books),
  p AS (SELECT txn_id, amount FROM paid WHERE txn_id <= (SELECT txn_id FROM closed)),
  l AS (
    SELECT txn_id, count(*) AS entries, max(amount) AS amount FROM ledger
    WHERE txn_id <= (SELECT txn_id FROM closed) GROUP BY txn_id
  )
SELECT coalesce(p.txn_id, l.txn_id) AS txn_id,
  CASE WHEN p.txn_id IS NULL THEN 'unknown' WHEN l.txn_id IS NULL THEN 'missing'
    WHEN l.entries > 1 THEN 'doubled' ELSE 'amount' END AS break,
  p.amount AS paid, l.amount AS booked
FROM p FULL JOIN l ON l.txn_id = p.txn_id
WHERE p.txn_id IS NULL OR l.txn_id IS NULL OR l.entries > 1 OR l.amount <> p.amount;
