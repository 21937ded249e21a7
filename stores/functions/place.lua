-- Put students where their standings say, or take them off, each only if the standing is newer than what the board has.
--
-- FLAGS allow-oom
-- KEYS  1 lbof:{board}  hash    2 lbband:{board}  zset    3… pairs of lb:{board}… zset and lbhist:{board}… hash: of the whole
--       board first, then of cohorts: of each that one of the students is in now
-- ARGV  five for each student: student, standing version, order key or "" for no place, alias, cohorts joined by commas
-- Gives {complete, cohorts…}: 0 when the board has to be built again, or is just being; cohorts that students were in before whose
-- keys were not given: these students have not been placed.
local built = redis.call('HMGET', keys[1], '!', '!token', '!width', '!kept')
if not built[1] then
  return {0}
end
local ready, token, width, kept = built[1] == 'ready', built[2], tonumber(built[3]), tonumber(built[4])
local complete, boards, missing = 1, {}, {}
if width == 0 and redis.call('EXISTS', keys[2]) == 0 then
  return {0} -- nobody can be counted without the bounds
end

for at = 3, #keys, 2 do
  local board, cohort = {zset = keys[at], hist = keys[at + 1]}, string.match(keys[at], ':c:(.*)$') or ''
  boards[cohort] = board
  if cohort ~= '' and redis.call('HSETNX', keys[1], '!c:' .. cohort, '') == 1 then
    -- Nobody on the board was in it before: it begins empty and complete, whatever an earlier build has left there.
    redis.call('UNLINK', board.zset, board.hist)
    redis.call('ZADD', board.zset, '-inf', '!')
    redis.call('HSET', board.hist, '!', token, '!changes', now_ms())
  elseif not redis.call('ZSCORE', board.zset, '!') or redis.call('HGET', board.hist, '!') ~= token then
    complete = 0
  end
end

local function leave(board, student, key)
  redis.call('ZREM', board.zset, student)
  uncount(board.hist, band_of(keys[2], key, width))
  if kept and redis.call('HEXISTS', board.hist, '!floor') == 1 and redis.call('ZCARD', board.zset) <= kept / 2 + 1 then
    complete = 0 -- too few of the best are left to show
  end
  board.changed = true
end

local function enter(board, student, key)
  redis.call('HINCRBY', board.hist, band_of(keys[2], key, width), 1)
  board.changed = true
  if not kept then
    redis.call('ZADD', board.zset, key, student)
    return
  end
  local floor = redis.call('HGET', board.hist, '!floor')
  if not floor or tonumber(key) > tonumber(floor) then
    redis.call('ZADD', board.zset, key, student)
    if redis.call('ZCARD', board.zset) > kept + 1 then
      local lowest = redis.call('ZRANGE', board.zset, 1, 1, 'WITHSCORES')
      redis.call('ZREM', board.zset, lowest[1])
      redis.call('HSET', board.hist, '!floor', exact(lowest[2]))
    end
  end
end

local function move(board, student, from, to)
  if kept then
    leave(board, student, from)
    enter(board, student, to)
    return
  end
  local before, after = band_of(keys[2], from, width), band_of(keys[2], to, width)
  if before ~= after then
    uncount(board.hist, before)
    redis.call('HINCRBY', board.hist, after, 1)
  end
  redis.call('ZADD', board.zset, to, student)
  board.changed = true
end

local function each(cohorts)
  return string.gmatch(cohorts, '[^,]+')
end

local function has(cohorts, cohort)
  return string.find(',' .. cohorts .. ',', ',' .. cohort .. ',', 1, true)
end

local function place(student, version, key, alias, cohorts)
  local known, old_key, old_cohorts = entry_of(redis.call('HGET', keys[1], student))
  if tonumber(version) <= known then
    return
  end
  for cohort in each(old_cohorts) do
    if not boards[cohort] then
      missing[cohort] = true
      return
    end
  end
  local was, is, moved = old_key ~= '', key ~= '', key ~= old_key
  if was and is and moved then
    move(boards[''], student, old_key, key)
  elseif was and not is then
    leave(boards[''], student, old_key)
  elseif is and not was then
    enter(boards[''], student, key)
  end
  for cohort in each(old_cohorts) do
    if was and is and has(cohorts, cohort) then
      if moved then
        move(boards[cohort], student, old_key, key)
      end
    elseif was then
      leave(boards[cohort], student, old_key)
    end
  end
  for cohort in each(cohorts) do
    if is and not (was and has(old_cohorts, cohort)) then
      enter(boards[cohort], student, key)
    end
  end
  redis.call('HSET', keys[1], student, version .. '|' .. key .. '|' .. cohorts .. '|' .. alias)
end

for at = 1, #args, 5 do
  place(args[at], args[at + 1], args[at + 2], args[at + 3], args[at + 4])
end
for _, board in pairs(boards) do
  if board.changed then
    redis.call('HINCRBY', board.hist, '!changes', 1)
  end
end
local reply = {ready and complete or 0}
for cohort in pairs(missing) do
  reply[#reply + 1] = cohort
end
return reply
