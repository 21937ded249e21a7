-- Hand a session in: from here on its answers are frozen. The first call flips it; every later one returns the same.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 due:{shard}  zset    4 unscored:{shard}  zset    5 hold:{shard}
--       6 beat:{shard}
-- ARGV  1 student, or "" for the server    2 CLICK or BELL    3 the bell's grace in ms    4 ms until the unscored net looks
--       5 how old a beat may be in ms, before the bell takes it for an outage    6 for how many ms a click has waited here
-- Gives {FLIPPED or ALREADY, now in ms, field, value, …}; {ENDED, now, end} for a click after the end; {EARLY, now, end} for
-- the bell before it; {HELD, now, until} while the bell holds; {UNKNOWN}, {RESTORE}. `due` is a hint; the session's end decides.
local f = redis.call('HMGET', keys[1], 'g', 'u', 's', 'e', 't', 'h')
local generation = redis.call('GET', keys[2])
if not generation or f[1] ~= generation then
  return {'RESTORE'}
end
if args[1] ~= '' and f[2] ~= args[1] then
  return {'UNKNOWN'}
end
local now, ends, outcome = session_now(f[6]), tonumber(f[4]), 'ALREADY'
if f[3] == 'I' then
  local at = now
  if args[2] == 'BELL' then
    if now <= ends + tonumber(args[3]) then
      redis.call('ZADD', keys[3], ends, session_of(keys[1]))
      return {'EARLY', now, ends}
    end
    local hold_until, outage_end = string.match(redis.call('GET', keys[5]) or '', '(%d+),(%d+)')
    local beat = tonumber(redis.call('GET', keys[6]) or 0)
    if now - beat > tonumber(args[5]) then
      hold_until, outage_end = now + 1000, now
    end
    if hold_until and now < tonumber(hold_until) and tonumber(f[5]) < tonumber(outage_end) then
      redis.call('ZADD', keys[3], hold_until, session_of(keys[1]))
      return {'HELD', now, tonumber(hold_until)}
    end
    at = ends
  elseif now - tonumber(args[6]) > ends then
    return {'ENDED', now, ends}
  else
    at = math.min(now, ends)
  end
  outcome = 'FLIPPED'
  redis.call('HSET', keys[1], 's', 'S', 'z', at, 'w', args[2])
  redis.call('ZADD', keys[4], now + tonumber(args[4]), session_of(keys[1]))
end
redis.call('ZREM', keys[3], session_of(keys[1]))
return {outcome, now, unpack(redis.call('HGETALL', keys[1]))}
