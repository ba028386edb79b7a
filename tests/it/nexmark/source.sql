-- The events as one source, what makes each of its three kinds a relation, and the side input of q13.
CREATE SOURCE nexmark (
  event_type INT, date_time TIMESTAMP, extra VARCHAR,
  person_id BIGINT, person_name VARCHAR, person_email_address VARCHAR, person_credit_card VARCHAR, person_city VARCHAR,
  person_state VARCHAR,
  auction_id BIGINT, auction_item_name VARCHAR, auction_description VARCHAR, auction_initial_bid BIGINT,
  auction_reserve BIGINT, auction_expires TIMESTAMP, auction_seller BIGINT, auction_category BIGINT,
  bid_auction BIGINT, bid_bidder BIGINT, bid_price BIGINT, bid_channel VARCHAR, bid_url VARCHAR,
  p_time TIMESTAMP AS PROCTIME(),
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
)
WITH (connector = 'nexmark', events = 10000, rate = 2500, event_rate = 100, seed = 11);

CREATE VIEW person AS
SELECT person_id AS id, person_name AS name, person_email_address AS email_address, person_credit_card AS credit_card,
  person_city AS city, person_state AS state, date_time, extra
FROM nexmark WHERE event_type = 0;

CREATE VIEW auction AS
SELECT auction_id AS id, auction_item_name AS item_name, auction_description AS description,
  auction_initial_bid AS initial_bid, auction_reserve AS reserve, date_time, auction_expires AS expires,
  auction_seller AS seller, auction_category AS category, extra
FROM nexmark WHERE event_type = 1;

CREATE VIEW bid AS
SELECT bid_auction AS auction, bid_bidder AS bidder, bid_price AS price, bid_channel AS channel, bid_url AS url,
  date_time, extra
FROM nexmark WHERE event_type = 2;

CREATE VIEW arrived AS SELECT bid_bidder AS bidder, p_time FROM nexmark WHERE event_type = 2;

CREATE TABLE side_input (key BIGINT PRIMARY KEY, value VARCHAR);
INSERT INTO side_input SELECT n, 'value ' || n FROM generate_series(0, 9999) AS s (n);
