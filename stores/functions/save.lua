-- Save one answer, unless time is over.
--
-- KEYS  1 s:{shard}:<session>  hash    2 log:{shard}  stream    3 gen:{shard}    4 dirty:{shard}  zset
-- ARGV  1 student  2 question  3 answer, packed  4 key digest, 8 bytes  5 body digest, 4 bytes  6 client sequence, 0 = none
--       7 the most bytes that all answers may take  8 the most entries in the log: above it the session is marked dirty instead,
--       to be read whole, so that no save fails because PostgreSQL is away
-- Gives {outcome, version, saved at in ms, ends at in ms, now in ms, current answer}; outcome is SAVED, REPLAYED, SUPERSEDED,
-- ENDED, SUBMITTED, PAUSED, REUSED, FULL, UNKNOWN or RESTORE. The key is looked up before the state and the time, so that
-- a retry after the bell still hears that its save counts.
local question = 'a:' .. args[2]
local f = redis.call('HMGET', keys[1], 'g', 'u', 's', 'q', 'v', 'e', 'd', 'k', 'b', 'h', question)
local generation = redis.call('GET', keys[3])
if not generation or f[1] ~= generation then
  return {'RESTORE'}
end
if f[2] ~= args[1] then
  return {'UNKNOWN'}
end

local now = session_now(f[10])
local ends, paused = ends_as_of(tonumber(f[6]), f[4], now)
local digests, replaced, current = f[7] or '', f[8] or '', f[11]
local version, at, sequence, slot
if current then
  version, at, sequence, slot = struct.unpack(ANSWER, current)
end

local row = find_row(digests, args[4], 12)
if row then
  if current and slot == (row - 1) / 12 and string.sub(digests, row + 8, row + 11) == args[5] then
    return {'REPLAYED', version, at, ends, now}
  end
  return {'REUSED', 0, 0, ends, now}
end
row = find_row(replaced, args[4], 24)
if row then
  local _, body, then_version, then_at = struct.unpack(REPLACED, replaced, row)
  if body == args[5] then
    return {'REPLAYED', then_version, then_at, ends, now}
  end
  return {'REUSED', 0, 0, ends, now}
end

if f[3] ~= 'I' then
  return {'SUBMITTED', 0, 0, ends, now}
end
if now > ends then
  return {'ENDED', 0, 0, ends, now}
end
if paused then
  return {'PAUSED', 0, 0, ends, now}
end

local client_sequence = tonumber(args[6])
if current and client_sequence > 0 and client_sequence < sequence then
  return {'SUPERSEDED', version, at, ends, now, current}
end
local bytes = tonumber(f[9] or 0) + #args[3] - (current and #current - ANSWER_HEAD or 0)
if bytes > tonumber(args[7]) then
  return {'FULL', 0, 0, ends, now}
end

local change = {'v', tonumber(f[5]) + 1, 'b', bytes, 'h', now}
if current then
  local old = string.sub(digests, slot * 12 + 1, slot * 12 + 12)
  replaced = replaced .. old .. struct.pack('>I6I6', version, at)
  if #replaced > REMEMBERED then
    replaced = string.sub(replaced, -REMEMBERED)
  end
  digests = string.sub(digests, 1, slot * 12) .. args[4] .. args[5] .. string.sub(digests, slot * 12 + 13)
  change[7], change[8] = 'k', replaced
else
  slot = #digests / 12
  digests = digests .. args[4] .. args[5]
end
version = change[2]
redis.call('HSET', keys[1], 'd', digests, question,
  struct.pack(ANSWER, version, now, client_sequence, slot) .. args[3], unpack(change))
if redis.call('XLEN', keys[2]) < tonumber(args[8]) then
  redis.call('XADD', keys[2], '*', 'i', session_of(keys[1]), 'q', args[2],
    'a', struct.pack('>I6I6I4', version, now, client_sequence) .. args[4] .. args[5] .. args[3])
else
  redis.call('ZADD', keys[4], version, session_of(keys[1]))
end
return {'SAVED', version, now, ends, now}
