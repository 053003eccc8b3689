-- The device of device.c in Lua: PTTH_LIBRARY=/usr/local/lib/libptth.so luajit device.lua http://gw.example:9999/lamp
--
-- LuaJIT's ffi only. Its callbacks may run on the interpreter's own thread alone, and the library has threads of its own: so
-- the log goes to standard error (ptth_log_to_stderr), and one loop receives the requests and answers them in their order.
local ffi = require("ffi")
ffi.cdef [[
  typedef struct ptth_options ptth_options;
  typedef struct ptth_device ptth_device;
  typedef struct ptth_request ptth_request;
  const char *ptth_last_error(void);
  int ptth_log_to_stderr(int level);
  ptth_options *ptth_options_new(const char *url);
  void ptth_options_free(ptth_options *options);
  int ptth_open(const ptth_options *options, ptth_device **device);
  int ptth_receive(const ptth_device *device, int64_t time_ms, ptth_request **request);
  int ptth_device_stop(const ptth_device *device, uint32_t time_ms);
  void ptth_device_free(ptth_device *device);
  const char *ptth_request_method(const ptth_request *request);
  const char *ptth_request_target(const ptth_request *request);
  const char *ptth_request_field(const ptth_request *request, const char *name);
  ptrdiff_t ptth_request_read(ptth_request *request, void *buffer, size_t size);
  int ptth_respond(ptth_request *request, uint16_t code, const char *content_type, const void *body, size_t length);
  int ptth_request_done(ptth_request *request);

  typedef struct { unsigned char bits[128]; } sigset_t; /* of Linux */
  int sigemptyset(sigset_t *set);
  int sigaddset(sigset_t *set, int signal);
  int sigprocmask(int how, const sigset_t *set, sigset_t *old);
  int sigtimedwait(const sigset_t *set, void *info, const long time[2]);
]]
local ptth, OK, TIMEOUT, LOG_INFO = ffi.load(os.getenv("PTTH_LIBRARY") or "ptth"), 0, 2, 3

local function last_error() return ffi.string(ptth.ptth_last_error()) end
local function complain() io.stderr:write(last_error(), "\n") end
local function text(pointer) return pointer ~= nil and ffi.string(pointer) or nil end

-- The whole body, or nil where it was cut.
local function body_of(request)
  local buffer, pieces = ffi.new("char[4096]"), {}
  while true do
    local read = tonumber(ptth.ptth_request_read(request, buffer, 4096))
    if read <= 0 then return read == 0 and table.concat(pieces) or nil end
    pieces[#pieces + 1] = ffi.string(buffer, read)
  end
end

local function answer(request)
  local method, target = text(ptth.ptth_request_method(request)), text(ptth.ptth_request_target(request))
  if target == "/status" then
    return 200, "on, and you are " .. (text(ptth.ptth_request_field(request, "User-Agent")) or "nobody") .. "\n"
  elseif target == "/echo" and method == "POST" then
    local body = body_of(request)
    return body and 200 or 400, body or "the body was cut\n"
  elseif target == "/count" then
    return 200, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
  end
  return 404, "not here\n"
end

-- SIGINT and SIGTERM wait until they are asked for; the library's threads, which start below, leave them alone as well.
local signals, at_once = ffi.new("sigset_t"), ffi.new("long[2]")
ffi.C.sigemptyset(signals)
for _, signal in ipairs { 2, 15 } do ffi.C.sigaddset(signals, signal) end
ffi.C.sigprocmask(0, signals, nil)
ptth.ptth_log_to_stderr(LOG_INFO) -- failures, and how the device is connected
local options, device, request = ptth.ptth_options_new(arg[1]), ffi.new("ptth_device *[1]"), ffi.new("ptth_request *[1]")
if ptth.ptth_open(options, device) ~= OK then error(last_error()) end
ptth.ptth_options_free(options)
while ffi.C.sigtimedwait(signals, nil, at_once) < 0 do
  local outcome = ptth.ptth_receive(device[0], 200, request)
  if outcome == OK then
    local status, body = answer(request[0])
    if ptth.ptth_respond(request[0], status, "text/plain", body, #body) ~= OK then complain() end
    if ptth.ptth_request_done(request[0]) ~= OK then complain() end -- the caller has gone, say
  elseif outcome ~= TIMEOUT then
    error(last_error())
  end
end
ptth.ptth_device_stop(device[0], 5000)
ptth.ptth_device_free(device[0])
