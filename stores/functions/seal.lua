-- End a build: the board is complete, unless a part of it was deleted meanwhile.
--
-- FLAGS allow-oom
-- KEYS  1 lb:{board}:rebuild    2 lbof:{board}  hash    3… pairs of lb:{board}… zset and lbhist:{board}…, cohorts' boards too
-- ARGV  1 the build's token    2 a number that no earlier build has reached: where the count of changes begins
--       3 how many students it was built with
-- Gives 1, or 0 when it has to be built again.
if redis.call('GET', keys[1]) ~= args[1] then
  return 0
end
local good = redis.call('HGET', keys[2], '!token') == args[1]
for at = 3, #keys, 2 do
  good = good and redis.call('ZSCORE', keys[at], '!') and redis.call('HGET', keys[at + 1], '!') == args[1]
end
redis.call('DEL', keys[1])
if not good then
  return 0
end
for at = 3, #keys, 2 do
  redis.call('HINCRBY', keys[at + 1], '!changes', args[2])
end
redis.call('HSET', keys[2], '!', 'ready', '!students', args[3])
return 1
