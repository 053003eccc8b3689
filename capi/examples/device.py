"""The device of device.c in Python: PTTH_LIBRARY=/usr/local/lib/libptth.so python3 device.py http://gw.example:9999/lamp

Python's standard library only: ctypes calls the functions of ptth.h. One thread receives the requests and answers them in their order.
"""
import ctypes
import os
import signal
import sys

OK, TIMEOUT, LOG_INFO = 0, 2, 3
ptth = ctypes.CDLL(os.environ.get("PTTH_LIBRARY", "libptth.so"))
Pointer, Text = ctypes.c_void_p, ctypes.c_char_p
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, Text, Pointer)
for name, result, arguments in [
    ("ptth_last_error", Text, []),
    ("ptth_log", ctypes.c_int, [ctypes.c_int, LogCallback, Pointer]),
    ("ptth_options_new", Pointer, [Text]),
    ("ptth_options_free", None, [Pointer]),
    ("ptth_open", ctypes.c_int, [Pointer, ctypes.POINTER(Pointer)]),
    ("ptth_receive", ctypes.c_int, [Pointer, ctypes.c_int64, ctypes.POINTER(Pointer)]),
    ("ptth_request_method", Text, [Pointer]),
    ("ptth_request_target", Text, [Pointer]),
    ("ptth_request_field", Text, [Pointer, Text]),
    ("ptth_request_read", ctypes.c_ssize_t, [Pointer, Pointer, ctypes.c_size_t]),
    ("ptth_respond", ctypes.c_int, [Pointer, ctypes.c_uint16, Text, Text, ctypes.c_size_t]),
    ("ptth_request_done", ctypes.c_int, [Pointer]),
    ("ptth_device_stop", ctypes.c_int, [Pointer, ctypes.c_uint32]),
    ("ptth_device_free", None, [Pointer]),
]:
    function = getattr(ptth, name)
    function.restype, function.argtypes = result, arguments


def last_error():
    return ptth.ptth_last_error().decode(errors="replace")


@LogCallback
def log_line(level, line, user):
    print(line.decode(errors="replace"), file=sys.stderr, flush=True)


def body_of(request):
    """The whole body, or None where it was cut."""
    buffer, body = ctypes.create_string_buffer(4096), b""
    while (read := ptth.ptth_request_read(request, buffer, len(buffer))) > 0:
        body += buffer.raw[:read]
    return None if read < 0 else body


def answer(request):
    target = ptth.ptth_request_target(request)
    if target == b"/status":
        agent = ptth.ptth_request_field(request, b"User-Agent") or b"nobody"
        return 200, b"on, and you are " + agent + b"\n"
    if target == b"/echo" and ptth.ptth_request_method(request) == b"POST":
        body = body_of(request)
        return (400, b"the body was cut\n") if body is None else (200, body)
    if target == b"/count":
        return 200, b"".join(b"%d\n" % n for n in range(10))
    return 404, b"not here\n"


ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
signal.signal(signal.SIGINT, lambda *_: ended.append(True))
ptth.ptth_log(LOG_INFO, log_line, None)  # failures, and how the device is connected
options, device, request = ptth.ptth_options_new(sys.argv[1].encode()), Pointer(), Pointer()
if ptth.ptth_open(options, ctypes.byref(device)) != OK:
    sys.exit(last_error())
ptth.ptth_options_free(options)
while not ended:
    outcome = ptth.ptth_receive(device, 200, ctypes.byref(request))  # signals are looked at in between
    if outcome == OK:
        status, body = answer(request)
        if ptth.ptth_respond(request, status, b"text/plain", body, len(body)) != OK:
            print(last_error(), file=sys.stderr)
        if ptth.ptth_request_done(request) != OK:  # the caller has gone, say
            print(last_error(), file=sys.stderr)
    elif outcome != TIMEOUT:
        sys.exit(last_error())
ptth.ptth_device_stop(device, 5000)
ptth.ptth_device_free(device)
