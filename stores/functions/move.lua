-- Tell a session in progress when it ends now, if the facts behind it are newer than the ones that it has.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 due:{shard}  zset    4 r:{shard}:<session>  restore token
-- ARGV  1 version of the facts  2 ends ms  3 pause ("paused ms,ends ms,end without it"), or ""
-- Gives MOVED, OLD, SUBMITTED or ABSENT. ABSENT takes the token away: a restore that is under way may have read older facts.
local f = redis.call('HMGET', keys[1], 'g', 's', 'f')
local generation = redis.call('GET', keys[2])
if not generation or f[1] ~= generation then
  redis.call('DEL', keys[4])
  return 'ABSENT'
end
if f[2] ~= 'I' then
  return 'SUBMITTED'
end
if tonumber(args[1]) <= tonumber(f[3] or 0) then
  return 'OLD'
end
redis.call('HSET', keys[1], 'f', args[1], 'e', args[2])
if args[3] == '' then
  redis.call('HDEL', keys[1], 'q')
else
  redis.call('HSET', keys[1], 'q', args[3])
end
redis.call('ZADD', keys[3], args[2], session_of(keys[1]))
return 'MOVED'
