-- Processing time windows: how many bids a person makes in ten seconds, by the clock of the server.
CREATE MATERIALIZED VIEW q12 AS
WITH arrived AS (SELECT bid_bidder AS bidder, p_time FROM nexmark WHERE event_type = 2)
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(arrived, p_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
