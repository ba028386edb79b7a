-- The answer sheet: what was planted. No rule above reads it. The last payment of a fraud that goes on is not known.
CREATE TABLE IF NOT EXISTS planted_frauds (
  id BIGINT PRIMARY KEY, kind VARCHAR, subject BIGINT, first_at TIMESTAMP, last_at TIMESTAMP, payments INT,
  complete BOOLEAN
);

CREATE TABLE IF NOT EXISTS planted_breaks (txn_id BIGINT PRIMARY KEY, book INT, break VARCHAR, cents BIGINT);

-- How good the rules are. Recall is of the frauds whose payments are all out; precision is of the alerts that the answer
-- sheet covers: when a book is closed, all frauds that have begun by its last payment are in the sheet.
CREATE VIEW IF NOT EXISTS fraud_check AS
WITH kinds (kind) AS (VALUES ('card testing'), ('impossible travel'), ('mule account')),
  judged AS (
    SELECT kind, subject, hour, first_at, last_at FROM alerts
    WHERE last_at <= (SELECT max(ts) FROM paid WHERE txn_id <= (SELECT max(last_txn_id) FROM books))
  ),
  hits AS (
    SELECT p.id, p.complete, a.kind, a.subject, a.hour FROM planted_frauds p
    JOIN alerts a ON a.kind = p.kind AND a.subject = p.subject AND a.last_at >= p.first_at
      AND a.first_at <= coalesce(p.last_at, p.first_at + INTERVAL '10 minutes')
  ),
  planted AS (SELECT kind, count(*) AS n FROM planted_frauds WHERE complete GROUP BY kind),
  found AS (SELECT kind, count(DISTINCT id) AS n FROM hits WHERE complete GROUP BY kind),
  alerted AS (SELECT kind, count(*) AS n FROM alerts GROUP BY kind),
  sure AS (SELECT kind, count(*) AS n FROM judged GROUP BY kind),
  confirmed AS (
    SELECT j.kind, count(*) AS n FROM judged j
    JOIN (SELECT DISTINCT kind, subject, hour FROM hits) h ON h.kind = j.kind AND h.subject = j.subject AND h.hour = j.hour
    GROUP BY j.kind
  )
SELECT k.kind, coalesce(p.n, 0) AS planted, coalesce(f.n, 0) AS found, coalesce(a.n, 0) AS alerts,
  coalesce(s.n, 0) - coalesce(c.n, 0) AS false_alarms,
  f.n::DOUBLE PRECISION / p.n AS recall, coalesce(c.n, 0)::DOUBLE PRECISION / s.n AS precision
FROM kinds k
LEFT JOIN planted p ON p.kind = k.kind LEFT JOIN found f ON f.kind = k.kind
LEFT JOIN alerted a ON a.kind = k.kind LEFT JOIN sure s ON s.kind = k.kind LEFT JOIN confirmed c ON c.kind = k.kind;

-- The same of the reconciliation: a break is found if its payment and its kind are, and the amount to the cent.
CREATE VIEW IF NOT EXISTS reconciliation_check AS
SELECT count(p.txn_id) AS planted, count(CASE WHEN p.txn_id = r.txn_id THEN 1 END) AS found,
  count(CASE WHEN p.txn_id IS NULL THEN 1 END) AS false_alarms
FROM (SELECT * FROM planted_breaks WHERE book <= (SELECT max(book) FROM books)) p
FULL JOIN reconciliation r ON r.txn_id = p.txn_id AND r.break = p.break
  AND (p.break <> 'amount' OR p.cents = (r.booked - r.paid) * 100);
