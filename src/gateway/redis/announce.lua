-- KEYS: the gateways that are there, each with when it said so last. ARGV: a gateway, and "1" if it is
-- there, "0" if it leaves. One that was killed is forgotten after a day, by the clock of this server: that
-- of a gateway may be wrong.
local kept = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', number(now - 86400000))
if type(kept) == 'table' and kept.err and kept.err:find('WRONGTYPE', 1, true) then redis.call('DEL', KEYS[1]) end
if ARGV[2] == '1' then
  redis.call('ZADD', KEYS[1], number(now), ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return 'OK'
