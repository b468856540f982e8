-- A time-ordered UUID (RFC 9562, version 7): 48 bits of milliseconds, the version, 12 bits that divide the millisecond
-- (method 3 of section 6.2), the variant, 54 random bits, and the cell in the last byte. A cell is a whole database; there
-- is one so far. The same on every PostgreSQL version. One expression, so that it is inlined: microseconds * 4096 / 1000
-- are both parts of the time in one number, and the version goes between them.
CREATE OR REPLACE FUNCTION tasker.uuid7() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
SELECT (overlay(lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 512 / 125), 15, '0') PLACING '7' FROM 13 FOR 0)
     || substr(replace(gen_random_uuid()::text, '-', ''), 17, 14)
     || '00')::uuid
$$;
