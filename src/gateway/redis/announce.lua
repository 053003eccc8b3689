-- KEYS: the gateways that are there, each with when it said so last; the processes that said so, by URL.
-- ARGV: a gateway's URL, "1" if it is there, "0" if it leaves, which process says so, for how many
-- milliseconds that counts, which is how long its claims last, "1" if two processes are known to have
-- this URL, how many names its devices have, and "1" if the answer is to have all gateways. One that was killed is forgotten after a day, by the
-- clock of this server: that of a gateway may be wrong. Returns when another process has said last that
-- it has this URL, if that still counts, else 0; "1" if this gateway was not known; and of each gateway
-- its URL, how long ago it said that it is there, and its names and how long its claims last.
local gateways, processes, url = KEYS[1], KEYS[2], ARGV[1]
local kept = redis.pcall('ZRANGEBYSCORE', gateways, '-inf', number(now - 86400000), 'LIMIT', 0, 256)
if kept.err then
  redis.call('DEL', gateways)
  kept = {}
end
local said = redis.pcall('HGET', processes, url)
if type(said) == 'table' then
  redis.call('DEL', processes)
  said = nil
end
for i = 1, #kept do
  redis.call('ZREM', gateways, kept[i])
  redis.call('HDEL', processes, kept[i], '!' .. kept[i], '#' .. kept[i])
end
local process, at = (said or ''):match('^(%S+) (%d+)$')
at = whole(at)
-- One from the future is none of ours, or this server's clock was set.
local is_other = process and at and process ~= ARGV[3] and math.abs(now - at) < tonumber(ARGV[4])
if ARGV[5] == '1' then redis.call('HSET', processes, '!' .. url, number(now)) end
local new = 0
if ARGV[2] == '1' then
  new = redis.call('ZADD', gateways, number(now), url)
  if not is_other then
    redis.call('HSET', processes, url, ARGV[3] .. ' ' .. number(now))
    redis.call('HSET', processes, '#' .. url, ARGV[6] .. ' ' .. ARGV[4])
  end
elseif not is_other then
  redis.call('ZREM', gateways, url)
  redis.call('HDEL', processes, url, '#' .. url)
end
local there, known = {}, {}
if ARGV[7] == '1' then
  there = redis.call('ZRANGEBYSCORE', gateways, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1024)
end
for i = 1, #there, 2 do
  local ago = math.max(now - (tonumber(there[i + 1]) or 0), 0)
  known[#known + 1] = there[i]
  known[#known + 1] = number(ago)
  known[#known + 1] = redis.call('HGET', processes, '#' .. there[i]) or '-'
end
return {number(is_other and at or 0), number(new), known}
