-- Why a session ends when it ends: every term of the sum is a row, committed before anybody is told of it.

-- Extra time of a student, for one exam or ('' as exam) for all of theirs; the one for an exam stands in place of the other.
CREATE TABLE accommodation (
  student_id text COLLATE "C" NOT NULL,
  exam_id text COLLATE "C" NOT NULL DEFAULT '',
  extra_seconds int,
  factor numeric,
  set_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (student_id, exam_id),
  CHECK (num_nonnulls(extra_seconds, factor) = 1)
);

-- A stop of a session's clock. It ends by itself at `ends_by`, when its budget is used up; only the last one can be open.
CREATE TABLE session_pause (
  session_id uuid NOT NULL REFERENCES exam_session,
  paused_at timestamptz NOT NULL,
  ends_by timestamptz NOT NULL CHECK (ends_by > paused_at),
  resumed_at timestamptz CHECK (resumed_at >= paused_at),
  PRIMARY KEY (session_id, paused_at)
);

-- Time that staff gave to a session, or took; the key makes a repeat harmless.
CREATE TABLE deadline_adjustment (
  session_id uuid NOT NULL REFERENCES exam_session,
  adjust_key uuid NOT NULL,
  seconds int NOT NULL,
  reason text NOT NULL,
  actor text NOT NULL,
  adjusted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (session_id, adjust_key)
);

-- `deadline_version` rises in the transaction of any of these facts; `deadline_applied` follows when `ends_at` and the live
-- session have been brought up to it. Between the two a sweep finds the session and finishes.
ALTER TABLE exam_session
  ADD COLUMN pause_ends_at timestamptz,
  ADD COLUMN deadline_version int NOT NULL DEFAULT 1,
  ADD COLUMN deadline_applied int NOT NULL DEFAULT 1;
CREATE INDEX exam_session_unsettled ON exam_session (id) WHERE deadline_applied < deadline_version;

GRANT SELECT ON accommodation, session_pause, deadline_adjustment TO finalbell_session, finalbell_admin;
GRANT INSERT, UPDATE ON accommodation TO finalbell_admin;
GRANT INSERT ON deadline_adjustment TO finalbell_admin;
GRANT INSERT ON session_pause TO finalbell_session;
GRANT UPDATE (resumed_at) ON session_pause TO finalbell_session;
GRANT SELECT ON session_pause TO finalbell_scoring;
GRANT UPDATE (ends_at, paused_at, pause_ends_at, deadline_version, deadline_applied) ON exam_session TO finalbell_admin;

-- A restore has to find a submit that waits for an operator.
GRANT SELECT (event) ON dead_letter TO finalbell_session;
