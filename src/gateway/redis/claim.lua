-- KEYS: the counter of epochs, then one for each name. ARGV: gateway, credential, session, "1" if
-- sessions share names, how long a claim lasts, how long a replaced session is remembered, the channel
-- for changes, then the names. Claims all of them, or none.
local gateway, credential, session, shares = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local ttl, remember, channel = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local found = {}
for i = 2, #KEYS do
  local claims, replaced = read(KEYS[i])
  found[i] = {claims = claims, replaced = replaced}
  for other, claim in pairs(claims) do
    if other ~= gateway and claim.credential ~= credential then return {'held'} end
    if not shares and claim.session ~= session and replaced[session] then return {'newer'} end
  end
end
local epoch = next_epoch(KEYS[1])
for i = 2, #KEYS do
  local key, claims, replaced = KEYS[i], found[i].claims, found[i].replaced
  local changes = claims[gateway] == nil
  for other, claim in pairs(claims) do
    if not shares and claim.session ~= session then
      changes = true
      bar(key, replaced, claim.session, remember)
      if other ~= gateway then redis.call('HDEL', key, other) end
    end
  end
  if replaced[session] then redis.call('HDEL', key, '~' .. session) end
  write(key, gateway, epoch, credential, session, ttl)
  if changes then
    redis.call('PUBLISH', channel, number(epoch) .. ' ' .. gateway .. ' ' .. session .. ' ' .. ARGV[6 + i])
  end
end
return {'granted', number(epoch)}
