-- An exam: its newest version, and the policies that hold for all its versions.
CREATE TABLE exam (
  id text COLLATE "C" PRIMARY KEY,
  title text NOT NULL,
  version int NOT NULL,
  key_version int NOT NULL,
  paper_sha256 text NOT NULL,
  keys_sha256 text NOT NULL,
  question_count int NOT NULL,
  max_score int NOT NULL,
  has_essay boolean NOT NULL,
  duration_seconds int NOT NULL,
  opens_at timestamptz,
  closes_at timestamptz,
  shuffle_questions boolean NOT NULL,
  shuffle_options boolean NOT NULL,
  max_attempts int NOT NULL,
  product_id text,
  max_pauses int NOT NULL,
  max_pause_seconds int NOT NULL,
  mark_correct int NOT NULL,
  mark_wrong int NOT NULL,
  mark_blank int NOT NULL,
  mark_multiple text NOT NULL,
  tie_break text NOT NULL,
  release_score text NOT NULL,
  release_review text NOT NULL,
  inline_score boolean NOT NULL,
  enrolment text NOT NULL,
  board_public boolean NOT NULL,
  board_freeze_seconds int NOT NULL,
  graders int NOT NULL,
  source jsonb,
  created_at timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz,
  released_at timestamptz
);

-- One row per version of the paper: what a session's order of questions and options depends on, fixed with the version.
CREATE TABLE exam_paper (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam,
  exam_version int NOT NULL,
  shuffle_questions boolean NOT NULL,
  shuffle_options boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (exam_id, exam_version)
);

-- One row per version of the keys: how much answers are worth under it. A score is a pure function of the frozen
-- answers, the paper's version and this row with its keys.
CREATE TABLE exam_key (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam,
  exam_version int NOT NULL,
  key_version int NOT NULL,
  mark_correct int NOT NULL,
  mark_wrong int NOT NULL,
  mark_blank int NOT NULL,
  mark_multiple text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (exam_id, exam_version, key_version)
);

CREATE TABLE question (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam,
  exam_version int NOT NULL,
  id text COLLATE "C" NOT NULL,
  position int NOT NULL,
  type text NOT NULL,
  stem text NOT NULL,
  passage text NOT NULL,
  options jsonb NOT NULL,
  topic text NOT NULL,
  points int NOT NULL,
  rubric jsonb NOT NULL,
  PRIMARY KEY (exam_id, exam_version, id)
);

-- Keys and explanations live in a schema of their own: for every role but scoring's and the importer's, reading
-- there is "permission denied".
CREATE SCHEMA keys;
GRANT USAGE ON SCHEMA keys TO finalbell_scoring, finalbell_admin;

CREATE TABLE keys.answer_key (
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  key_version int NOT NULL,
  question_id text COLLATE "C" NOT NULL,
  answer jsonb NOT NULL,
  PRIMARY KEY (exam_id, exam_version, key_version, question_id)
);

CREATE TABLE keys.explanation (
  exam_id text COLLATE "C" NOT NULL,
  exam_version int NOT NULL,
  key_version int NOT NULL,
  question_id text COLLATE "C" NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (exam_id, exam_version, key_version, question_id)
);

-- Who may start a ROSTER exam, and under which alias.
CREATE TABLE enrolment (
  exam_id text COLLATE "C" NOT NULL REFERENCES exam,
  student_id text COLLATE "C" NOT NULL,
  alias text,
  PRIMARY KEY (exam_id, student_id)
);

-- Who owns which product. Nothing grants before payments come; StartSession checks it already.
CREATE TABLE entitlement (
  student_id text COLLATE "C" NOT NULL,
  product_id text COLLATE "C" NOT NULL,
  granted_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz,
  revoked_at timestamptz,
  PRIMARY KEY (student_id, product_id)
);

GRANT SELECT ON exam TO finalbell_session, finalbell_scoring, finalbell_leaderboard, finalbell_content, finalbell_admin;
GRANT INSERT, UPDATE ON exam TO finalbell_admin;
GRANT SELECT ON exam_paper TO finalbell_session, finalbell_content, finalbell_admin;
GRANT INSERT ON exam_paper TO finalbell_admin;
GRANT SELECT ON exam_key TO finalbell_scoring, finalbell_admin;
GRANT INSERT ON exam_key TO finalbell_admin;
GRANT SELECT ON question TO finalbell_session, finalbell_scoring, finalbell_content, finalbell_admin;
GRANT INSERT ON question TO finalbell_admin;
GRANT SELECT ON keys.answer_key, keys.explanation TO finalbell_scoring;
GRANT SELECT, INSERT ON keys.answer_key, keys.explanation TO finalbell_admin;
GRANT SELECT ON enrolment, entitlement TO finalbell_session;
GRANT SELECT ON entitlement TO finalbell_content;
