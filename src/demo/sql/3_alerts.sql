-- All alerts, one row a card or account and hour, and the topic that they go to: an upsert for each change of a row.
CREATE MATERIALIZED VIEW IF NOT EXISTS alerts AS
SELECT 'card testing' AS kind, card_id AS subject, hour, first_at, last_at, total FROM card_testing
UNION ALL
SELECT 'impossible travel' AS kind, card_id AS subject, hour, first_at, last_at, total FROM impossible_travel
UNION ALL
SELECT 'mule account' AS kind, account_id AS subject, hour, first_at, last_at, total FROM mule_accounts;

CREATE SINK IF NOT EXISTS alert_log FROM alerts
WITH (connector = 'kafka', topic = 'fraud-alerts', properties.bootstrap.server = '$KAFKA',
  primary_key = 'kind, subject, hour', delivery = '$DELIVERY')
FORMAT UPSERT ENCODE JSON;
