-- Read a whole session.
--
-- FLAGS no-writes
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}
-- Gives {FOUND, now in ms, field, value, …} or {RESTORE}.
local generation = redis.call('GET', keys[2])
if not generation or redis.call('HGET', keys[1], 'g') ~= generation then
  return {'RESTORE'}
end
return {'FOUND', now_ms(), unpack(redis.call('HGETALL', keys[1]))}
