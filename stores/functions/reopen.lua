-- Begin a rebuild: nobody reads the boards until `seal`, and every standing may be placed again.
--
-- KEYS  1 lbver:{exam}  hash    2 lbname:{exam}  hash    3… lb:{exam}…  zsets
-- ARGV  1 the rebuild's token
for board = 3, #keys do
  redis.call('DEL', keys[board])
  redis.call('ZADD', keys[board], '-inf', '!' .. args[1])
end
redis.call('DEL', keys[1], keys[2])
return 'OK'
