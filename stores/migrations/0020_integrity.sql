-- What happens around sessions while they are sat: signals that clients report, what the server sees itself, and their counts.
-- Nothing here is read by a session, a score or a board.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'finalbell_integrity') THEN
    CREATE ROLE finalbell_integrity NOLOGIN;
  END IF;
END
$$;
GRANT USAGE ON SCHEMA public TO finalbell_integrity;
GRANT SELECT ON setting TO finalbell_integrity;

-- Partitioned by the month in the session's UUIDv7, as answers and results are, and dropped by the month when their time is over.
CREATE TABLE integrity_signal (
  session_id uuid NOT NULL,
  id uuid NOT NULL,                        -- made of what was reported: a report that comes twice is kept once
  kind text COLLATE "C" NOT NULL,
  amount bigint NOT NULL DEFAULT 0,        -- milliseconds, characters or displays, by kind
  client_at timestamptz,                   -- by the client's clock
  received_at timestamptz NOT NULL,        -- by the server's
  device_id text COLLATE "C" NOT NULL DEFAULT '',
  details jsonb NOT NULL DEFAULT '{}',     -- texts in it are escaped (servers/integrity/rules.py)
  PRIMARY KEY (session_id, id)
) PARTITION BY RANGE (session_id);

-- One row a session and kind: what thresholds look at. `session_id` is a random one once the student's data are erased.
CREATE TABLE integrity_count (
  session_id uuid NOT NULL,
  kind text COLLATE "C" NOT NULL,
  exam_id text COLLATE "C" NOT NULL,
  count int NOT NULL,
  amount bigint NOT NULL,
  peak bigint NOT NULL,
  first_at timestamptz,
  last_at timestamptz,
  PRIMARY KEY (session_id, kind)
) WITH (fillfactor = 70);
CREATE INDEX integrity_count_exam ON integrity_count (exam_id, kind);

-- From where a session was reported on: one row for each device, address and token, as far as clients report at all.
CREATE TABLE integrity_presence (
  session_id uuid NOT NULL,
  device_id text COLLATE "C" NOT NULL,
  address text COLLATE "C" NOT NULL,       -- as the gateway saw it; empty: not known
  token_digest bytea NOT NULL,
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  PRIMARY KEY (session_id, device_id, address, token_digest)
) WITH (fillfactor = 80);

-- What each process that takes reports says it has published, and what never came here: dropped by the stream, or lost with it.
CREATE TABLE integrity_feed (
  publisher uuid PRIMARY KEY,
  published bigint NOT NULL,
  lost bigint NOT NULL DEFAULT 0,
  seen_at timestamptz NOT NULL DEFAULT now()
);

-- How long a question takes: the natural logarithm of seconds, summed over the answers of finished sessions. Nobody's in particular.
CREATE TABLE integrity_pace (
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  question_id text COLLATE "C" NOT NULL,
  answers bigint NOT NULL,
  total double precision NOT NULL,
  squares double precision NOT NULL,
  PRIMARY KEY (exam_id, exam_version, question_id)
) WITH (fillfactor = 80);

-- Which finished sessions have been looked at; not judged: too few others had answered by then.
CREATE TABLE integrity_seen (
  session_id uuid PRIMARY KEY,
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  judged boolean NOT NULL
);
CREATE INDEX integrity_seen_waiting ON integrity_seen (session_id) WHERE NOT judged;

-- Until when nothing more of a session is kept: what was under way when its student's data were erased.
CREATE TABLE integrity_erased (
  session_id uuid PRIMARY KEY,
  erased_at timestamptz NOT NULL
);

-- From which number on an exam shows an indicator, where it is not the default; null: never.
CREATE TABLE integrity_threshold (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam ON DELETE CASCADE,
  name text COLLATE "C" NOT NULL,
  threshold int CHECK (threshold > 0),
  set_by text NOT NULL,
  set_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (exam_id, name)
);

-- Makes the monthly partitions of signals from the month before `moment` through `months` after it, and says how many were new.
CREATE FUNCTION make_signal_partitions(moment timestamptz, months int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' AS $$
DECLARE
  month timestamptz;
  part text;
  made int := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(7061727470);
  FOR offset_months IN -1..months LOOP
    month := date_trunc('month', moment) + make_interval(months => offset_months);
    part := 'integrity_signal' || to_char(month, '_YYYY_MM');
    CONTINUE WHEN to_regclass(part) IS NOT NULL;
    EXECUTE format('CREATE TABLE %I (LIKE integrity_signal INCLUDING ALL)', part);
    EXECUTE format('ALTER TABLE integrity_signal ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
                   first_uuid(month), first_uuid(month + interval '1 month'));
    made := made + 1;
  END LOOP;
  RETURN made;
END
$$;

-- Drops the partitions of signals whose whole month is before `moment`, and says how many. It waits for nobody: who is in the way is
-- there for seconds, and it comes again.
CREATE FUNCTION drop_signal_partitions(moment timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms' AS $$
DECLARE
  part text;
  gone int := 0;
BEGIN
  IF moment > now() - interval '1 day' THEN
    RAISE EXCEPTION 'signals are kept for a day at least' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  FOR part IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'integrity_signal'::regclass
      AND to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month' <= moment AT TIME ZONE 'UTC'
    ORDER BY c.relname
  LOOP
    EXECUTE format('DROP TABLE %I', part);
    gone := gone + 1;
  END LOOP;
  RETURN gone;
END
$$;
REVOKE ALL ON FUNCTION make_signal_partitions, drop_signal_partitions FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_signal_partitions, drop_signal_partitions TO finalbell_integrity;
DO $$ BEGIN PERFORM make_signal_partitions(now(), 3); END $$;

GRANT SELECT (id, student_id, exam_id, exam_version, alias, status, started_at, submitted_at) ON exam_session TO finalbell_integrity;
GRANT SELECT (session_id, question_id, answered_at) ON session_answer TO finalbell_integrity;
GRANT SELECT (id) ON exam TO finalbell_integrity;
GRANT SELECT, INSERT, DELETE ON integrity_signal TO finalbell_integrity;
GRANT SELECT, INSERT, UPDATE, DELETE ON integrity_count, integrity_presence, integrity_feed, integrity_seen, integrity_erased,
  integrity_threshold TO finalbell_integrity;
GRANT SELECT, INSERT, UPDATE ON integrity_pace TO finalbell_integrity;
GRANT INSERT ON audit_log TO finalbell_integrity;

-- As before, and with what happened around the shadow's sessions.
CREATE OR REPLACE FUNCTION remove_rehearsal(shadow text, sessions uuid[] DEFAULT NULL) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  gone uuid[];
BEGIN
  IF NOT EXISTS (SELECT FROM exam WHERE id = shadow AND shadow_of IS NOT NULL) THEN
    RAISE EXCEPTION '% is no rehearsal', shadow USING ERRCODE = 'insufficient_privilege';
  END IF;
  gone := ARRAY(SELECT id FROM exam_session WHERE exam_id = shadow AND (sessions IS NULL OR id = ANY (sessions))
                ORDER BY id FOR UPDATE);
  DELETE FROM session_answer WHERE session_id = ANY (gone);
  DELETE FROM result WHERE session_id = ANY (gone);
  DELETE FROM result_history WHERE session_id = ANY (gone);
  DELETE FROM grading_task WHERE session_id = ANY (gone);
  DELETE FROM submission WHERE session_id = ANY (gone);
  DELETE FROM dead_letter WHERE session_id = ANY (gone);
  DELETE FROM session_pause WHERE session_id = ANY (gone);
  DELETE FROM deadline_adjustment WHERE session_id = ANY (gone);
  DELETE FROM integrity_signal WHERE session_id = ANY (gone);
  DELETE FROM integrity_count WHERE session_id = ANY (gone);
  DELETE FROM integrity_presence WHERE session_id = ANY (gone);
  DELETE FROM integrity_seen WHERE session_id = ANY (gone);
  DELETE FROM integrity_erased WHERE session_id = ANY (gone);
  DELETE FROM exam_session WHERE id = ANY (gone);
  IF sessions IS NULL THEN
    DELETE FROM integrity_count WHERE exam_id = shadow;
    DELETE FROM integrity_pace WHERE exam_id = shadow;
    DELETE FROM standing WHERE exam_id = shadow;
    DELETE FROM dead_letter WHERE subject LIKE 'submits.' || shadow || '.%';
    DELETE FROM accommodation WHERE exam_id = shadow;
    DELETE FROM enrolment WHERE exam_id = shadow;
    DELETE FROM keys.explanation WHERE exam_id = shadow;
    DELETE FROM keys.answer_key WHERE exam_id = shadow;
    DELETE FROM question WHERE exam_id = shadow;
    DELETE FROM exam_key WHERE exam_id = shadow;
    DELETE FROM exam_paper WHERE exam_id = shadow;
    DELETE FROM exam WHERE id = shadow;
  END IF;
  RETURN cardinality(gone);
END
$$;
