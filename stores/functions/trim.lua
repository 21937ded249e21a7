-- Cut off the head of a save log that is in PostgreSQL now, if it is still the log that was read.
--
-- FLAGS allow-oom
-- KEYS  1 log:{shard}  stream    2 gen:{shard}
-- ARGV  1 the generation that was read    2 the first id to keep
-- Gives how many entries went.
if redis.call('GET', keys[2]) ~= args[1] then
  return 0
end
return redis.call('XTRIM', keys[1], 'MINID', '=', args[2])
