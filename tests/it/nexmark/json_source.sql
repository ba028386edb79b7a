-- The same relations as those of source.sql, of events that are JSON with the three kinds nested: lines of files, or the
-- records of a topic. FROM is replaced by the connector and its options.
CREATE SOURCE nexmark (
  event_type INT,
  person STRUCT<id BIGINT, name VARCHAR, "emailAddress" VARCHAR, "creditCard" VARCHAR, city VARCHAR, state VARCHAR,
    "dateTime" TIMESTAMP, extra VARCHAR>,
  auction STRUCT<id BIGINT, "itemName" VARCHAR, description VARCHAR, "initialBid" BIGINT, reserve BIGINT,
    "dateTime" TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR>,
  bid STRUCT<auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, "dateTime" TIMESTAMP, extra VARCHAR>,
  date_time TIMESTAMP AS CASE event_type
    WHEN 0 THEN (person)."dateTime" WHEN 1 THEN (auction)."dateTime" ELSE (bid)."dateTime" END,
  p_time TIMESTAMP AS PROCTIME(),
  WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds'
)
WITH (FROM)
FORMAT PLAIN ENCODE JSON;

CREATE VIEW person AS
SELECT (person).id, (person).name, (person)."emailAddress" AS email_address, (person)."creditCard" AS credit_card,
  (person).city, (person).state, date_time, (person).extra
FROM nexmark WHERE event_type = 0;

CREATE VIEW auction AS
SELECT (auction).id, (auction)."itemName" AS item_name, (auction).description, (auction)."initialBid" AS initial_bid,
  (auction).reserve, date_time, (auction).expires, (auction).seller, (auction).category, (auction).extra
FROM nexmark WHERE event_type = 1;

CREATE VIEW bid AS
SELECT (bid).auction, (bid).bidder, (bid).price, (bid).channel, (bid).url, date_time, (bid).extra
FROM nexmark WHERE event_type = 2;

CREATE VIEW arrived AS SELECT (bid).bidder, p_time FROM nexmark WHERE event_type = 2;

CREATE TABLE side_input (key BIGINT PRIMARY KEY, value VARCHAR);
INSERT INTO side_input SELECT n, 'value ' || n FROM generate_series(0, 9999) AS s (n);
