-- Highest bid: the bids that are the highest of their window.
CREATE MATERIALIZED VIEW q7 AS
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid AS b
JOIN (
  SELECT window_end, max(price) AS price
  FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
  GROUP BY window_start, window_end
) AS highest ON b.price = highest.price
WHERE b.date_time BETWEEN highest.window_end - INTERVAL '10 seconds' AND highest.window_end;
