-- Install a restored session, if the restore token is still the caller's own: a wipe, a second restorer or newer facts about
-- its end take it away. One that is there under this generation stays as it is: another process has restored it since the
-- caller found it missing, and may have acknowledged saves that the caller has not seen.
--
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 r:{shard}:<session>  token    4 due:{shard}    5 unscored:{shard}
--       6 parked:{shard}
-- ARGV  1 token  2 status (I, S, D; P: submitted, and waits for an operator)  3 ends ms  4 ms to keep a scored session,
--       then field and value pairs of the hash
-- Gives INSTALLED, LOST or NO_GENERATION.
local generation = redis.call('GET', keys[2])
if not generation then
  return 'NO_GENERATION'
end
if redis.call('GET', keys[3]) ~= args[1] then
  return 'LOST'
end
if redis.call('HGET', keys[1], 'g') == generation then
  return 'LOST'
end
local session = session_of(keys[1])
local status = args[2] == 'P' and 'S' or args[2]
redis.call('DEL', keys[1], keys[3])
redis.call('HSET', keys[1], 'g', generation, 's', status, 'e', args[3], unpack(args, 5))
if status == 'I' then
  redis.call('ZADD', keys[4], args[3], session)
elseif args[2] == 'P' then
  redis.call('ZADD', keys[6], now_ms(), session)
elseif status == 'S' then
  redis.call('ZADD', keys[5], now_ms(), session)
else
  redis.call('PEXPIRE', keys[1], args[4])
end
return 'INSTALLED'
