-- Answer saves for wrk: each with its own session, token, key and choice.
--
--   finalbell rehearse EXAM --prepare 10000 --out sessions.jsonl
--   FINALBELL_SESSIONS=sessions.jsonl wrk -t1 -c128 -d30s --latency -s bench/wrk/saves.lua http://127.0.0.1:8080
--
-- wrk is a closed loop: a connection waits for each answer, so that its latencies leave out what a slow server made others
-- wait. For latencies at a rate use bench/load, which counts from when a save was due.
local sessions, count, run = {}, 0, string.format('%x', os.time())

function init()
  math.randomseed(os.time())
  local path = os.getenv('FINALBELL_SESSIONS') or 'sessions.jsonl'
  for line in io.lines(path) do
    local questions = {}
    for id, choices in line:gmatch('{"id": "([^"]+)", "choices": %[(.-)%]}') do
      local picks = {}
      for choice in choices:gmatch('"([^"]+)"') do
        picks[#picks + 1] = choice
      end
      questions[#questions + 1] = {id = id, choices = picks}
    end
    sessions[#sessions + 1] = {
      path = '/api/v1/sessions/' .. line:match('"sessionId": "([^"]+)"') .. '/answers',
      token = 'Bearer ' .. line:match('"token": "([^"]+)"'),
      questions = questions,
    }
  end
end

function request()
  count = count + 1
  local session = sessions[count % #sessions + 1]
  local question = session.questions[math.random(#session.questions)]
  local body = string.format('{"questionId":"%s","choice":"%s"}', question.id, question.choices[math.random(#question.choices)])
  return wrk.format('PUT', session.path, {
    ['Authorization'] = session.token,
    ['Idempotency-Key'] = string.format('%s-%012x', run, count),
    ['Content-Type'] = 'application/json',
  }, body)
end

function done(summary)
  local errors = summary.errors
  print(string.format('not 2xx: %d, timeouts: %d, broken: %d', errors.status, errors.timeout, errors.read + errors.write + errors.connect))
end
