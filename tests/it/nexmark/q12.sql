-- Processing time windows: how many bids a person makes in ten seconds, by the clock of the server.
CREATE MATERIALIZED VIEW q12 AS
WITH arrived AS (SELECT bidder, now() AS arrived_at FROM bid)
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(arrived, arrived_at, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
