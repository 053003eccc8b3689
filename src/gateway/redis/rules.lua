-- What several scripts know. A name is a hash: for each gateway that has it a field with its URL and
-- "EPOCH EXPIRY CREDENTIAL SESSION", and for each session that was replaced a field "~SESSION" with the
-- time until which it does not come back. "-" stands for none. Times are milliseconds of this server.
-- What is none of ours counts as nothing: one key must not keep 255 others from being renewed.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local REPLACED_MAX = 8

local function number(n) return string.format('%.0f', n) end

-- A whole number that is exact, or nil.
local function whole(text)
  local n = type(text) == 'string' and text:match('^%d+$') and tonumber(text)
  if n and n < 9007199254740992 then return n end
  return nil
end

-- 0 where there is none, or where something else stands there, which SET replaces.
local function last_epoch(counter) return whole(redis.pcall('GET', counter)) or 0 end

-- The next epoch: larger than every other, also where this server has lost them all.
local function next_epoch(counter)
  local epoch = math.max(last_epoch(counter) + 1, time[1] * 1000000 + time[2])
  redis.call('SET', counter, number(epoch))
  return epoch
end

-- What there is of a name: claims that have not expired, and replaced sessions. Drops the rest.
local function read(key)
  local all, claims, replaced = redis.pcall('HGETALL', key), {}, {}
  if all.err then
    redis.call('DEL', key)
    return claims, replaced
  end
  for i = 1, #all, 2 do
    local field, value = all[i], all[i + 1]
    if field:sub(1, 1) == '~' then
      local at = whole(value)
      if at and at > now then replaced[field:sub(2)] = at
      else redis.call('HDEL', key, field) end
    else
      local epoch, expiry, credential, session = value:match('^(%d+) (%d+) (%S+) (%S+)$')
      epoch, expiry = whole(epoch), whole(expiry)
      if epoch and expiry and expiry > now then
        claims[field] = {epoch = epoch, credential = credential, session = session}
      else redis.call('HDEL', key, field) end
    end
  end
  return claims, replaced
end

local function write(key, gateway, epoch, credential, session, ttl)
  local value = number(epoch) .. ' ' .. number(now + ttl) .. ' ' .. credential .. ' ' .. session
  redis.call('HSET', key, gateway, value)
  redis.call('PEXPIRE', key, number(ttl))
end

-- A session has lost a name to a newer one.
local function bar(key, replaced, session, remember)
  if session == '-' then return end
  local count, oldest = 0, nil
  for known, at in pairs(replaced) do
    count = count + 1
    if not oldest or at < replaced[oldest] then oldest = known end
  end
  if count >= REPLACED_MAX and not replaced[session] then
    redis.call('HDEL', key, '~' .. oldest)
    replaced[oldest] = nil
  end
  replaced[session] = now + remember
  redis.call('HSET', key, '~' .. session, number(now + remember))
end
