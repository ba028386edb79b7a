-- Payments as they come, what is counted of them continuously, the ledger to compare with, and the task that compares.
-- $DIR is a folder of the server's (a bucket does as well); run.sh puts it in.

-- The stream. With Kafka it is CREATE SOURCE ... WITH (connector = 'kafka', ...); the rest stays as it is.
CREATE TABLE payments (
  txn_id BIGINT NOT NULL, account BIGINT NOT NULL, currency TEXT NOT NULL, amount NUMERIC(18,2) NOT NULL, d DATE NOT NULL
) APPEND ONLY;

-- Kept row by row: what was paid by day, account and currency.
CREATE MATERIALIZED VIEW totals AS
SELECT d, account, currency, count(*) AS payments, sum(amount) AS total FROM payments GROUP BY d, account, currency;

-- Every payment, exactly once, in files of its day: what single rows are compared with, and kept as long as an audit asks.
CREATE SINK payments_to_events FROM payments
WITH (connector = 'delta', location = '$DIR/events', partition_by = 'd', commit_interval = '1 s');
CREATE EXTERNAL TABLE events STORED AS DELTA LOCATION '$DIR/events';

-- The batch truth, written by another system: Parquet files, a folder for each day.
CREATE EXTERNAL TABLE ledger (txn_id BIGINT, account BIGINT, currency TEXT, amount NUMERIC(18,2), d DATE)
STORED AS PARQUET LOCATION '$DIR/ledger/' PARTITIONED BY (d);

-- What does not agree. Each day is replaced as a whole, so that a run can be repeated.
CREATE EXTERNAL TABLE breaks (kind TEXT NOT NULL, key TEXT NOT NULL, ours TEXT, theirs TEXT, found TIMESTAMPTZ, d DATE)
STORED AS DELTA LOCATION '$DIR/breaks' PARTITIONED BY (d);

CREATE TASK reconcile SCHEDULE CRON '15 2 * * *' AT TIME ZONE 'UTC'
WITH (timeout = '30 min', retries = 3, retry_backoff = '1 min', suspend_after_failures = 5) AS $$

-- A day whose events are not all in their files yet is not judged: the run fails with this text, and is tried again.
SELECT ('only ' || e.n || ' of ' || t.n || ' payments of ' || (run_date() - 1) || ' are in events')::INT
FROM (SELECT count(*) AS n FROM events WHERE d = run_date() - 1) AS e,
  (SELECT coalesce(sum(payments), 0) AS n FROM totals WHERE d = run_date() - 1) AS t
WHERE e.n <> t.n;

INSERT OVERWRITE breaks PARTITION (d = run_date() - 1)
WITH
  -- Totals: the continuous view against the ledger.
  booked AS (
    SELECT account, currency, count(*) AS entries, sum(amount) AS total
    FROM ledger WHERE d = run_date() - 1 GROUP BY account, currency
  ),
  different_totals AS (
    SELECT 'total' AS kind, 'account ' || coalesce(p.account, b.account) || ' ' || coalesce(p.currency, b.currency) AS key,
      p.payments || ' for ' || p.total AS ours, b.entries || ' for ' || b.total AS theirs
    FROM (SELECT * FROM totals WHERE d = run_date() - 1) AS p
    FULL JOIN booked AS b ON b.account = p.account AND b.currency = p.currency
    WHERE p.payments IS DISTINCT FROM b.entries OR p.total IS DISTINCT FROM b.total
  ),
  -- Rows: both sides in one pass, grouped by what tells a payment from others. Errors that cancel out in a total show here.
  sides AS (
    SELECT txn_id, account, currency, amount, 1 AS ours, 0 AS theirs FROM events WHERE d = run_date() - 1
    UNION ALL
    SELECT txn_id, account, currency, amount, 0, 1 FROM ledger WHERE d = run_date() - 1
  ),
  different_rows AS (
    SELECT txn_id, CASE WHEN sum(theirs) = 0 THEN 'missing' WHEN sum(ours) = 0 THEN 'unknown'
      WHEN count(*) > 2 THEN 'doubled' ELSE 'differs' END AS kind
    FROM sides GROUP BY txn_id
    -- The counts of the values find NULLs, which no comparison does.
    HAVING sum(ours) <> 1 OR sum(theirs) <> 1 OR min(account) <> max(account) OR min(currency) <> max(currency)
      OR min(amount) <> max(amount) OR count(account) < 2 OR count(currency) < 2 OR count(amount) < 2
  )
SELECT kind, key, ours, theirs, run_time() FROM different_totals
UNION ALL
SELECT r.kind, 'payment ' || r.txn_id,
  string_agg(concat_ws(' ', 'account', s.account, s.currency, s.amount), ', ') FILTER (WHERE s.ours = 1),
  string_agg(concat_ws(' ', 'account', s.account, s.currency, s.amount), ', ') FILTER (WHERE s.theirs = 1), run_time()
FROM different_rows AS r JOIN sides AS s ON s.txn_id = r.txn_id
GROUP BY r.kind, r.txn_id
$$;
