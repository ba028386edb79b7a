-- Processing time windows: how many bids a person makes in ten seconds, by the clock of the server.
CREATE MATERIALIZED VIEW q12 AS
SELECT bidder, count(*) AS bid_count, window_start, window_end
FROM TUMBLE(arrived, p_time, INTERVAL '10 seconds')
GROUP BY bidder, window_start, window_end;
