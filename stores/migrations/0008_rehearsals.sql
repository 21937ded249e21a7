-- A rehearsal sits a shadow: a copy of an exam that no list shows, opened at once and removed with all that its sessions left.
ALTER TABLE exam ADD COLUMN shadow_of text COLLATE "C";
COMMENT ON COLUMN exam.shadow_of IS 'the exam that this one is a rehearsal of; NULL: an exam like any other';

-- Copies the newest paper and keys of `origin` to `shadow`, and opens it. Keys go from row to row inside PostgreSQL: whoever
-- calls this needs no right to read them, and is shown none. False: no such exam, it is a shadow itself, or the id is taken.
CREATE FUNCTION create_rehearsal(origin text, shadow text, seconds int) RETURNS boolean
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
    'release_score', 'IMMEDIATELY', 'release_review', 'IMMEDIATELY', 'board_public', false, 'board_freeze_seconds', 0);
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

-- Removes these sessions of a shadow with every row of theirs; NULL: all of them, and then the shadow itself with its keys.
-- Gives how many sessions went. Anything but a shadow is refused; a session of another exam is passed over.
CREATE FUNCTION remove_rehearsal(shadow text, sessions uuid[] DEFAULT NULL) RETURNS int
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
  DELETE FROM submission WHERE session_id = ANY (gone);
  DELETE FROM dead_letter WHERE session_id = ANY (gone);
  DELETE FROM session_pause WHERE session_id = ANY (gone);
  DELETE FROM deadline_adjustment WHERE session_id = ANY (gone);
  DELETE FROM exam_session WHERE id = ANY (gone);
  IF sessions IS NULL THEN
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

REVOKE ALL ON FUNCTION create_rehearsal, remove_rehearsal FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_rehearsal, remove_rehearsal TO finalbell_admin;
