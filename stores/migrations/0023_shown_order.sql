-- In which order a session shows questions follows from its id, where a paper is shuffled: who ran out of time is seen by that.
GRANT SELECT (exam_id, exam_version, shuffle_questions, shuffle_options) ON exam_paper TO finalbell_integrity;
