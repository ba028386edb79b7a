-- Average selling price by seller: over the seller's last ten auctions, each with the bid that wins it.
CREATE MATERIALIZED VIEW q6 AS
SELECT seller, id, avg(price) OVER (PARTITION BY seller ORDER BY date_time ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS price
FROM (
  SELECT a.seller, a.id, b.price, b.date_time,
    row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS rank
  FROM auction AS a JOIN bid AS b ON b.auction = a.id AND b.date_time BETWEEN a.date_time AND a.expires
) AS ranked
WHERE rank <= 1;
