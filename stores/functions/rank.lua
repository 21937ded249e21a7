-- Say where one student stands, at the least cost.
--
-- FLAGS no-writes
-- KEYS  1 lb:{exam}…  zset
-- ARGV  1 student    2 how many order keys share the same points
-- Gives {rank, students with fewer points, students with as many (themselves too), students}; {} without a place, or while the
-- board is not complete.
local key = redis.call('ZSCORE', keys[1], args[1])
if not key or not redis.call('ZSCORE', keys[1], '!') then
  return {}
end
local width = tonumber(args[2])
local lowest = string.format('%.0f', math.floor(tonumber(key) / width) * width)
local highest = string.format('%.0f', tonumber(lowest) + width - 1)
return {
  redis.call('ZCOUNT', keys[1], '(' .. key, '+inf') + 1,
  redis.call('ZCOUNT', keys[1], '-inf', '(' .. lowest) - 1,
  redis.call('ZCOUNT', keys[1], lowest, highest),
  redis.call('ZCARD', keys[1]) - 1,
}
