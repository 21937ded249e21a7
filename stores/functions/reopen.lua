-- Begin to build a board: nobody reads it until `seal`, and every standing may be placed again.
--
-- FLAGS allow-oom
-- KEYS  1 lb:{board}:rebuild    2 lbof:{board}  hash    3 lbband:{board}  zset    4… pairs of lb:{board}… zset and lbhist:{board}…
-- ARGV  1 the build's token    2 how many order keys share the same points    3 how many share a band of the counts, 0: count
--       between bounds    4 how many of the best a zset keeps, "" for all    5… the bounds, if there are any
-- Gives 1, or 0 when another build is going on.
if redis.call('GET', keys[1]) ~= args[1] then
  return 0
end
redis.call('UNLINK', keys[2], keys[3])
redis.call('HSET', keys[2], '!', 'building', '!token', args[1], '!points', args[2], '!width', args[3])
if args[4] ~= '' then
  redis.call('HSET', keys[2], '!kept', args[4])
end
if args[5] then
  redis.call('ZADD', keys[3], '-inf', '-inf')
  for at = 5, #args do
    redis.call('ZADD', keys[3], args[at], args[at])
  end
end
for at = 4, #keys, 2 do
  redis.call('UNLINK', keys[at], keys[at + 1])
  redis.call('ZADD', keys[at], '-inf', '!')
  redis.call('HSET', keys[at + 1], '!', args[1])
  local cohort = string.match(keys[at], ':c:(.*)$')
  if cohort then
    redis.call('HSET', keys[2], '!c:' .. cohort, '')
  end
end
return 1
