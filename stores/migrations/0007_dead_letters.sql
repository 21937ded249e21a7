-- A dead letter waits until its session has a result, or until an operator has replayed or discarded it.
ALTER TABLE dead_letter ADD COLUMN discarded boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN dead_letter.replayed_at IS 'when an operator replayed it, or discarded it';
CREATE INDEX dead_letter_session ON dead_letter (session_id);

-- The nets bury what they have published too often; operators replay by giving the event back to the nets.
GRANT SELECT, INSERT ON dead_letter TO finalbell_session;
GRANT UPDATE (error) ON dead_letter TO finalbell_session;
GRANT SELECT ON dead_letter TO finalbell_admin;
GRANT UPDATE (replayed_at, discarded) ON dead_letter TO finalbell_admin;
GRANT INSERT ON submission TO finalbell_admin;
GRANT SELECT (session_id) ON submission TO finalbell_admin;
