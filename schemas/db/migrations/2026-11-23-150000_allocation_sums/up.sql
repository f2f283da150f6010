-- The sums on hosts are brought up to date once for each statement, not once for each row, and hosts are locked in the
-- order of their names: a batch settles dozens of moves at once, and two batches that lock hosts in different orders
-- wait for each other until the server ends one of them.

DROP TRIGGER allocation_counted ON allocation;
DROP FUNCTION allocation_count();

CREATE FUNCTION allocation_count() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed record;
BEGIN
    FOR changed IN EXECUTE
        'SELECT host, sum(sign * vcpus)::integer AS vcpus, sum(sign * memory_mib)::bigint AS memory_mib, '
        'sum(sign * disk_gib)::bigint AS disk_gib FROM ('
        || CASE TG_OP WHEN 'INSERT' THEN 'SELECT 1 AS sign, * FROM added'
                      WHEN 'DELETE' THEN 'SELECT -1 AS sign, * FROM removed'
                      ELSE 'SELECT 1 AS sign, * FROM added UNION ALL SELECT -1, * FROM removed' END
        -- A row that only changes hands leaves its host's sum as it is.
        || ') AS rows GROUP BY host HAVING sum(sign * vcpus) <> 0 OR sum(sign * memory_mib) <> 0 '
        'OR sum(sign * disk_gib) <> 0 ORDER BY host'
    LOOP
        UPDATE host SET vcpus_used = vcpus_used + changed.vcpus, memory_mib_used = memory_mib_used + changed.memory_mib,
            disk_gib_used = disk_gib_used + changed.disk_gib WHERE name = changed.host;
    END LOOP;
    RETURN NULL;
END $$;

CREATE TRIGGER allocation_added AFTER INSERT ON allocation REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION allocation_count();
CREATE TRIGGER allocation_removed AFTER DELETE ON allocation REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION allocation_count();
CREATE TRIGGER allocation_changed AFTER UPDATE ON allocation REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION allocation_count();
