-- End a rebuild: the boards are complete, unless one of them was deleted meanwhile and lost the rebuild's token.
--
-- FLAGS allow-oom
-- KEYS  1 lb:{exam}:rebuild    2… lb:{exam}…  zsets
-- ARGV  1 the rebuild's token
-- Gives 1, or 0 when the rebuild has to be done again.
if redis.call('GET', keys[1]) == args[1] then
  redis.call('DEL', keys[1])
end
for board = 2, #keys do
  if not redis.call('ZSCORE', keys[board], '!' .. args[1]) then
    return 0
  end
end
for board = 2, #keys do
  redis.call('ZREM', keys[board], '!' .. args[1])
  redis.call('ZADD', keys[board], '-inf', '!')
end
return 1
