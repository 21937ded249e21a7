-- One role per service. The supervisor (or the operator) gives them passwords; what each may do is granted beside each table.
DO $$
DECLARE
  service text;
BEGIN
  FOREACH service IN ARRAY ARRAY['session', 'scoring', 'leaderboard', 'content', 'admin'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'finalbell_' || service) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN', 'finalbell_' || service);
    END IF;
  END LOOP;
END
$$;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO finalbell_session, finalbell_scoring, finalbell_leaderboard, finalbell_content, finalbell_admin;

-- Facts about this installation that every process must agree on.
CREATE TABLE setting (
  name text PRIMARY KEY,
  value text NOT NULL
);
INSERT INTO setting (name, value) VALUES ('shards', '64');
GRANT SELECT ON setting TO finalbell_session, finalbell_scoring, finalbell_leaderboard, finalbell_content, finalbell_admin;

CREATE TABLE audit_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL,
  action text NOT NULL,
  subject text NOT NULL,
  details jsonb NOT NULL DEFAULT '{}'
);
GRANT INSERT, SELECT ON audit_log TO finalbell_admin;
