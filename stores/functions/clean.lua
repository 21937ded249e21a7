-- Note that a dirty session was written to PostgreSQL as it was at a version; one that changed since stays dirty.
--
-- FLAGS allow-oom
-- KEYS  1 dirty:{shard}  zset    2 gen:{shard}
-- ARGV  1 the generation that was read    2… session and version, in turn
if redis.call('GET', keys[2]) ~= args[1] then
  return 0
end
local gone = 0
for i = 2, #args, 2 do
  local version = redis.call('ZSCORE', keys[1], args[i])
  if version and tonumber(version) <= tonumber(args[i + 1]) then
    gone = gone + redis.call('ZREM', keys[1], args[i])
  end
end
return gone
