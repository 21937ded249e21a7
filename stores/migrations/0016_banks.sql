-- Banks of practice questions, sealed papers, and how content hears of what students own.

-- What makes two questions the same for whoever reads them: their texts, whatever their case, spacing and order of options.
-- Expensive, so that the planner uses what is kept of it.
CREATE FUNCTION question_fingerprint(stem text, passage text, options jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE COST 10000 AS $$
  SELECT sha256(convert_to(string_agg(normal, chr(31) ORDER BY place, normal COLLATE "C"), 'UTF8'))
  FROM (
    SELECT place, lower(trim(regexp_replace(part, '\s+', ' ', 'g'))) AS normal
    FROM (
      VALUES (1, stem), (2, passage)
      UNION ALL SELECT 3, o->>'text' FROM jsonb_array_elements(options) AS o
    ) AS parts (place, part)
  ) AS normals
$$;
CREATE INDEX question_fingerprint ON question (question_fingerprint(stem, passage, options));

CREATE TABLE bank (
  id text COLLATE "C" PRIMARY KEY,
  title text NOT NULL,
  version int NOT NULL,
  sha256 text NOT NULL,
  question_count int NOT NULL,
  topics jsonb NOT NULL,  -- how many questions it has of each
  source jsonb,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- The keys of practice questions stand beside them: whoever may read the one may read the other.
CREATE TABLE bank_question (
  bank_id text COLLATE "C" NOT NULL REFERENCES bank ON DELETE CASCADE,
  id text COLLATE "C" NOT NULL,
  position int NOT NULL,
  type text NOT NULL,
  stem text NOT NULL,
  passage text NOT NULL,
  options jsonb NOT NULL,
  topic text COLLATE "C" NOT NULL,
  points int NOT NULL,
  rubric jsonb NOT NULL,
  answer jsonb NOT NULL,
  explanation text NOT NULL,
  fingerprint bytea GENERATED ALWAYS AS (question_fingerprint(stem, passage, options)) STORED,
  PRIMARY KEY (bank_id, id)
);
CREATE UNIQUE INDEX bank_question_place ON bank_question (bank_id, position);
CREATE INDEX bank_question_topic ON bank_question (bank_id, topic, position);

-- Which of them an exam asks that has not opened: they are nobody's to read until it has. A shadow for a rehearsal is open, and
-- the exam that it is a shadow of is not.
CREATE VIEW unopened_question AS
  SELECT b.bank_id, b.id, e.id AS exam_id, e.opens_at
  FROM bank_question b
  JOIN question q ON question_fingerprint(q.stem, q.passage, q.options) = b.fingerprint
  JOIN exam e ON e.id = q.exam_id AND e.version = q.exam_version
  WHERE e.opens_at > now();

-- All that content can read of them: no mistake of its own opens what has not opened.
CREATE VIEW practice_question AS
  SELECT b.* FROM bank_question b WHERE NOT EXISTS (
    SELECT FROM question q JOIN exam e ON e.id = q.exam_id AND e.version = q.exam_version
    WHERE question_fingerprint(q.stem, q.passage, q.options) = b.fingerprint AND e.opens_at > now());

GRANT SELECT ON bank TO finalbell_content, finalbell_admin;
GRANT INSERT, UPDATE, DELETE ON bank TO finalbell_admin;
GRANT SELECT, INSERT, DELETE ON bank_question TO finalbell_admin;
GRANT SELECT ON unopened_question TO finalbell_admin;
GRANT SELECT ON practice_question TO finalbell_content;
GRANT SELECT ON product_opens TO finalbell_content, finalbell_admin;

-- The explanations of a paper, '' where a question has none; none at all before the exam's release of reviews shows them. Whose
-- result they are shown with is the caller's to check. Key versions never change, so what was read once stays right.
CREATE FUNCTION released_explanations(of_exam text, of_version int, of_keys int) RETURNS TABLE (question_id text, body text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT q.id, coalesce(x.body, '')
  FROM (
    SELECT *, (closed_at IS NOT NULL OR coalesce(closes_at <= now(), false)) AND NOT EXISTS (
      SELECT FROM exam_session s WHERE s.exam_id = exam.id AND s.status = 'IN_PROGRESS') AS ended
    FROM exam WHERE id = of_exam
  ) e
  JOIN question q ON q.exam_id = e.id AND q.exam_version = of_version
  LEFT JOIN keys.explanation x
    ON (x.exam_id, x.exam_version, x.key_version, x.question_id) = (e.id, of_version, of_keys, q.id)
  WHERE coalesce(e.opens_at <= now(), true)
    AND (e.release_review = 'IMMEDIATELY' OR (e.release_review = 'AFTER_CLOSE' AND e.ended))
    AND (e.released_at IS NOT NULL OR e.release_score = 'IMMEDIATELY' OR (e.release_score = 'AFTER_CLOSE' AND e.ended))
$$;
REVOKE ALL ON FUNCTION released_explanations FROM PUBLIC;
GRANT EXECUTE ON FUNCTION released_explanations TO finalbell_content;
GRANT SELECT (session_id, exam_id, exam_version, student_id, key_version) ON result TO finalbell_content;

-- A paper that anybody may have, since nobody can read it: sealed once, with a key of its own, by whoever imports it.
CREATE TABLE sealed_paper (
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  key_id text NOT NULL UNIQUE,
  body bytea NOT NULL,
  PRIMARY KEY (exam_id, exam_version),
  FOREIGN KEY (exam_id, exam_version) REFERENCES exam_paper ON DELETE CASCADE
);
ALTER TABLE sealed_paper ALTER COLUMN body SET STORAGE EXTERNAL;  -- it is compressed, and does not look it

CREATE TABLE keys.sealed_paper_key (
  key_id text PRIMARY KEY REFERENCES sealed_paper (key_id) ON DELETE CASCADE,
  key bytea NOT NULL CHECK (length(key) = 32)
);

-- A sealed paper's key, for those who have started; no row before the exam opens, whoever asks.
CREATE FUNCTION sealed_paper_key(of_exam text, of_version int) RETURNS TABLE (key_id text, key bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.key_id, k.key
  FROM exam e JOIN sealed_paper p ON p.exam_id = e.id JOIN keys.sealed_paper_key k ON k.key_id = p.key_id
  WHERE e.id = of_exam AND p.exam_version = of_version AND coalesce(e.opens_at <= now(), true)
$$;
REVOKE ALL ON FUNCTION sealed_paper_key FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sealed_paper_key TO finalbell_session;

GRANT SELECT ON sealed_paper TO finalbell_content;
GRANT SELECT (exam_id, exam_version, key_id), INSERT ON sealed_paper TO finalbell_admin;
GRANT INSERT ON keys.sealed_paper_key TO finalbell_admin;

-- Whoever keeps what a student owns hears at once when that changes, whoever changed it (stores/entitlements.py).
CREATE FUNCTION tell_entitlement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('entitlements', coalesce(NEW.student_id, OLD.student_id));
  RETURN NULL;
END
$$;
CREATE TRIGGER entitlement_told AFTER INSERT OR UPDATE OR DELETE ON entitlement FOR EACH ROW EXECUTE FUNCTION tell_entitlement();
