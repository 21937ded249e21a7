-- Note that students are being served. After a silence, or on a Redis that knows of none, the bell holds for the sessions
-- that were running: an operator may want to give their time back first.
--
-- FLAGS allow-oom
-- KEYS  1 beat:{shard}    2 hold:{shard}
-- ARGV  1 how long a silence is an outage, in ms    2 how long the bell holds, in ms
local now = now_ms()
local last = tonumber(redis.call('GET', keys[1]) or 0)
if now - last > tonumber(args[1]) then
  redis.call('SET', keys[2], string.format('%d,%d', now + tonumber(args[2]), now), 'PX', args[2])
end
redis.call('SET', keys[1], string.format('%d', now))
return 'OK'
