-- Lectures: what they are, and where their media lie at the origin. `product_opens` says what they cost.

CREATE TABLE lecture (
  id text COLLATE "C" PRIMARY KEY,
  title text NOT NULL,
  description text NOT NULL DEFAULT '',
  topic text COLLATE "C" NOT NULL DEFAULT '',
  duration_seconds int NOT NULL CHECK (duration_seconds > 0),
  folder text NOT NULL CHECK (folder ~ '^[a-z0-9][a-z0-9-]{0,62}$'),  -- at the origin: what a link opens, whole
  playlist text NOT NULL,                                            -- in the folder
  captions jsonb NOT NULL DEFAULT '[]',                              -- [{"language", "label", "file"}], as they are offered
  created_at timestamptz NOT NULL DEFAULT now(),
  changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX lecture_topic ON lecture (topic, id);

GRANT SELECT ON lecture TO finalbell_content, finalbell_admin;
GRANT INSERT, UPDATE, DELETE ON lecture TO finalbell_admin;
GRANT SELECT ON product_opens TO finalbell_content;
