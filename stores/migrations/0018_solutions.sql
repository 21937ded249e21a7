-- What is right is nobody's to read before the exams that ask it show it: a practice question's key is the same key.

-- Exams that do not show yet, to those who have sat them, what was right. One that never shows it keeps it until it is over.
CREATE VIEW unshown_exam AS
  SELECT id, version
  FROM (
    -- Not NOT EXISTS: a plan that was made while the table was nearly empty would read all running sessions of all exams for it.
    SELECT *, (closed_at IS NOT NULL OR coalesce(closes_at <= now(), false)) AND (
      SELECT true FROM exam_session s WHERE s.exam_id = exam.id AND s.status = 'IN_PROGRESS' LIMIT 1) IS NULL AS ended
    FROM exam
  ) e
  WHERE NOT CASE release_review
    WHEN 'NONE' THEN ended
    ELSE (release_review = 'IMMEDIATELY' OR ended)
      AND (released_at IS NOT NULL OR release_score = 'IMMEDIATELY' OR (release_score = 'AFTER_CLOSE' AND ended))
  END;

-- As before, with key and explanation only where they may be known: `withheld` says where they may not.
CREATE OR REPLACE VIEW practice_question AS
  SELECT b.bank_id, b.id, b.position, b.type, b.stem, b.passage, b.options, b.topic, b.points, b.rubric,
    CASE WHEN NOT w.withheld THEN b.answer END AS answer, CASE WHEN NOT w.withheld THEN b.explanation END AS explanation,
    b.fingerprint, w.withheld
  FROM bank_question b
  CROSS JOIN LATERAL (
    SELECT EXISTS (
      SELECT FROM question q JOIN unshown_exam e ON e.id = q.exam_id AND e.version = q.exam_version
      WHERE question_fingerprint(q.stem, q.passage, q.options) = b.fingerprint) AS withheld
  ) w
  WHERE NOT EXISTS (
    SELECT FROM question q JOIN exam e ON e.id = q.exam_id AND e.version = q.exam_version
    WHERE question_fingerprint(q.stem, q.passage, q.options) = b.fingerprint AND e.opens_at > now());
