-- Read what everybody who watches a board is sent, unless it is what they were sent last.
--
-- FLAGS no-writes
-- KEYS  1 lbof:{board}  hash    2 lb:{board}…  zset    3 lbhist:{board}…  hash
-- ARGV  1 the count of changes at the last reading, or ""    2 how many rows, 0 for none
-- Gives {0} while the board is not complete, {1} when nothing has changed, or {2, count of changes, students, rows, kind, {band,
-- count, …}}.
local state = state_of(keys[1], keys[2], keys[3])
if not state then
  return {0}
end
local changes = redis.call('HGET', keys[3], '!changes') or 'none'
if changes == args[1] then
  return {1}
end
if state == 'empty' then
  return {2, changes, 0, {}, kind_of(keys[1]), {}}
end
local total, counts = counts_of(keys[3])
local count = tonumber(args[2])
local rows = count > 0 and rows_of(keys[1], keys[2], 0, count - 1) or {} -- to -1 would be all of them
return {2, changes, total, rows, kind_of(keys[1]), counts}
