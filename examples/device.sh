#!/bin/sh
# A shell as a device: Reverse HTTP with nothing but curl (the COMET fallback in message/http; needs no build, no TLS library, no JSON).
#
#     sh examples/device.sh http://127.0.0.1:9999/lamp        # then: curl http://127.0.0.1:8080/lamp/uptime
#
# Each POST brings the last answer and waits for the next request. Write your own answer(): it gets the request (head and
# body, HTTP/1.1 text) on standard input and its target as $1. One request at a time; for more, start more: the gateway gives each its own.
url=$1
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT; trap 'exit 0' INT TERM

answer() { # TARGET
  printf 'you asked the shell for %s\n%s\n' "$1" "$(uptime)"
}

id=
while :; do
  set -- -H 'Content-Length: 0'
  [ -z "$id" ] || set -- -H 'Content-Type: message/http' -H "PTTH-Message-ID: $id" --data-binary "@$dir/answer"
  curl -s -X POST --max-time 90 -D "$dir/head" -o "$dir/event" -H 'Accept: message/http' -H 'Expect:' "$@" "$url" || { sleep $((1 + $$ % 5)); continue; }
  read -r _ status _ <"$dir/head"
  id=$(sed -n 's/^[Pp][Tt][Tt][Hh]-[Mm]essage-[Ii][Dd]: *\([!-~]*\).*/\1/p' "$dir/head")
  [ "$status" = 200 ] || [ "$status" = 204 ] || { echo "the gateway answered $status" >&2; id=; sleep 5; continue; }
  [ -n "$id" ] || continue
  read -r method target _ <"$dir/event"
  answer "$target" <"$dir/event" >"$dir/body"
  printf 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n' "$(wc -c <"$dir/body")" >"$dir/answer"
  [ "$method" = HEAD ] || cat "$dir/body" >>"$dir/answer"
done
