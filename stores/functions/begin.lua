-- Begin a generation, unless this one was begun for the same server already: sessions of any other are restored before use.
--
-- FLAGS allow-oom
-- KEYS  1 gen:{shard}    2 run:{shard}
-- ARGV  1 the server's identity    2 a generation that PostgreSQL gave to nobody else
-- Gives 1 when it began, 0 when there was nothing to do.
if redis.call('GET', keys[2]) == args[1] and redis.call('EXISTS', keys[1]) == 1 then
  return 0
end
redis.call('SET', keys[1], args[2])
redis.call('SET', keys[2], args[1])
return 1
