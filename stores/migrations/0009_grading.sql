-- What follows a first score: people grade essays, and keys that were wrong are mended.

-- `graders` may disagree by so many points before a third one is asked; blind grading hides whose answer it is.
ALTER TABLE exam
  ADD COLUMN grader_tolerance int NOT NULL DEFAULT 0,
  ADD COLUMN blind_grading boolean NOT NULL DEFAULT true;

-- One answer for one grader. The id says nothing about the session, so that graders do not learn whose answer it is.
-- A claim ends by itself at `lease_until`: whoever claims the task then gets another `claim`, and the old one is stale.
CREATE TABLE grading_task (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  session_id uuid NOT NULL,
  question_id text COLLATE "C" NOT NULL,
  slot int NOT NULL,
  exam_id text COLLATE "C" NOT NULL,
  status text NOT NULL DEFAULT 'OPEN' CHECK (status IN ('OPEN', 'CLAIMED', 'GRADED', 'CANCELLED')),
  grader text COLLATE "C",
  claim uuid,
  lease_until timestamptz,
  points int[],
  comments text[],
  comment text,
  graded_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (session_id, question_id, slot)
);
CREATE INDEX grading_task_waiting ON grading_task (exam_id, created_at, id) WHERE status IN ('OPEN', 'CLAIMED');
-- Nobody grades the same answer twice.
CREATE UNIQUE INDEX grading_task_grader ON grading_task (session_id, question_id, grader) WHERE status IN ('CLAIMED', 'GRADED');
CREATE INDEX grading_task_claims ON grading_task (grader) WHERE status = 'CLAIMED';

-- A run over results that were graded with older keys. A worker has it while its lease lasts; what it writes is guarded by
-- each result's revision, so that two workers do no harm. `report` is what changed, or would change.
CREATE TABLE regrade (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  exam_id text COLLATE "C" NOT NULL REFERENCES exam ON DELETE CASCADE,
  dry_run boolean NOT NULL,
  status text NOT NULL DEFAULT 'RUNNING' CHECK (status IN ('RUNNING', 'DONE', 'FAILED')),
  key_version int NOT NULL,
  results int NOT NULL,
  done int NOT NULL DEFAULT 0,
  report jsonb NOT NULL DEFAULT '{}',
  actor text NOT NULL,
  reason text NOT NULL,
  error text NOT NULL DEFAULT '',
  requested_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz,
  worker uuid,
  lease_until timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX regrade_running ON regrade (exam_id, dry_run) WHERE status = 'RUNNING';

-- Workers score what JetStream did not take in time straight from its row; a claim keeps two of them apart.
ALTER TABLE submission ADD COLUMN claimed_until timestamptz NOT NULL DEFAULT '-infinity';
GRANT UPDATE (claimed_until) ON submission TO finalbell_scoring;

-- The newest keys of each version of a paper: what its results should be graded with.
CREATE VIEW newest_keys AS
  SELECT exam_id, exam_version, max(key_version) AS key_version FROM exam_key GROUP BY exam_id, exam_version;
GRANT SELECT ON newest_keys TO finalbell_scoring, finalbell_admin;

-- A regrade looks for what is behind, late arrivals included.
CREATE INDEX result_keys ON result (exam_id, key_version);
ALTER TABLE result ADD COLUMN changed_at timestamptz;
CREATE INDEX result_changed ON result (changed_at) WHERE changed_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON grading_task TO finalbell_scoring;
GRANT SELECT, INSERT, UPDATE ON regrade TO finalbell_scoring;
GRANT UPDATE (submit_key) ON exam_session TO finalbell_scoring;
GRANT INSERT ON audit_log TO finalbell_scoring;
-- When each answer was saved tells how long it took.
GRANT SELECT (session_id, question_id, answered_at) ON session_answer TO finalbell_scoring;
GRANT SELECT (exam_id, status) ON grading_task TO finalbell_admin;
-- A mended key changes what can be reached.
GRANT SELECT (exam_id, key_version) ON result TO finalbell_admin;

-- Removes these sessions of a shadow with every row of theirs; NULL: all of them, and then the shadow itself with its keys.
-- Gives how many sessions went. Anything but a shadow is refused; a session of another exam is passed over.
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
