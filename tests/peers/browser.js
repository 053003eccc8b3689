// Headless Chromium as a device: node browser.js CHROMIUM PAGE_URL DEVICES_URL VISITORS_URL SCREENSHOT
//
// The tab answers what is asked over the visitors' port, what is typed is the answer, a page of another origin gets 403, and closing the tab
// gives 503. Prints a line for each step, "ok" at the end; anything else is a failure.
'use strict'
const assert = require('node:assert')
const http = require('node:http')
const { chromium } = require('playwright-core')

const [executablePath, pageUrl, devices, visitors, screenshot] = process.argv.slice(2)
const PATIENCE = 20_000

function ask(method, url, { headers = {}, body, patience = PATIENCE } = {}) {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(patience)
    const request = http.request(url, { method, headers, signal }, (response) => {
      const pieces = []
      response.on('data', (piece) => pieces.push(piece))
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces).toString() }))
    })
    request.on('error', reject)
    request.end(body)
  })
}

async function typed(page, text) {
  await page.waitForSelector('article:not(.done) textarea', { timeout: PATIENCE })
  const shown = await page.textContent('article:not(.done) pre')
  await page.fill('article:not(.done) textarea', text)
  if (text.includes('picture')) await page.screenshot({ path: screenshot })
  await page.click('article:not(.done) button')
  return shown
}

async function main() {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  })
  const page = await browser.newPage()
  const complaints = []
  page.on('pageerror', (error) => complaints.push(String(error)))
  const seen = []
  page.on('response', (response) => seen.push(`${response.status()} ${response.url()}`))
  page.on('requestfailed', (request) => seen.push(`${request.failure().errorText} ${request.url()}`))
  await page.goto(pageUrl)
  await page.waitForSelector('#state.on', { timeout: PATIENCE }).catch(async (error) => {
    throw new Error(`${await page.textContent('#state')}; ${seen.join(', ')}; ${complaints}`, { cause: error })
  })
  console.log('connected')

  let asked = ask('GET', `${visitors}/tab/hello?x=1`, { headers: { 'X-Question': 'what' } })
  let shown = await typed(page, 'a picture says more\n')
  assert.match(shown, /^GET \/hello\?x=1$/m)
  assert.match(shown, /^x-question: what$/m)
  let answer = await asked
  assert.deepStrictEqual([answer.status, answer.body], [200, 'a picture says more\n'])
  assert.match(answer.headers['content-type'], /^text\/plain/)

  asked = ask('POST', `${visitors}/tab/up`, { body: 'some text ä' })
  shown = await typed(page, 'grüße\n')
  assert.match(shown, /some text ä$/)
  answer = await asked
  assert.deepStrictEqual([answer.status, answer.body], [200, 'grüße\n'])

  // Two at once, answered in the other order.
  const [first, second] = [ask('GET', `${visitors}/tab/1`), ask('GET', `${visitors}/tab/2`)]
  await page.waitForFunction(() => document.querySelectorAll('article:not(.done)').length === 2, null, { timeout: PATIENCE })
  for (const n of [2, 1]) {
    const article = page.locator('article:not(.done)').filter({ hasText: `GET /${n}` })
    await article.locator('textarea').fill(`answer ${n}`)
    await article.locator('button').click()
  }
  assert.deepStrictEqual([(await first).body, (await second).body], ['answer 1', 'answer 2'])
  console.log('answered')

  // A page that the operator has not listed.
  const elsewhere = http.createServer((_, response) => response.end('<!doctype html><title>elsewhere</title>')).listen(0, '127.0.0.1')
  await new Promise((listening) => elsewhere.on('listening', listening))
  const foreign = await browser.newPage()
  const statuses = []
  foreign.on('response', (response) => response.url().startsWith(devices) && statuses.push(response.status()))
  await foreign.goto(`http://127.0.0.1:${elsewhere.address().port}/`)
  const outcome = await foreign.evaluate(async (url) => {
    const tried = async (init) => fetch(url, init).then((reply) => `read ${reply.type} ${reply.status}`, (error) => error.name)
    const simple = { method: 'POST', body: '{}', headers: { 'Content-Type': 'text/plain' } }
    return [await tried(simple), await tried({ ...simple, headers: { 'Content-Type': 'application/json' } }), await tried({ ...simple, mode: 'no-cors' })]
  }, `${devices}/tab`)
  assert.deepStrictEqual(outcome, ['TypeError', 'TypeError', 'read opaque 0'])
  assert.ok(statuses.length >= 1 && statuses.every((status) => status === 403), `statuses ${statuses}`)
  elsewhere.close()
  console.log('refused')

  assert.deepStrictEqual(complaints, [])
  await page.close()
  // A request that comes while the tab is closing may still be handed to it, and then waits for an answer; the next one does not.
  const until = Date.now() + PATIENCE
  do {
    assert.ok(Date.now() < until, `the tab is closed, and the status is ${answer?.status}`)
    answer = await ask('GET', `${visitors}/tab/gone`, { patience: 7_000 }).catch(() => undefined)
  } while (answer?.status !== 503)
  assert.ok(answer.headers['retry-after'])
  await browser.close()
  console.log('ok')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
