-- The stream of card payments. A source stores nothing: views read it, each record once for all of them.
CREATE SOURCE IF NOT EXISTS payments (
  txn_id BIGINT, card_id BIGINT, account_id BIGINT, amount DECIMAL(12,2), currency VARCHAR, country VARCHAR,
  city VARCHAR, merchant VARCHAR, mcc INT, lat DOUBLE PRECISION, lon DOUBLE PRECISION, ts TIMESTAMP,
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
)
WITH (connector = 'kafka', topic = 'payments', properties.bootstrap.server = '$KAFKA',
  properties.fetch.wait.max.ms = '5', $START)
FORMAT PLAIN ENCODE JSON;

-- What reconciliation compares with the ledger: every payment, kept.
CREATE MATERIALIZED VIEW IF NOT EXISTS paid AS
SELECT txn_id, card_id, account_id, amount, currency, ts FROM payments;
