// npm reverse-http as a device: node npm_device.js HOST PORT PATH
//
// Prints "asked METHOD URL" for each request. /echo answers with the request's body, /drop ends the connection after its
// answer (the package dials again at once), anything else is "hello from npm".
'use strict'
const reverseHttp = require('reverse-http')

const [host, port, path] = process.argv.slice(2)
const server = reverseHttp({ host, port: Number(port), path }, (request, response) => {
  console.log(`asked ${request.method} ${request.url}`)
  response.setHeader('Content-Type', 'text/plain')
  if (request.url === '/echo') return request.pipe(response)
  if (request.url === '/drop') response.setHeader('Connection', 'close')
  request.resume()
  response.end('hello from npm')
})
server.on('error', (error) => {
  console.error(String(error))
  process.exitCode = 1
})
