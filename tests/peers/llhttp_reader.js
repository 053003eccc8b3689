// llhttp (Node's own copy, in its strict mode) as a second opinion: what messages are in these bytes?
//
// Reads cases from standard input, one a line, and writes for each what it read, ended by a line ".":
//
//   Q BYTES                  requests, as a server reads them
//   S METHODS END BYTES      responses to requests of these METHODS (GET,HEAD); END is 1 where the stream ends behind them
//
//   m METHOD TARGET MINOR | s STATUS REASON MINOR     a head
//   f NAME VALUE      a field        b BYTES     a piece of the body
//   t NAME VALUE      a trailer      e            the message is whole
//   i     the bytes end within a message       c     the message was the connection's last
//   x WHY what follows is refused
//
// Bytes, names and values are in hex, "-" being none. tests/peers/h11_reader.py speaks the same.
'use strict'
const readline = require('node:readline')
const { HTTPParser, methods: verbs } = require('_http_common')

const HEAD_MAX = 1 << 17
const hex = (value) => Buffer.from(value, 'latin1').toString('hex') || '-'
const bytes = (word) => (word === '-' ? Buffer.alloc(0) : Buffer.from(word, 'hex'))

/** One run of the parser over `input`: pushes lines, returns how many bytes were read, or null at an end of any kind. */
function run(kind, methods, end, input, out) {
  const parser = new HTTPParser()
  parser.initialize(kind, {}, HEAD_MAX, HTTPParser.kLenientNone)
  let pairs = []
  let within = false // a head is whole, and its message is not
  let closes = false
  const fields = (letter) => {
    for (let i = 0; i < pairs.length; i += 2) out.push(`${letter} ${hex(pairs[i])} ${hex(pairs[i + 1])}`)
    pairs = []
  }
  parser[HTTPParser.kOnMessageBegin] = () => {
    pairs = []
    within = false
  }
  let target = ''
  parser[HTTPParser.kOnHeaders] = (more, url) => {
    pairs.push(...more)
    if (within) fields('t')
    else target += url
  }
  parser[HTTPParser.kOnHeadersComplete] = (major, minor, last, verb, url, status, reason, upgrade, keep) => {
    if (last) pairs.push(...last)
    if (kind === HTTPParser.REQUEST) out.push(`m ${hex(verbs[verb])} ${hex(target + (url || ''))} ${minor}`)
    else out.push(`s ${status} ${hex(reason)} ${minor}`)
    target = ''
    fields('f')
    within = true
    closes = !keep
    return status >= 200 && methods.shift() === 'HEAD' ? 1 : 0
  }
  parser[HTTPParser.kOnBody] = (piece) => out.push(`b ${piece.toString('hex')}`)
  parser[HTTPParser.kOnMessageComplete] = () => {
    fields('t')
    within = false
    out.push('e')
  }
  let used = parser.execute(input)
  if (used instanceof Error) {
    // Behind its last message a connection has nothing to say.
    const over = used.code === 'HPE_CLOSED_CONNECTION'
    out.push(over ? 'c' : `x ${used.code} ${used.reason}`)
    return null
  }
  if (used < input.length && within) {
    out.push('x UNTOLD Node does not say why where another protocol was offered')
    return null
  }
  if (used < input.length) return used // it stopped where another protocol was offered
  if (end || kind === HTTPParser.REQUEST) {
    const finished = parser.finish()
    if (finished instanceof Error) out.push('i')
    else if (closes && out[out.length - 1] === 'e') out.push('c')
  } else if (within) {
    out.push('i')
  }
  return null
}

function read(line) {
  const words = line.split(' ')
  const requests = words[0] === 'Q'
  let input = bytes(words[requests ? 1 : 3])
  const out = []
  const kind = requests ? HTTPParser.REQUEST : HTTPParser.RESPONSE
  while (input.length > 0) {
    const used = run(kind, requests ? [] : words[1].split(','), words[2] === '1', input, out)
    if (used === null) break
    input = input.subarray(used)
  }
  return out.join('\n') + (out.length ? '\n.\n' : '.\n')
}

readline.createInterface({ input: process.stdin }).on('line', (line) => process.stdout.write(read(line)))
