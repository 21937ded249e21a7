-- A frozen board shows an earlier moment: a standing that changes meanwhile keeps the order key that is shown, which may be none.
-- A process of the version before knows nothing of it, and shows what it changes of those who were not held yet.
ALTER TABLE standing ADD COLUMN held boolean NOT NULL DEFAULT false;
ALTER TABLE standing ADD COLUMN held_key bigint;
CREATE INDEX standing_held ON standing (exam_id, student_id) WHERE held;
CREATE INDEX standing_hidden ON standing (exam_id, held_key NULLS FIRST, order_key, student_id)
  WHERE held AND held_key IS DISTINCT FROM order_key;

-- Frozen by hand, and shown again for good; and from how many students on ranks are approximate.
ALTER TABLE exam ADD COLUMN board_frozen_at timestamptz;
ALTER TABLE exam ADD COLUMN board_revealed_at timestamptz;
ALTER TABLE exam ADD COLUMN board_approximate_from int;

-- When an exam's board freezes; null: never, as far as is known.
CREATE FUNCTION board_freezes_at(e exam) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT least(e.board_frozen_at,
    CASE WHEN e.board_freeze_seconds > 0 THEN e.closes_at - e.board_freeze_seconds * interval '1 second' END)
$$;

-- Whether an exam's board is frozen in this transaction. By hand: as soon as that can be seen, whatever the clock says, since a
-- transaction that began before may place a student after it.
CREATE FUNCTION board_frozen(e exam) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT e.board_revealed_at IS NULL AND (e.board_frozen_at IS NOT NULL OR coalesce(board_freezes_at(e) <= now(), false))
$$;

-- A series is a group of exams with a board over all of them: the sum of what each student's standings show, or of their best.
CREATE TABLE exam_series (
  id text COLLATE "C" PRIMARY KEY,
  title text NOT NULL,
  best_of int CHECK (best_of > 0),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE exam_series_member (
  series_id text COLLATE "C" NOT NULL REFERENCES exam_series ON DELETE CASCADE,
  exam_id text COLLATE "C" NOT NULL REFERENCES exam ON DELETE CASCADE,
  PRIMARY KEY (series_id, exam_id)
);
CREATE INDEX exam_series_member_exam ON exam_series_member (exam_id);

GRANT SELECT ON exam_series, exam_series_member TO finalbell_scoring, finalbell_leaderboard, finalbell_admin;
GRANT INSERT, UPDATE, DELETE ON exam_series, exam_series_member TO finalbell_admin;
-- Revealing is an exam day's lever: it shows what was held, and changes no place.
GRANT UPDATE (held, held_key, version) ON standing TO finalbell_admin;

-- Copies the newest paper and keys of `origin` to `shadow`, and opens it. Keys go from row to row inside PostgreSQL: whoever
-- calls this needs no right to read them, and is shown none. False: no such exam, it is a shadow itself, or the id is taken.
CREATE OR REPLACE FUNCTION create_rehearsal(origin text, shadow text, seconds int) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  kept exam;
  policies jsonb;
BEGIN
  IF shadow !~ '^rehearsal-[0-9a-f]{8,53}$' THEN
    RAISE EXCEPTION 'a shadow is called rehearsal-<hex>, not %', shadow USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('exam/' || origin, 0));  -- an import is seen whole, or not at all
  SELECT * INTO kept FROM exam WHERE id = origin AND shadow_of IS NULL;
  IF NOT FOUND OR EXISTS (SELECT FROM exam WHERE id = shadow) THEN
    RETURN false;
  END IF;
  policies := jsonb_build_object(
    'id', shadow, 'shadow_of', origin, 'title', 'Rehearsal of ' || kept.title,
    'duration_seconds', greatest(kept.duration_seconds, seconds),
    'opens_at', NULL, 'closes_at', NULL, 'closed_at', NULL, 'released_at', NULL, 'created_at', now(),
    'product_id', NULL, 'enrolment', 'OPEN', 'max_attempts', 1000,
    'release_score', 'IMMEDIATELY', 'release_review', 'IMMEDIATELY', 'board_public', false, 'board_freeze_seconds', 0,
    'board_frozen_at', NULL, 'board_revealed_at', NULL);
  INSERT INTO exam SELECT (jsonb_populate_record(kept, policies)).*;
  INSERT INTO exam_paper SELECT (jsonb_populate_record(p, jsonb_build_object('exam_id', shadow))).*
    FROM exam_paper p WHERE p.exam_id = origin AND p.exam_version = kept.version;
  INSERT INTO exam_key SELECT (jsonb_populate_record(k, jsonb_build_object('exam_id', shadow))).*
    FROM exam_key k WHERE (k.exam_id, k.exam_version, k.key_version) = (origin, kept.version, kept.key_version);
  INSERT INTO question SELECT (jsonb_populate_record(q, jsonb_build_object('exam_id', shadow))).*
    FROM question q WHERE q.exam_id = origin AND q.exam_version = kept.version;
  INSERT INTO keys.answer_key SELECT (jsonb_populate_record(k, jsonb_build_object('exam_id', shadow))).*
    FROM keys.answer_key k WHERE (k.exam_id, k.exam_version, k.key_version) = (origin, kept.version, kept.key_version);
  INSERT INTO keys.explanation SELECT (jsonb_populate_record(k, jsonb_build_object('exam_id', shadow))).*
    FROM keys.explanation k WHERE (k.exam_id, k.exam_version, k.key_version) = (origin, kept.version, kept.key_version);
  RETURN true;
END
$$;
