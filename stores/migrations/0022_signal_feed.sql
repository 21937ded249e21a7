-- What has come of each process's signals, as ranges of its running number: an event that comes twice, late, or to a worker that
-- dies with it changes nothing of what is missing, and what is missing is exact.

-- How many numbers ranges have.
CREATE FUNCTION how_many(came int8multirange) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(sum(upper(one) - lower(one)), 0)::bigint FROM unnest(came) AS one
$$;

-- Adds ranges to those that have come. Of very many (a stream that was full for hours) the oldest become one that has as many
-- numbers: nothing of them is under way any more.
CREATE FUNCTION came_too(came int8multirange, more int8multirange) RETURNS int8multirange
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = public, pg_catalog, pg_temp AS $$
DECLARE
  every int8multirange := came + more;
  old int8multirange;
BEGIN
  IF (SELECT count(*) FROM unnest(every)) <= 1000 THEN
    RETURN every;
  END IF;
  old := (SELECT range_agg(one) FROM (SELECT one FROM unnest(every) AS one ORDER BY one DESC OFFSET 500) AS rest);
  RETURN every - old + int8multirange(int8range(upper(old) - how_many(old), upper(old)));
END
$$;

ALTER TABLE integrity_feed ADD COLUMN came int8multirange NOT NULL DEFAULT '{}';
UPDATE integrity_feed SET came = int8multirange(int8range(lost, published));
ALTER TABLE integrity_feed DROP COLUMN lost;
ALTER TABLE integrity_feed ADD COLUMN lost bigint NOT NULL GENERATED ALWAYS AS (published - how_many(came)) STORED;
