-- The newest item statistics of an exam, as staff read them: one row, written anew by each computation. It goes with its exam, so
-- that a rehearsal leaves nothing behind.
CREATE TABLE exam_statistics (
  exam_id text COLLATE "C" PRIMARY KEY REFERENCES exam ON DELETE CASCADE,
  exam_version int NOT NULL,
  results int NOT NULL,
  body jsonb NOT NULL,
  computed_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE ON exam_statistics TO finalbell_scoring;
