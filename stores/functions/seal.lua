-- End a rebuild: the boards are complete. A board that lost the rebuild's token was deleted meanwhile, so nothing is sealed.
--
-- KEYS  1… lb:{exam}…  zsets
-- ARGV  1 the rebuild's token
-- Gives 1, or 0 when the rebuild has to be done again.
for board = 1, #keys do
  if not redis.call('ZSCORE', keys[board], '!' .. args[1]) then
    return 0
  end
end
for board = 1, #keys do
  redis.call('ZREM', keys[board], '!' .. args[1])
  redis.call('ZADD', keys[board], '-inf', '!')
end
return 1
