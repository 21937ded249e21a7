-- Take a submitted session that has no result yet up again: returns it and looks at it later, ever more rarely.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 unscored:{shard}  zset
-- ARGV  1 first delay in ms    2 longest delay in ms    3 how often at most
-- Gives {ALREADY, now in ms, field, value, …}, or EXHAUSTED in place of ALREADY when it was taken up that often before;
-- {SCORED} when it has a result after all, or {RESTORE}.
local f = redis.call('HMGET', keys[1], 'g', 's', 'y')
local generation = redis.call('GET', keys[2])
if not generation or f[1] ~= generation then
  return {'RESTORE'}
end
if f[2] ~= 'S' then
  redis.call('ZREM', keys[3], session_of(keys[1]))
  return {'SCORED'}
end
local now, retries = now_ms(), tonumber(f[3] or 0) + 1
redis.call('HSET', keys[1], 'y', retries)
local delay = math.min(tonumber(args[1]) * 2 ^ math.min(retries, 20), tonumber(args[2]))
redis.call('ZADD', keys[3], now + delay, session_of(keys[1]))
return {retries > tonumber(args[3]) and 'EXHAUSTED' or 'ALREADY', now, unpack(redis.call('HGETALL', keys[1]))}
