-- Put a student where their standing says, or take them off, if the standing is newer than what the boards have.
--
-- FLAGS allow-oom
-- KEYS  1 lbver:{exam}  hash    2 lbname:{exam}  hash    3… lb:{exam}…  zsets: the exam's board, then the cohorts'
-- ARGV  1 student  2 standing version  3 order key, or "" for no place  4 alias
-- Gives 1 when every one of these boards is complete, 0 when they have to be rebuilt: one of a new cohort looks like one
-- that was deleted.
local known = tonumber(redis.call('HGET', keys[1], args[1]) or -1)
if tonumber(args[2]) > known then
  redis.call('HSET', keys[1], args[1], args[2])
  redis.call('HSET', keys[2], args[1], args[4])
  for board = 3, #keys do
    if args[3] == '' then
      redis.call('ZREM', keys[board], args[1])
    else
      redis.call('ZADD', keys[board], args[3], args[1])
    end
  end
end
for board = 3, #keys do
  if not redis.call('ZSCORE', keys[board], '!') then
    return 0
  end
end
return 1
