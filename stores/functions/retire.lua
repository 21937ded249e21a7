-- End a session of a rehearsal for good, before PostgreSQL forgets it: its student is gone, the nets know it no more, and
-- what stays keeps a late start or a restore from bringing it back. Its answers stay as they are: a snapshot may still read
-- them. A submit on its way to its score is left alone.
--
-- FLAGS allow-oom
-- KEYS  1 s:{shard}:<session>  hash    2 gen:{shard}    3 r:{shard}:<session>  token    4 due:{shard}    5 unscored:{shard}
--       6 parked:{shard}
-- ARGV  1 how long to keep it, in ms    2 status in PostgreSQL (I, S, D; P: submitted, and waits for an operator)    3 ends ms,
--       then field and value pairs of the hash, where it is not there
-- Gives its version; -1 for a submit that has no score yet; -2 without a generation.
local generation = redis.call('GET', keys[2])
if not generation then
  return -2
end
local f = redis.call('HMGET', keys[1], 'g', 's', 'v')
local live = f[1] == generation
if args[2] ~= 'P' and (live and f[2] or args[2]) == 'S' then
  return -1
end
local session = session_of(keys[1])
redis.call('DEL', keys[3])
redis.call('ZREM', keys[4], session)
redis.call('ZREM', keys[5], session)
redis.call('ZREM', keys[6], session)
if not live then
  redis.call('DEL', keys[1])
  redis.call('HSET', keys[1], 'g', generation, 'e', args[3], unpack(args, 4))
end
redis.call('HSET', keys[1], 'u', '', 's', 'D')
redis.call('PEXPIRE', keys[1], args[1])
return live and tonumber(f[3]) or 0
