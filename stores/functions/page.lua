-- Read one board in one moment: a page of it, a student's place, and the places around it.
--
-- FLAGS no-writes
-- KEYS  1 lbof:{board}  hash    2 lb:{board}…  zset    3 lbhist:{board}…  hash
-- ARGV  1 how many rows, 0 for none    2 student or ""    3 how many rows above and below the student, 0 for none
--       4 "", or "down" or "up" for a page below or above a cursor    5… the cursor: order key, offset, digest
-- Gives {ready, total, rows, own row or {}, how many are behind it (see `behind`) or {}, rows around, kind, {band, count, …}, cursor for a page above or {}, for one below or
-- {}}; a row is {rank, student, order key, alias}. Where the board ranks approximately there are counts, and a student who is not
-- among the best that are kept has rank 0, and nobody around them.
local state = state_of(keys[1], keys[2], keys[3])
if state ~= 'ready' then
  return {state and 1 or 0, 0, {}, {}, {}, {}, 0, {}, {}, {}}
end
local token = redis.call('HGET', keys[1], '!token')
local count, student, window = tonumber(args[1]), args[2], tonumber(args[3])
local kind = kind_of(keys[1])
local kept = kind > 1
local shown = redis.call('ZCARD', keys[2]) - 1
local total, counts = shown, {}
if kept then
  total, counts = counts_of(keys[3])
end

local first = 0
if args[4] ~= '' then
  local index, there = index_of(token, keys[2], args[5], tonumber(args[6]), args[7])
  first = index + (there and 1 or 0)
  if args[4] == 'up' then
    count = math.min(count, index)
    first = index - count
  end
end
local rows = count > 0 and rows_of(keys[1], keys[2], first, first + count - 1) or {}
local above, below = {}, {}
if #rows > 0 and first > 0 then
  above = cursor_of(token, keys[2], first, rows[1])
end
if #rows > 0 and first + #rows < shown then
  below = cursor_of(token, keys[2], first + #rows - 1, rows[#rows])
end

local own, less, around = {}, {}, {}
local at = student ~= '' and redis.call('ZREVRANK', keys[2], student)
if at then
  own = rows_of(keys[1], keys[2], at, at)[1]
  if not kept then
    less = behind(keys[2], own[3], tonumber(redis.call('HGET', keys[1], '!points')))
  end
  if window > 0 then
    around = rows_of(keys[1], keys[2], math.max(0, at - window), at + window)
  end
elseif kept and student ~= '' then
  local entry = redis.call('HGET', keys[1], student)
  local _, key, cohorts = entry_of(entry)
  local cohort = string.match(keys[2], ':c:(.*)$')
  if key ~= '' and (not cohort or string.find(',' .. cohorts .. ',', ',' .. cohort .. ',', 1, true)) then
    own = {0, student, key, alias_of(entry)}
  end
end
return {1, total, rows, own, less, around, kind, counts, above, below}
