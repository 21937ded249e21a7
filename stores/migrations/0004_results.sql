-- What a session was worth: at most one row, changed only with a revision on record.
CREATE TABLE result (
  session_id uuid NOT NULL,
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  student_id text COLLATE "C" NOT NULL,
  score int NOT NULL,
  max_score int NOT NULL,
  status text NOT NULL CHECK (status IN ('SCORED', 'PARTIAL')),
  revision int NOT NULL DEFAULT 1,
  key_version int NOT NULL,
  answers text NOT NULL,
  answers_sha256 bytea NOT NULL,
  points int[] NOT NULL,
  scored_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (session_id)
) PARTITION BY RANGE (session_id);
CREATE INDEX result_student ON result (exam_id, student_id);
CREATE INDEX result_score ON result (exam_id, score DESC, session_id);

-- What a grade or a regrade replaced, and why.
CREATE TABLE result_history (
  session_id uuid NOT NULL,
  revision int NOT NULL,
  score int NOT NULL,
  status text NOT NULL,
  key_version int NOT NULL,
  points int[] NOT NULL,
  replaced_at timestamptz NOT NULL DEFAULT now(),
  reason text NOT NULL,
  PRIMARY KEY (session_id, revision)
);

-- A student's place-giving result, recomputed in the transaction of any change to their results. Without a scored
-- result `score` is NULL: no rank. `order_key` is points and tie-break in one integer of at most 53 bits: the same
-- number is the board's score in Redis, so that SQL and Redis order by one rule.
CREATE TABLE standing (
  exam_id text COLLATE "C" NOT NULL,
  student_id text COLLATE "C" NOT NULL,
  alias text NOT NULL DEFAULT '',
  cohorts text[] NOT NULL DEFAULT '{}',
  score int,
  tiebreak bigint,
  order_key bigint,
  session_id uuid,
  version int NOT NULL DEFAULT 0,
  PRIMARY KEY (exam_id, student_id)
) WITH (fillfactor = 80);
CREATE INDEX standing_order ON standing (exam_id, order_key DESC, student_id DESC);

-- A submit that cannot be scored, kept until an operator has looked at it.
CREATE TABLE dead_letter (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  session_id uuid,
  subject text NOT NULL,
  event bytea NOT NULL,
  error text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  replayed_at timestamptz
);
CREATE UNIQUE INDEX dead_letter_waiting ON dead_letter (subject) WHERE replayed_at IS NULL;

GRANT SELECT, INSERT, UPDATE ON result, standing TO finalbell_scoring;
GRANT INSERT ON result_history TO finalbell_scoring;
GRANT SELECT ON result_history TO finalbell_scoring, finalbell_admin;
GRANT SELECT, INSERT, UPDATE ON dead_letter TO finalbell_scoring;
GRANT SELECT (session_id, replayed_at) ON dead_letter TO finalbell_session;
GRANT SELECT ON result TO finalbell_session, finalbell_admin;
GRANT SELECT ON standing TO finalbell_leaderboard, finalbell_admin;
