-- Hot items: in each window, which slides, the auctions with the most bids.
CREATE MATERIALIZED VIEW q5 AS
WITH counted AS (
  SELECT auction, window_start, window_end, count(*) AS num
  FROM HOP(bid, date_time, INTERVAL '2 seconds', INTERVAL '10 seconds')
  GROUP BY auction, window_start, window_end
), highest AS (
  SELECT window_start, window_end, max(num) AS num FROM counted GROUP BY window_start, window_end
)
SELECT c.auction, c.num, c.window_start, c.window_end
FROM counted AS c JOIN highest AS h
  ON c.window_start = h.window_start AND c.window_end = h.window_end AND c.num >= h.num;
