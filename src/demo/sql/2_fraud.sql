-- Card testing: a stolen card number is tried with tiny amounts at online shops (merchant category 5999), many a minute.
CREATE MATERIALIZED VIEW IF NOT EXISTS tiny_payments AS
SELECT card_id, window_start, min(ts) AS first_at, max(ts) AS last_at, count(*) AS payments, sum(amount) AS total
FROM HOP(payments, ts, INTERVAL '30 seconds', INTERVAL '1 minute')
WHERE amount < 2 AND mcc = 5999
GROUP BY card_id, window_start, window_end;

-- One row a card and hour: windows that overlap see the same burst.
CREATE MATERIALIZED VIEW IF NOT EXISTS card_testing AS
SELECT card_id, date_trunc('hour', first_at) AS hour, min(first_at) AS first_at, max(last_at) AS last_at,
  max(payments) AS payments, max(total) AS total
FROM tiny_payments
WHERE payments >= 8
GROUP BY card_id, date_trunc('hour', first_at);

-- Impossible travel: a card pays in two places that nobody gets between in the time. First where each card was.
CREATE MATERIALIZED VIEW IF NOT EXISTS card_places AS
SELECT card_id, window_start, country, city, lat, lon, min(ts) AS first_at, max(ts) AS last_at, sum(amount) AS total
FROM HOP(payments, ts, INTERVAL '5 minutes', INTERVAL '10 minutes')
GROUP BY card_id, window_start, window_end, country, city, lat, lon;

-- Then pairs of places of one card in one window of ten minutes; 6371 is the radius of the earth in km.
CREATE MATERIALIZED VIEW IF NOT EXISTS far_pairs AS
SELECT a.card_id, a.window_start, a.city AS from_city, b.city AS to_city, a.first_at, b.last_at, b.total,
  6371 * acos(least(1.0, sin(radians(a.lat)) * sin(radians(b.lat))
    + cos(radians(a.lat)) * cos(radians(b.lat)) * cos(radians(a.lon - b.lon)))) AS km
FROM card_places a
JOIN card_places b ON a.card_id = b.card_id AND a.window_start = b.window_start
WHERE a.country <> b.country AND a.first_at < b.first_at;

CREATE MATERIALIZED VIEW IF NOT EXISTS impossible_travel AS
SELECT card_id, date_trunc('hour', first_at) AS hour, min(from_city) AS from_city, min(to_city) AS to_city,
  max(km) AS km, min(first_at) AS first_at, max(last_at) AS last_at, max(total) AS total
FROM far_pairs
WHERE km > 1000
GROUP BY card_id, date_trunc('hour', first_at);

-- Mule accounts: many cards send transfers (merchant category 4829) to one account within minutes. First who sent.
CREATE MATERIALIZED VIEW IF NOT EXISTS senders AS
SELECT account_id, card_id, window_start, min(ts) AS first_at, max(ts) AS last_at, sum(amount) AS total
FROM HOP(payments, ts, INTERVAL '1 minute', INTERVAL '5 minutes')
WHERE mcc = 4829
GROUP BY account_id, card_id, window_start, window_end;

CREATE MATERIALIZED VIEW IF NOT EXISTS many_senders AS
SELECT account_id, window_start, count(*) AS senders, min(first_at) AS first_at, max(last_at) AS last_at,
  sum(total) AS total
FROM senders
GROUP BY account_id, window_start
HAVING count(*) >= 10;

CREATE MATERIALIZED VIEW IF NOT EXISTS mule_accounts AS
SELECT account_id, date_trunc('hour', first_at) AS hour, max(senders) AS senders, min(first_at) AS first_at,
  max(last_at) AS last_at, max(total) AS total
FROM many_senders
GROUP BY account_id, date_trunc('hour', first_at);
