-- Give a restore token back, if it is still the caller's own.
--
-- FLAGS allow-oom
-- KEYS  1 r:{shard}:<session>  token
-- ARGV  1 token
if redis.call('GET', keys[1]) == args[1] then
  redis.call('DEL', keys[1])
end
return 'OK'
