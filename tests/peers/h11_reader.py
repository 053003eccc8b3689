"""h11 as a second opinion: what messages are in these bytes? What it reads and writes is told in llhttp_reader.js."""
import sys

import h11

HEAD_MAX = 1 << 17


def told(data):
    return bytes(data).hex() or "-"


def message(event, out):
    if isinstance(event, h11.Request):
        out.append(f"m {told(event.method)} {told(event.target)} {event.http_version[2:].decode()}")
    else:
        out.append(f"s {event.status_code} {told(event.reason)} {event.http_version[2:].decode()}")
    out.extend(f"f {told(name)} {told(value)}" for name, value in event.headers.raw_items())


def body(event, out):
    """True: it was the end of the message."""
    if isinstance(event, h11.Data):
        out.append(f"b {told(event.data)}")
        return False
    out.extend(f"t {told(name)} {told(value)}" for name, value in event.headers.raw_items())
    out.append("e")
    return True


def requests(data, out):
    while data:
        data = one_request(data, out)


def one_request(data, out):
    """What is behind the request, which has a connection of its own: so it does not matter that h11 ends each one of HTTP/1.0, where
    those who ask may go on (RFC 9112 appendix C.2.2), nor that it skips no empty line before a request (section 2.2)."""
    data = data.removeprefix(b"\r\n")
    if not data:
        return data
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX)
    connection.receive_data(data)
    keeps = True
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            out.append("i")
            return b""
        if isinstance(event, h11.Request):
            if event.http_version[:2] != b"1.":
                raise h11.RemoteProtocolError("another version of HTTP")
            options = b",".join(value for name, value in event.headers if name == b"connection").lower().split(b",")
            options = [option.strip() for option in options]
            keeps = b"close" not in options and (event.http_version == b"1.1" or b"keep-alive" in options)
            message(event, out)
        elif body(event, out):
            # An offer of another protocol is declined, like any request is answered.
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if not keeps:
                out.append("c")
                return b""
            return bytes(connection.trailing_data[0])


def responses(methods, end, data, out):
    for method in methods:
        data = one_response(method, end, data, out)
        if not data:
            return
    out.append("x bytes behind the response")


def one_response(method, end, data, out):
    """What is behind the response. Each has a connection of its own, as with requests."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_MAX)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    if data:
        connection.receive_data(data)
    if end:
        connection.receive_data(b"")
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            out.append("i")
            return b""
        if isinstance(event, h11.InformationalResponse):
            message(event, out)
            out.append("e")
        elif isinstance(event, h11.Response):
            message(event, out)
        elif body(event, out):
            return bytes(connection.trailing_data[0])


for line in sys.stdin:
    kind, *words = line.split()
    data = b"" if words[-1] == "-" else bytes.fromhex(words[-1])
    out = []
    try:
        if kind == "Q":
            requests(data, out)
        else:
            responses(words[0].split(","), words[1] == "1", data, out)
    except h11.ProtocolError as error:
        incomplete = "without sending complete message body" in str(error) or "unexpectedly" in str(error)
        out.append("i" if incomplete else f"x {error}".replace("\n", " "))
    sys.stdout.write("".join(line + "\n" for line in out) + ".\n")
    sys.stdout.flush()
