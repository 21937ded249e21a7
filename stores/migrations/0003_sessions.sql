-- One row a session; not partitioned, since its unique constraints could not span partitions.
CREATE TABLE exam_session (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  student_id text COLLATE "C" NOT NULL,
  exam_id text COLLATE "C" NOT NULL REFERENCES exam,
  exam_version int NOT NULL,
  cohorts text[] NOT NULL,
  attempt int NOT NULL,
  start_key uuid,
  alias text NOT NULL,
  started_at timestamptz NOT NULL,
  ends_at timestamptz NOT NULL,
  paused_at timestamptz,
  status text NOT NULL DEFAULT 'IN_PROGRESS' CHECK (status IN ('IN_PROGRESS', 'SUBMITTED', 'SCORED')),
  submit_key uuid,
  submitted_at timestamptz,
  submit_reason text,
  answers_sha256 bytea,
  epoch int NOT NULL DEFAULT 0,
  UNIQUE (student_id, exam_id, attempt),
  UNIQUE (student_id, exam_id, start_key)
) WITH (fillfactor = 80);
CREATE INDEX exam_session_exam ON exam_session (exam_id, status);
CREATE INDEX exam_session_student ON exam_session (student_id, id DESC);
CREATE INDEX exam_session_unscored ON exam_session (ends_at) WHERE status <> 'SCORED';

-- The newest saved answer per question, written behind Redis. Partitioned by the month in the UUIDv7 itself.
CREATE TABLE session_answer (
  session_id uuid NOT NULL,
  question_id text COLLATE "C" NOT NULL,
  answer text NOT NULL,
  version int NOT NULL,
  answered_at timestamptz NOT NULL,
  key_digest bytea NOT NULL,
  body_digest bytea NOT NULL,
  client_seq bigint,
  PRIMARY KEY (session_id, question_id)
) PARTITION BY RANGE (session_id);

-- The durable copy of a submit while JetStream is away: the whole event.
CREATE TABLE submission (
  session_id uuid PRIMARY KEY,
  subject text NOT NULL,
  event bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Each Redis (or each life of one) that ever held sessions has its own number.
CREATE SEQUENCE generation;

GRANT SELECT, INSERT, UPDATE ON exam_session TO finalbell_session;
GRANT SELECT ON exam_session TO finalbell_scoring, finalbell_content, finalbell_admin;
GRANT UPDATE (status, submitted_at, submit_reason, answers_sha256) ON exam_session TO finalbell_scoring;
GRANT SELECT, INSERT, UPDATE ON session_answer TO finalbell_session;
GRANT SELECT ON session_answer TO finalbell_admin;
GRANT SELECT, INSERT ON submission TO finalbell_session;
GRANT SELECT, DELETE ON submission TO finalbell_session, finalbell_scoring;
GRANT USAGE ON SEQUENCE generation TO finalbell_session;
GRANT SELECT (exam_id, status) ON exam_session TO finalbell_leaderboard;
