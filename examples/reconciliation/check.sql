-- What was planted and not found, what was found and not planted, and what was found twice: no rows.
(SELECT 'not found' AS wrong, d, kind, key FROM planted EXCEPT SELECT 'not found' AS wrong, d, kind, key FROM breaks)
UNION ALL
(SELECT 'not planted' AS wrong, d, kind, key FROM breaks EXCEPT SELECT 'not planted' AS wrong, d, kind, key FROM planted)
UNION ALL
SELECT 'found twice' AS wrong, d, kind, key FROM breaks GROUP BY d, kind, key HAVING count(*) > 1
ORDER BY d, kind, key;
