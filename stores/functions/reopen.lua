-- Begin a rebuild, unless another one is going on: nobody reads the boards until `seal`, and every standing may be placed again.
--
-- FLAGS allow-oom
-- KEYS  1 lb:{exam}:rebuild    2 lbver:{exam}  hash    3 lbname:{exam}  hash    4… lb:{exam}…  zsets
-- ARGV  1 the rebuild's token    2 for how long it keeps others away, in ms
-- Gives 1, or 0 when another rebuild is going on.
if not redis.call('SET', keys[1], args[1], 'NX', 'PX', args[2]) then
  return 0
end
for board = 4, #keys do
  redis.call('DEL', keys[board])
  redis.call('ZADD', keys[board], '-inf', '!' .. args[1])
end
redis.call('DEL', keys[2], keys[3])
return 1
