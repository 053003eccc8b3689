-- KEYS: one for each name. ARGV: gateway, then an epoch for each name. A newer claim stays.
for i = 1, #KEYS do
  local value = redis.pcall('HGET', KEYS[i], ARGV[1])
  if type(value) == 'string' and value:match('^(%d+) ') == ARGV[i + 1] then
    redis.call('HDEL', KEYS[i], ARGV[1])
  end
end
return 'OK'
