-- What the acts share. A session's hash has one-letter fields, since there are 100,000 of them in memory:
--   g generation  x exam  p paper version  u student  n attempt  l alias  t started ms  s status (I in progress, S submitted,
--   D scored)  e ends ms  f version of the facts behind the end  v version  c epoch  r restored through  b bytes of answers
--   h latest time seen, ms  z submitted ms  w submit reason (CLICK, BELL)  y retries of the unscored net
--   q the last pause, unless it was resumed: "paused ms,ends ms,end of the session without it"; `e` takes it to run out
--   a:<question>  version (6 bytes) time ms (6) client sequence (4, 0 = none) slot (2) answer
--   d  key digest (8) and body digest (4) of each question's newest save, by slot
--   k  key digest (8), body digest (4), version (6), time ms (6) of the last 64 saves that were replaced
local ANSWER = '>I6I6I4I2'
local ANSWER_HEAD = 18
local REPLACED = '>c8c4I6I6'
local REMEMBERED = 64 * 24

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The time for a session: the clock may be stepped back, a session's time never goes back.
local function session_now(latest)
  return math.max(now_ms(), tonumber(latest or 0))
end

-- When a session ends as of now, and whether its clock stands still (Deadline.as_of in records.py).
local function ends_as_of(ends, pause, now)
  if not pause then
    return ends, false
  end
  local paused_at, pause_ends, unpaused = string.match(pause, '(%d+),(%d+),(%d+)')
  if now >= tonumber(pause_ends) then
    return ends, false
  end
  return math.min(tonumber(unpaused) + now - tonumber(paused_at), ends), true
end

local function session_of(key)
  return string.sub(key, -36)
end

-- Where `digest` starts a row in a string of rows of `width` bytes, or nil; bytes that only look like it are passed over.
local function find_row(rows, digest, width)
  local at = string.find(rows, digest, 1, true)
  while at and (at - 1) % width ~= 0 do
    at = string.find(rows, digest, at + 1, true)
  end
  return at
end
