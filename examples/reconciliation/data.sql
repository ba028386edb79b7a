-- Made-up payments of $DAYS days, the same every time: `stream` is what is paid, `ledger` is what the bank books of it, and
-- `planted` lists the breaks between the two that a reconciliation must find, and no others.
--
-- A day has twenty slots with one wrong payment each, the one at place 7 of its slot:
--    0        its amount is swapped with that of another payment of the same account and currency: no total shows it
--    1 to 4   it is not in the ledger
--    5 to 8   it is in the ledger twice
--    9 to 11  it is booked with another amount
--   12        with another currency
--   13        on another account
--   14        without an amount
--   15        on the next day (of the last day: on the first)
--   16 to 17  it comes twice in the stream
--   18 to 19  the ledger has one beside it that nobody paid
--
-- `numbers` counts from 0 to $PAYMENTS - 1; run.sh makes its files.

CREATE EXTERNAL TABLE numbers (g BIGINT) STORED AS PARQUET LOCATION '$DIR/numbers/';

CREATE VIEW made AS
SELECT g AS txn_id, 1 + g * 7919 % $ACCOUNTS AS account,
  CASE g / $ACCOUNTS % 3 WHEN 0 THEN 'EUR' WHEN 1 THEN 'GBP' ELSE 'USD' END AS currency,
  ((g * 104729 % 500000 + 1) / 100.0)::NUMERIC(18,2) AS amount,
  g * $DAYS / $PAYMENTS AS day,
  CASE WHEN g % ($PAYMENTS / $DAYS / 20) = 7 THEN g % ($PAYMENTS / $DAYS) / ($PAYMENTS / $DAYS / 20) ELSE -1 END AS slot,
  -- The place of the other payment of the swap.
  g % ($PAYMENTS / $DAYS) = 7 + 3 * $ACCOUNTS AS is_swapped
FROM numbers;

COPY (
  SELECT txn_id, account, currency, amount, DATE '2026-01-01' + day::INT AS d FROM made
  UNION ALL
  SELECT txn_id, account, currency, amount, DATE '2026-01-01' + day::INT FROM made WHERE slot BETWEEN 16 AND 17
) TO '$DIR/stream/' WITH (FORMAT parquet, ROWS_PER_FILE $LOAD_ROWS);

CREATE VIEW booked AS
SELECT txn_id, CASE WHEN slot = 13 THEN account % $ACCOUNTS + 1 ELSE account END AS account,
  CASE WHEN slot = 12 THEN CASE currency WHEN 'EUR' THEN 'GBP' ELSE 'EUR' END ELSE currency END AS currency,
  CASE WHEN slot = 0 THEN ((txn_id + 3 * $ACCOUNTS) * 104729 % 500000 + 1) / 100.0
    WHEN is_swapped THEN ((txn_id - 3 * $ACCOUNTS) * 104729 % 500000 + 1) / 100.0
    WHEN slot BETWEEN 9 AND 11 THEN amount + 0.01
    WHEN slot = 14 THEN NULL ELSE amount END::NUMERIC(18,2) AS amount,
  DATE '2026-01-01' + (CASE WHEN slot = 15 THEN (day + 1) % $DAYS ELSE day END)::INT AS d
FROM made WHERE slot NOT BETWEEN 1 AND 4
UNION ALL
SELECT CASE WHEN slot >= 18 THEN -txn_id ELSE txn_id END, account, currency, amount, DATE '2026-01-01' + day::INT
FROM made WHERE slot BETWEEN 5 AND 8 OR slot >= 18;

COPY (SELECT * FROM booked) TO '$DIR/ledger/' WITH (FORMAT parquet, PARTITION_BY (d));

-- What must be found, of single payments and of totals.
CREATE VIEW wrong AS
SELECT txn_id, account, currency, slot, DATE '2026-01-01' + day::INT AS d, DATE '2026-01-01' + ((day + 1) % $DAYS)::INT AS next
FROM made WHERE slot >= 0 OR is_swapped;

CREATE TABLE planted (d DATE, kind TEXT, key TEXT, PRIMARY KEY (d, kind, key));
INSERT INTO planted
SELECT d, CASE WHEN slot BETWEEN 1 AND 4 OR slot = 15 THEN 'missing' WHEN slot BETWEEN 5 AND 8 OR slot BETWEEN 16 AND 17 THEN 'doubled'
  WHEN slot >= 18 THEN 'unknown' ELSE 'differs' END, 'payment ' || CASE WHEN slot >= 18 THEN -txn_id ELSE txn_id END
FROM wrong
UNION ALL
SELECT next, 'unknown', 'payment ' || txn_id FROM wrong WHERE slot = 15
UNION
SELECT d, 'total', 'account ' || account || ' ' || currency FROM wrong WHERE slot > 0
UNION
SELECT d, 'total', 'account ' || account % $ACCOUNTS + 1 || ' ' || currency FROM wrong WHERE slot = 13
UNION
SELECT d, 'total', 'account ' || account || ' ' || CASE currency WHEN 'EUR' THEN 'GBP' ELSE 'EUR' END FROM wrong WHERE slot = 12
UNION
SELECT next, 'total', 'account ' || account || ' ' || currency FROM wrong WHERE slot = 15;
