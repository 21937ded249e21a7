-- Give a parked session back to the nets, at once and with all their patience; one that is scored they let go.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 unscored:{shard}  zset    3 parked:{shard}  zset
local session = session_of(keys[1])
redis.call('ZREM', keys[3], session)
redis.call('HDEL', keys[1], 'y')
redis.call('ZADD', keys[2], 0, session)
return 'OK'
