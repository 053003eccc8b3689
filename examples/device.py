"""Anything can be a device: Reverse HTTP (PTTH) with nothing but a socket.

    python3 examples/device.py 127.0.0.1 9999 lamp        # then: curl http://127.0.0.1:8080/lamp/

It dials the gateway and offers to turn the connection around; from the 101 on it answers like any HTTP/1.1 server.
Left out: chunked request bodies (they end the link), several links at once, a pause that grows."""
import socket, sys, time

host, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
OFFER = f"POST /{name} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"

def read_head(bytes):
    lines = []
    while (line := bytes.readline()) not in (b"\r\n", b""):
        lines.append(line.decode("latin-1").rstrip("\r\n"))
    return lines  # empty when the other side has closed

def serve(link):
    bytes = link.makefile("rb")  # one buffer: the first request may come in one segment with the 101
    link.sendall(OFFER.encode())
    if not (answer := read_head(bytes)) or answer[0].split()[1] != "101":
        sys.exit(f"the gateway did not turn the connection: {answer}")
    print("connected", name, flush=True)
    while head := read_head(bytes):
        method, target = head[0].split(" ")[:2]
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:])}
        bytes.read(int(fields.get("content-length", 0)))
        body = b"" if target == "*" else f"{name} was asked {method} {target}\n".encode()  # OPTIONS * is the gateway's heartbeat
        link.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body * (method != "HEAD"))
        if "transfer-encoding" in fields or fields.get("connection", "").lower() == "close":
            return

while True:
    try:
        with socket.create_connection((host, port)) as link:
            serve(link)
    except OSError as error:
        print(error, file=sys.stderr)
    time.sleep(1)
