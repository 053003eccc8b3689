-- KEYS: one name. The gateways that have it.
local gateways = {}
for gateway in pairs((read(KEYS[1]))) do gateways[#gateways + 1] = gateway end
return gateways
