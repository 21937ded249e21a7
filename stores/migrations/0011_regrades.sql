-- A run is for the keys that it was asked with: while one runs, a request with newer keys is another run.
DROP INDEX regrade_running;
CREATE UNIQUE INDEX regrade_running ON regrade (exam_id, dry_run, key_version) WHERE status = 'RUNNING';
