-- Say how far a session is, at the least cost: what a student asks for again and again while the score is on its way.
--
-- FLAGS no-writes
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}
-- Gives {student, status, submitted ms or nil}; {} where it is not known for certain: another generation, or none.
local f = redis.call('HMGET', keys[1], 'g', 'u', 's', 'z')
local generation = redis.call('GET', keys[2])
if not generation or f[1] ~= generation then
  return {}
end
return {f[2], f[3], f[4]}
