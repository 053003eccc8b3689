-- KEYS: names. For each the gateways that have it.
local answer = {}
for i = 1, #KEYS do
  local gateways = {}
  for gateway in pairs((read(KEYS[i]))) do gateways[#gateways + 1] = gateway end
  answer[i] = gateways
end
return answer
