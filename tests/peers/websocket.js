// WebSockets through the relay, with the npm package ws at both ends.
//
//   node websocket.js server            an echo server; prints its port
//   node websocket.js client URL COUNT  COUNT sockets at once: text, 1 MiB binary, pings both ways, a close handshake from either side; prints "ok"
//   node websocket.js idle URL COUNT    opens COUNT sockets, prints "open"; at end of input each says something, and then "ok"
'use strict'
const assert = require('node:assert')
const { once } = require('node:events')
const { WebSocket, WebSocketServer } = require('ws')

function server() {
  const sockets = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false })
  sockets.on('listening', () => console.log(sockets.address().port))
  sockets.on('connection', (socket, request) => {
    socket.on('message', (data, binary) => {
      if (!binary && data.toString() === 'close') return socket.close(4001, 'as you wish')
      if (!binary && data.toString() === 'ping') return socket.ping('server')
      if (!binary && data.toString() === 'where') return socket.send(request.url)
      socket.send(data, { binary })
    })
    socket.on('pong', (data) => socket.send(`pong ${data}`))
  })
}

async function open(url) {
  const socket = new WebSocket(url, { perMessageDeflate: false })
  await once(socket, 'open')
  return socket
}

async function say(socket, data) {
  const answer = once(socket, 'message')
  socket.send(data)
  return (await answer)[0]
}

async function client(url, count) {
  await Promise.all(Array.from({ length: count }, async (_, n) => {
    const socket = await open(`${url}/socket?n=${n}`)
    assert.strictEqual((await say(socket, 'where')).toString(), `/socket?n=${n}`)
    assert.strictEqual((await say(socket, `text ${n}`)).toString(), `text ${n}`)
    const large = Buffer.alloc(1 << 20, n)
    assert.ok(large.equals(await say(socket, large)))
    assert.strictEqual((await say(socket, 'ping')).toString(), 'pong server')
    const pong = once(socket, 'pong')
    socket.ping('client')
    assert.strictEqual((await pong)[0].toString(), 'client')
    const closed = once(socket, 'close')
    if (n % 2) socket.close(4000, 'enough')
    else socket.send('close')
    const [code, reason] = await closed
    assert.deepStrictEqual([code, reason.toString()], n % 2 ? [4000, 'enough'] : [4001, 'as you wish'])
  }))
}

async function idle(url, count) {
  const sockets = []
  for (let n = 0; n < count; n++) sockets.push(await open(`${url}/${n}`))
  console.log('open')
  process.stdin.resume()
  await once(process.stdin, 'end')
  for (const [n, socket] of sockets.entries()) assert.strictEqual((await say(socket, `${n}`)).toString(), `${n}`)
  sockets.forEach((socket) => socket.terminate())
}

const [what, url, count] = process.argv.slice(2)
const task = { server, client, idle }[what]
Promise.resolve(task(url, Number(count))).then(
  () => what !== 'server' && (console.log('ok'), process.exit(0)),
  (error) => (console.error(error), process.exit(1)),
)
