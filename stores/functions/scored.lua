-- Note that a session's result is in PostgreSQL: the session may go after a day.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 unscored:{shard}  zset    3 due:{shard}  zset    4 parked:{shard}  zset
-- ARGV  1 how long to keep the session, in ms
local session = session_of(keys[1])
redis.call('ZREM', keys[2], session)
redis.call('ZREM', keys[3], session)
redis.call('ZREM', keys[4], session)
if redis.call('EXISTS', keys[1]) == 1 then
  redis.call('HSET', keys[1], 's', 'D')
  redis.call('PEXPIRE', keys[1], args[1])
end
return 'OK'
