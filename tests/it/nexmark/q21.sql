-- Channel ids: of the four well-known channels a number, of the others what their URL says.
CREATE MATERIALIZED VIEW q21 AS
SELECT auction, bidder, price, channel, channel_id
FROM (
  SELECT auction, bidder, price, channel,
    CASE lower(channel)
      WHEN 'apple' THEN '0'
      WHEN 'google' THEN '1'
      WHEN 'facebook' THEN '2'
      WHEN 'baidu' THEN '3'
      ELSE (regexp_match(url, '&channel_id=([^&]*)'))[1]
    END AS channel_id
  FROM bid
) AS named
WHERE channel_id IS NOT NULL;
