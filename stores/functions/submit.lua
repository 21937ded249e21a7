-- Hand a session in: from here on its answers are frozen. The first call flips it; every later one returns the same.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 due:{shard}  zset    4 unscored:{shard}  zset
-- ARGV  1 student, or "" for the server    2 CLICK or BELL    3 the bell's grace in ms    4 ms until the unscored net looks
-- Gives {outcome, now in ms, field, value, …} with outcome FLIPPED, ALREADY or ENDED (a click after the end: flipped as by
-- the bell), or {EARLY}, {UNKNOWN}, {RESTORE}. `due` is only a hint: the session's own end decides.
local f = redis.call('HMGET', keys[1], 'g', 'u', 's', 'e')
local generation = redis.call('GET', keys[2])
if not generation or f[1] ~= generation then
  return {'RESTORE'}
end
if args[1] ~= '' and f[2] ~= args[1] then
  return {'UNKNOWN'}
end
local now, ends, outcome = now_ms(), tonumber(f[4]), 'ALREADY'
if f[3] == 'I' then
  if args[2] == 'BELL' and now <= ends + tonumber(args[3]) then
    redis.call('ZADD', keys[3], ends, session_of(keys[1]))
    return {'EARLY'}
  end
  local reason, at = 'CLICK', now
  outcome = 'FLIPPED'
  if now > ends then
    reason, at = 'BELL', ends
    outcome = args[2] == 'BELL' and 'FLIPPED' or 'ENDED'
  end
  redis.call('HSET', keys[1], 's', 'S', 'z', at, 'w', reason)
  redis.call('ZADD', keys[4], now + tonumber(args[4]), session_of(keys[1]))
end
redis.call('ZREM', keys[3], session_of(keys[1]))
return {outcome, now, unpack(redis.call('HGETALL', keys[1]))}
