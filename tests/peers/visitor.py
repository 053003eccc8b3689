"""Python's http.client as a visitor: visitor.py PORT PREFIX. Prints "ok" when every answer was as it has to be.

The device behind PREFIX answers /echo with the request's head and body, /hello with "hello", /chunked?n=N with N bytes."""
import http.client
import sys

port, prefix = int(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)


def ask(method, path, **more):
    connection.request(method, prefix + path, **more)
    response = connection.getresponse()
    return response, response.read()


def pieces():
    for i in range(100):
        yield b"piece %d;" % i


for _ in range(5):  # on one connection
    response, body = ask("GET", "/hello")
    assert (response.status, body) == (200, b"hello\n"), (response.status, body)
    local = connection.sock.getsockname() if _ == 0 else local
    assert connection.sock.getsockname() == local, "the connection was not kept"
response, body = ask("HEAD", "/hello")
assert (response.status, body, response.getheader("Content-Length")) == (200, b"", "6")
response, body = ask("POST", "/echo", body=b"x" * 100_000, headers={"X-Check": "a, b"})
assert response.status == 200 and body.endswith(b"\r\n\r\n" + b"x" * 100_000) and b"X-Check: a, b\r\n" in body
response, body = ask("PUT", "/echo", body=pieces(), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
assert response.status == 200 and body.endswith(b"".join(pieces())), body[-200:]
response, body = ask("GET", "/chunked?n=300000")
assert response.status == 200 and len(body) == 300_000
connection.request("GET", "/nobody/here")
response = connection.getresponse()
assert response.status == 404 and b"nobody" in response.read()
print("ok")
