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

-- Boards. The hash lbof:{board} has, beside a field for each student ("version|order key or nothing|cohorts|alias"):
--   ! building or ready    !token of this build    !points how many order keys share the same points
--   !width how many order keys share a band of the counts, 0: bands lie between bounds
--   !students with how many it was built
--   !kept how many of the best a zset keeps; only where the board ranks approximately    !c:<cohort> each cohort with a board
-- A hash lbhist:{board}… counts students by band, and has:
--   ! the build's token    !changes how often the board has changed    !floor the best order key that was not kept
-- A board is complete while its zset has the member `!`, its counts have the token, and the board is ready.

local function exact(number)
  return string.format('%.0f', tonumber(number))
end

local function entry_of(entry)
  if not entry then
    return -1, '', ''
  end
  local version, key, cohorts = string.match(entry, '^(%d+)|([^|]*)|([^|]*)|')
  return tonumber(version), key, cohorts
end

local function alias_of(entry)
  return entry and string.match(entry, '^[^|]*|[^|]*|[^|]*|(.*)$') or ''
end

-- The band that an order key is counted in, named by the lowest order key of it: all that are the same points, or what lies
-- between two bounds.
local function band_of(bounds, key, width)
  if width > 0 then
    return exact(math.floor(tonumber(key) / width) * width)
  end
  return redis.call('ZREVRANGEBYSCORE', bounds, key, '-inf', 'LIMIT', 0, 1)[1]
end

local function uncount(counts, band)
  if redis.call('HINCRBY', counts, band, -1) <= 0 then
    redis.call('HDEL', counts, band)
  end
end

-- Whether a board can be read: "ready", "empty" for a cohort's that nobody on the board is in, or nil.
local function state_of(of, zset, counts)
  local built = redis.call('HMGET', of, '!', '!token')
  if built[1] ~= 'ready' then
    return nil
  end
  if redis.call('ZSCORE', zset, '!') and redis.call('HGET', counts, '!') == built[2] then
    return 'ready'
  end
  local cohort = string.match(zset, ':c:(.*)$')
  return cohort and redis.call('HEXISTS', of, '!c:' .. cohort) == 0 and 'empty' or nil
end

-- The kind of a board: 1 where all in a band of its counts share a rank, and 2 more where it ranks approximately.
local function kind_of(of)
  local built = redis.call('HMGET', of, '!width', '!kept')
  return (built[1] == '1' and 1 or 0) + (built[2] and 2 or 0)
end

-- How many students a board has with fewer points than an order key's, with as many, and in all.
local function behind(zset, key, width)
  local lowest = math.floor(tonumber(key) / width) * width
  return {
    redis.call('ZCOUNT', zset, '-inf', '(' .. exact(lowest)) - 1,
    redis.call('ZCOUNT', zset, exact(lowest), exact(lowest + width - 1)),
    redis.call('ZCARD', zset) - 1,
  }
end

-- Rows of a board from one index to another, some thousands at most, best first; a row is {rank, student, order key, alias}.
local function rows_of(of, zset, first, last)
  local found, students = {}, {}
  local range = redis.call('ZREVRANGE', zset, first, last, 'WITHSCORES')
  for i = 1, #range, 2 do
    students[#students + 1] = range[i]
  end
  -- All at once: a call for each is most of what a page costs, and Redis does nothing else meanwhile.
  local entries = #students > 0 and redis.call('HMGET', of, unpack(students)) or {}
  local rank, key
  for i = 1, #range, 2 do
    if range[i] ~= '!' then
      if i == 1 then
        rank = redis.call('ZCOUNT', zset, '(' .. range[2], '+inf') + 1
      elseif range[i + 1] ~= key then
        rank = first + (i - 1) / 2 + 1
      end
      key = range[i + 1]
      found[#found + 1] = {rank, range[i], key, alias_of(entries[(i + 1) / 2])}
    end
  end
  return found
end

-- A cursor is a row's order key, how many rows with the same key come before it, and a digest of its student that says nothing
-- to anybody who does not know the build's token.
local SEARCHED = 200

local function digest_of(token, student)
  return string.sub(redis.sha1hex(token .. student), 1, 16)
end

local function cursor_of(token, zset, index, row)
  return {row[3], index - redis.call('ZCOUNT', zset, '(' .. row[3], '+inf'), digest_of(token, row[2])}
end

-- The index of a cursor's row, and whether its student is still there: others who entered or left among those with the same key
-- have moved it. Where the student has gone: the index of the row in that place.
local function index_of(token, zset, key, offset, digest)
  local low = redis.call('ZCOUNT', zset, '(' .. key, '+inf')
  local high = low + redis.call('ZCOUNT', zset, key, key)
  local at = math.min(low + offset, high)
  local from = math.max(low, at - SEARCHED)
  local near = redis.call('ZREVRANGE', zset, from, math.min(high, at + SEARCHED + 1) - 1)
  local here = at - from + 1
  for step = 0, math.max(here, #near) do
    for _, index in ipairs({here - step, here + step}) do
      if near[index] and digest_of(token, near[index]) == digest then
        return from + index - 1, true
      end
    end
  end
  return at, false
end

-- How many a board counts, and by band: {band, count, …} in no order.
local function counts_of(counts)
  local total, found, all = 0, {}, redis.call('HGETALL', counts)
  for at = 1, #all, 2 do
    if string.sub(all[at], 1, 1) ~= '!' then
      found[#found + 1] = all[at]
      found[#found + 1] = all[at + 1]
      total = total + tonumber(all[at + 1])
    end
  end
  return total, found
end
