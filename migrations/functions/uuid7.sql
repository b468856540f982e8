-- A time-ordered UUID (RFC 9562, version 7): 48 bits of milliseconds, the version, 12 bits that divide the millisecond
-- (method 3 of section 6.2), the variant, 54 random bits, and the cell in the last byte. A cell is a whole database; there
-- is one so far. The same on every PostgreSQL version.
CREATE OR REPLACE FUNCTION tasker.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
SELECT (lpad(to_hex(t.us / 1000), 12, '0')
     || '7' || lpad(to_hex((t.us % 1000) * 4096 / 1000), 3, '0')
     || substr(t.random, 17, 14)
     || '00')::uuid
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us,
             replace(gen_random_uuid()::text, '-', '') AS random) AS t
$$;
