-- Whose answers agree too well, and what people make of it. Nothing here is read by a session, a score or a board.

-- One row for each run over an exam, with what was asked for and what came of it; `figures` is JSON that its writer alone understands.
CREATE TABLE integrity_analysis (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam ON DELETE CASCADE,
  version int NOT NULL,
  state text NOT NULL DEFAULT 'RUNNING' CHECK (state IN ('RUNNING', 'DONE', 'FAILED')),
  options jsonb NOT NULL,
  figures jsonb,
  failure text NOT NULL DEFAULT '',
  requested_by text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT now(),
  alive_at timestamptz NOT NULL DEFAULT now(),  -- a run that nobody has heard of for a minute has died
  finished_at timestamptz,
  PRIMARY KEY (exam_id, version)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX integrity_analysis_running ON integrity_analysis (exam_id) WHERE state = 'RUNNING';

-- The strongest pairs of a run, and all that are flagged: one row for each index. `place` is by strength.
CREATE TABLE integrity_pair (
  exam_id text COLLATE "C" NOT NULL,
  version int NOT NULL,
  place int NOT NULL,
  index text COLLATE "C" NOT NULL,
  session_a uuid NOT NULL,
  session_b uuid NOT NULL,
  student_a text COLLATE "C" NOT NULL,
  student_b text COLLATE "C" NOT NULL,
  source text COLLATE "C",                      -- one of the two, where the index says
  value double precision NOT NULL,
  p double precision NOT NULL,
  q double precision NOT NULL,
  flagged boolean NOT NULL,
  matches int NOT NULL,
  expected double precision NOT NULL,
  compared int NOT NULL,
  shared_wrong int NOT NULL,
  shared_blank int NOT NULL,
  groups text[] NOT NULL,
  PRIMARY KEY (exam_id, version, place),
  FOREIGN KEY (exam_id, version) REFERENCES integrity_analysis ON DELETE CASCADE
);

-- What people look into: one case for the same sessions. `evidence` is what was known when it was opened, and never changes.
CREATE TABLE integrity_case (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  exam_id text COLLATE "C" NOT NULL REFERENCES exam ON DELETE CASCADE,  -- only a shadow's rows are ever deleted
  sessions uuid[] NOT NULL,
  state text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'REVIEWED', 'DISMISSED', 'CONFIRMED', 'APPEALED')),
  revision int NOT NULL DEFAULT 1,
  opened_by text NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT now(),
  moved_at timestamptz NOT NULL DEFAULT now(),
  evidence jsonb NOT NULL,
  UNIQUE (exam_id, sessions)
);

-- Whom it is about, and what was kept of them one by one: that alone goes when their data are erased.
CREATE TABLE integrity_case_student (
  case_id uuid NOT NULL REFERENCES integrity_case ON DELETE CASCADE,
  place int NOT NULL,
  session_id uuid NOT NULL,
  student_id text COLLATE "C" NOT NULL,
  seen jsonb,
  erased_at timestamptz,
  PRIMARY KEY (case_id, place)
);
CREATE INDEX integrity_case_student_of ON integrity_case_student (student_id);

-- Every step of a case, none of which is ever changed.
CREATE TABLE integrity_case_step (
  case_id uuid NOT NULL REFERENCES integrity_case ON DELETE CASCADE,
  revision int NOT NULL,
  from_state text,
  to_state text NOT NULL,
  actor text NOT NULL,
  note text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (case_id, revision)
);

-- What an analysis reads. No key is among it: which answers are right is seen from what they earned.
GRANT SELECT (title, version, closes_at, closed_at, shadow_of) ON exam TO finalbell_integrity;
GRANT SELECT (exam_id, exam_version, key_version, mark_correct) ON exam_key TO finalbell_integrity;
GRANT SELECT ON question TO finalbell_integrity;
GRANT SELECT (cohorts, attempt) ON exam_session TO finalbell_integrity;
GRANT SELECT (session_id, exam_id, exam_version, student_id, score, max_score, key_version, answers, points) ON result
  TO finalbell_integrity;
GRANT SELECT, INSERT, UPDATE ON integrity_analysis TO finalbell_integrity;
GRANT SELECT, INSERT ON integrity_pair TO finalbell_integrity;
GRANT SELECT, INSERT ON integrity_case, integrity_case_student, integrity_case_step TO finalbell_integrity;
GRANT UPDATE (state, revision, moved_at) ON integrity_case TO finalbell_integrity;
GRANT UPDATE (seen, erased_at) ON integrity_case_student TO finalbell_integrity;
