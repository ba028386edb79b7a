-- Top ten: the highest bids for each auction.
CREATE MATERIALIZED VIEW q19 AS
SELECT * FROM (
  SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS rank FROM bid
) AS ranked
WHERE rank <= 10;
