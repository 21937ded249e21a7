-- Take a submitted session that cannot be scored out of the nets, until an operator has looked at it.
--
-- FLAGS allow-oom
-- KEYS  1 unscored:{shard}  zset    2 parked:{shard}  zset
-- ARGV  1 session
redis.call('ZREM', keys[1], args[1])
redis.call('ZADD', keys[2], 0, args[1])
return 'OK'
