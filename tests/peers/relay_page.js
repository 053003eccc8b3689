// Pages of headless Chromium behind the relay.
//
//   node relay_page.js server                         a local server, for a device to forward to; prints its port
//   node relay_page.js visit CHROMIUM URL URL         loads the page from both URLs (by path, by host); prints "path", "host", then "ok"
//
// The page uses what pages use: events, a WebSocket, an upload, a streamed download, a compressed resource and a cookie. It puts what became
// of them into document.title as JSON, and the assertions are made here.
'use strict'
const assert = require('node:assert')
const crypto = require('node:crypto')
const http = require('node:http')
const zlib = require('node:zlib')

const PATIENCE = 20_000
const MEBIBYTE = 1 << 20

/** All URLs are relative: by path, the page does not know its prefix. */
const PAGE = `<!doctype html><meta charset="utf-8"><title>…</title><script src="zipped.js"></script><script type="module">
const hex = async (bytes) => Array.from(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)), (o) => o.toString(16).padStart(2, '0')).join('')
const events = () => new Promise((resolve, reject) => {
  const seen = []
  const source = new EventSource('events')
  source.onmessage = ({ data }) => seen.push(data) === 5 && (source.close(), resolve(seen))
  source.onerror = () => reject(new Error('EventSource: ' + seen))
})
const socket = () => new Promise((resolve, reject) => {
  const socket = new WebSocket(new URL('socket', location.href.replace('http', 'ws')))
  socket.onopen = () => socket.send('ünïcode')
  socket.onmessage = ({ data }) => (socket.close(), resolve(data))
  socket.onerror = () => reject(new Error('WebSocket'))
})
const upload = async () => {
  const bytes = new Uint8Array(${MEBIBYTE}).map((_, i) => i * 7 + (i >> 8))
  const answer = await fetch('upload', { method: 'POST', body: bytes })
  return [answer.status, await answer.text() === await hex(bytes)]
}
const download = async () => {
  const reader = (await fetch('download')).body.getReader()
  let [pieces, length] = [0, 0]
  for (let got; !(got = await reader.read()).done; pieces++) {
    length += got.value.length
    if (pieces === 0) await fetch('more') // the rest is written when the beginning is here
  }
  return [pieces > 1, length]
}
const cookie = async () => (await fetch('cookie')).text()
const outcome = {}
for (const [name, task] of Object.entries({ events, socket, upload, download, cookie })) {
  outcome[name] = await task().catch((error) => String(error))
}
outcome.zipped = self.zipped
document.title = JSON.stringify(outcome)
</script>`

/** Writes what remains of the last download. */
let finish = () => {}

function answer(request, response) {
  const path = new URL(request.url, 'http://a').pathname
  const routes = {
    '/': () => {
      response.setHeader('Set-Cookie', ['first=1; SameSite=Lax', 'second=2; HttpOnly'])
      response.setHeader('Content-Type', 'text/html; charset=utf-8')
      response.end(PAGE)
    },
    '/zipped.js': () => {
      const text = `self.zipped = ${JSON.stringify('z'.repeat(100_000))}.length`
      response.writeHead(200, { 'Content-Type': 'text/javascript', 'Content-Encoding': 'gzip', Vary: 'Accept-Encoding' })
      response.end(zlib.gzipSync(text))
    },
    '/events': () => {
      response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' })
      let n = 0
      const timer = setInterval(() => response.write(`id: ${n}\ndata: event ${n++}\n\n`), 20)
      response.on('close', () => clearInterval(timer)) // the page leaves after the fifth
    },
    '/upload': () => {
      const hash = crypto.createHash('sha256')
      request.on('data', (piece) => hash.update(piece))
      request.on('end', () => response.end(hash.digest('hex')))
    },
    '/download': () => {
      response.write(Buffer.alloc(50_000, 20))
      finish = () => {
        for (let left = 19; left > 0; left--) response.write(Buffer.alloc(50_000, left))
        response.end()
      }
    },
    '/more': () => (finish(), response.end()),
    '/cookie': () => response.end(request.headers.cookie || 'none'),
  }
  response.on('error', () => {}) // whoever asked has gone
  const route = routes[path]
  if (route) return route()
  response.writeHead(path === '/favicon.ico' ? 204 : 404)
  response.end()
}

function server() {
  const { WebSocketServer } = require('ws')
  const listener = http.createServer(answer)
  new WebSocketServer({ server: listener, path: '/socket' }).on('connection', (socket) => {
    socket.on('message', (data, binary) => socket.send(data, { binary }))
  })
  listener.listen(0, '127.0.0.1', () => console.log(listener.address().port))
}

async function visit(executablePath, byPath, byHost) {
  const { chromium } = require('playwright-core')
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  for (const [name, url] of [['path', byPath], ['host', byHost]]) {
    const page = await (await browser.newContext()).newPage()
    const complaints = []
    page.on('pageerror', (error) => complaints.push(String(error)))
    const response = await page.goto(url)
    assert.strictEqual(response.status(), 200)
    assert.match(response.headers().via, /ptth/)
    await page.waitForFunction(() => document.title.startsWith('{'), null, { timeout: PATIENCE })
    const outcome = JSON.parse(await page.title())
    assert.deepStrictEqual([complaints, outcome], [[], {
      events: [0, 1, 2, 3, 4].map((n) => `event ${n}`),
      socket: 'ünïcode',
      upload: [200, true],
      download: [true, 1_000_000],
      cookie: 'first=1; second=2',
      zipped: 100_000,
    }])
    await page.close()
    console.log(name)
  }
  await browser.close()
  console.log('ok')
}

const [what, ...rest] = process.argv.slice(2)
Promise.resolve({ server, visit }[what](...rest)).catch((error) => {
  console.error(error)
  process.exit(1)
})
