-- Say where one student stands, at the least cost.
--
-- FLAGS no-writes
-- KEYS  1 lbof:{board}  hash    2 lb:{board}  zset    3 lbhist:{board}  hash
-- ARGV  1 student
-- Gives {rank, students with fewer points, students with as many (themselves too), students}; where the board ranks
-- approximately, {order key, kind, {band, count, …}}; {} without a place, or while the board is not
-- complete.
local built = redis.call('HMGET', keys[1], '!points', '!kept', args[1])
local _, key = entry_of(built[3])
if key == '' or state_of(keys[1], keys[2], keys[3]) ~= 'ready' then
  return {}
end
if built[2] then
  local _, counts = counts_of(keys[3])
  return {key, kind_of(keys[1]), counts}
end
return {redis.call('ZCOUNT', keys[2], '(' .. key, '+inf') + 1, unpack(behind(keys[2], key, tonumber(built[1])))}
