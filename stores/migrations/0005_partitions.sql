-- The smallest UUIDv7 of a moment: its milliseconds, then zeros (the version digit 7 makes every real id larger).
CREATE FUNCTION first_uuid(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT rpad(lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$;

-- Makes the monthly partitions from the month before `moment` through `months` after it, and says how many were new.
-- Attached, not created in place: that locks out nobody. Any service may call it; it can only ever add a month.
CREATE FUNCTION make_partitions(moment timestamptz, months int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public SET timezone = 'UTC' AS $$
DECLARE
  parent text;
  month timestamptz;
  part text;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(7061727469);
  FOREACH parent IN ARRAY ARRAY['session_answer', 'result'] LOOP
    FOR offset_months IN -1..months LOOP
      month := date_trunc('month', moment) + make_interval(months => offset_months);
      part := parent || to_char(month, '_YYYY_MM');
      CONTINUE WHEN to_regclass(part) IS NOT NULL;
      EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = 80)', part, parent);
      EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part,
                     first_uuid(month), first_uuid(month + interval '1 month'));
      made := made + 1;
    END LOOP;
  END LOOP;
  RETURN made;
END
$$;
REVOKE ALL ON FUNCTION make_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions TO finalbell_session, finalbell_scoring;
DO $$ BEGIN PERFORM make_partitions(now(), 3); END $$;
