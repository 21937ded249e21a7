-- Say which ranks some order keys have.
--
-- FLAGS no-writes
-- KEYS  1 lbof:{board}  hash    2 lb:{board}…  zset    3 lbhist:{board}…  hash
-- ARGV  order keys
-- Gives one rank for each, or nil while the board is not complete.
if not state_of(keys[1], keys[2], keys[3]) then
  return false
end
local ranks = {}
for at, key in ipairs(args) do
  ranks[at] = redis.call('ZCOUNT', keys[2], '(' .. key, '+inf') + 1
end
return ranks
