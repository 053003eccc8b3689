-- KEYS: the counter of epochs, then one for each name. ARGV: gateway, "1" if sessions share names, how
-- long a claim lasts, how long a replaced session is remembered, the channel for changes; then for each
-- name its epoch ("0": it was never claimed), credential, session, and the name itself. The answer has
-- for each name an epoch, "newer" or "held".
local gateway, shares = ARGV[1], ARGV[2] == '1'
local ttl, remember, channel = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local answer = {}
for i = 2, #KEYS do
  local key, at = KEYS[i], 5 + (i - 2) * 4
  local epoch, credential, session, name = tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local claims, replaced = read(key)
  local own, verdict = claims[gateway], nil
  for other, claim in pairs(claims) do
    if other ~= gateway then
      if claim.credential ~= credential then verdict = 'held'
      elseif not shares and claim.session ~= session then
        local is_newer = epoch > 0 and claim.epoch > epoch or epoch == 0 and replaced[session] ~= nil
        if is_newer then verdict = verdict or 'newer' end
      end
    end
  end
  if verdict then
    if own and own.epoch <= epoch then redis.call('HDEL', key, gateway) end
    if verdict == 'newer' then bar(key, replaced, session, remember) end
  elseif own and own.epoch > epoch and epoch > 0 then
    -- This gateway has made a newer claim meanwhile.
    verdict = number(own.epoch)
  else
    -- A claim that the server has lost, or that had expired, comes back: nobody else's changes.
    local changes = own == nil and epoch == 0
    if epoch == 0 then
      epoch = next_epoch(KEYS[1])
    elseif own == nil and epoch > last_epoch(KEYS[1]) then
      redis.call('SET', KEYS[1], number(epoch)) -- this server has lost what it knew
    end
    for other, claim in pairs(claims) do
      if not shares and claim.session ~= session then
        bar(key, replaced, claim.session, remember)
        if other ~= gateway then
          changes = true
          redis.call('HDEL', key, other)
        end
      end
    end
    write(key, gateway, epoch, credential, session, ttl)
    if changes then
      redis.call('PUBLISH', channel, number(epoch) .. ' ' .. gateway .. ' ' .. session .. ' ' .. name)
    end
    verdict = number(epoch)
  end
  answer[i - 1] = verdict
end
return answer
