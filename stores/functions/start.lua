-- Install a session that has just been inserted into PostgreSQL, unless it is there already. Where there is no generation Redis
-- has just been wiped, and others may have restored the session and saved to it before: it is restored too.
--
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 due:{shard}  zset
-- ARGV  1 ends ms, then field and value pairs of the hash
-- Gives {INSTALLED, now in ms}, {EXISTS} or {RESTORE}.
local generation = redis.call('GET', keys[2])
if not generation then
  return {'RESTORE'}
end
if redis.call('EXISTS', keys[1]) == 1 then
  return {'EXISTS'}
end
redis.call('HSET', keys[1], 'g', generation, 'e', args[1], unpack(args, 2))
redis.call('ZADD', keys[3], args[1], session_of(keys[1]))
return {'INSTALLED', now_ms()}
