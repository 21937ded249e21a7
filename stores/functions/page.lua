-- Read one board in one moment: its top, a student's place, and the places around it.
--
-- FLAGS no-writes
-- KEYS  1 lb:{exam}…  zset    2 lbname:{exam}  hash
-- ARGV  1 how many from the top    2 student or ""    3 how many above and below the student, 0 for none
-- Gives {ready, total, top rows, own row or {}, rows around}; a row is {rank, student, order key, alias}.
if not redis.call('ZSCORE', keys[1], '!') then
  return {0, 0, {}, {}, {}}
end

local function rows(first, last)
  local found = {}
  local range = redis.call('ZREVRANGE', keys[1], first, last, 'WITHSCORES')
  local rank, score
  for i = 1, #range, 2 do
    if string.sub(range[i], 1, 1) ~= '!' then
      if i == 1 then
        rank = redis.call('ZCOUNT', keys[1], '(' .. range[2], '+inf') + 1
      elseif range[i + 1] ~= score then
        rank = first + (i - 1) / 2 + 1
      end
      score = range[i + 1]
      found[#found + 1] = {rank, range[i], score, redis.call('HGET', keys[2], range[i]) or ''}
    end
  end
  return found
end

local total = redis.call('ZCARD', keys[1]) - 1
local top = tonumber(args[1]) > 0 and rows(0, tonumber(args[1]) - 1) or {}
local at = args[2] ~= '' and redis.call('ZREVRANK', keys[1], args[2])
if not at then
  return {1, total, top, {}, {}}
end
local window = tonumber(args[3])
return {1, total, top, rows(at, at)[1], window > 0 and rows(math.max(0, at - window), at + window) or {}}
