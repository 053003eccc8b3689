// Headless Chromium as an operator: node admin_page.js CHROMIUM ADMIN_URL FOLDER
//
// Reads steps from standard input, one each line, and prints a line when each is done:
//   see TEXT          the page shows it, without a reload
//   not TEXT          it does not any more
//   open PATH         goes there
//   find TEXT         types it into the search field
//   click TEXT        a button, whose question is answered yes
//   shoot NAME WIDTH  a screenshot into FOLDER; fails where the page is wider than its window
//   plain PATH TEXT   without JavaScript, that page shows the text and no action
'use strict'
const assert = require('node:assert')
const readline = require('node:readline')
const { chromium } = require('playwright-core')

const [executablePath, admin, folder] = process.argv.slice(2)
const PATIENCE = 30_000

async function main() {
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'] })
  const page = await browser.newPage({ viewport: { width: 1400, height: 900 } })
  const complaints = []
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()))
  page.on('request', (request) => request.url().startsWith(admin) || request.url().startsWith('data:') || complaints.push(`outside: ${request.url()}`))
  page.on('dialog', (dialog) => dialog.accept())
  const shows = (text) => document.body.innerText.includes(text)
  const lacks = (text) => !document.body.innerText.includes(text)
  const steps = {
    open: (path) => page.goto(admin + path),
    see: (text) => page.waitForFunction(shows, text, { timeout: PATIENCE }),
    not: (text) => page.waitForFunction(lacks, text, { timeout: PATIENCE }),
    find: (text) => page.fill('input[type=search]', text),
    click: (text) => page.click(`button:has-text("${text}")`),
    async shoot(rest) {
      const [name, width, scheme] = rest.split(' ')
      await page.emulateMedia({ colorScheme: scheme || 'light' })
      await page.setViewportSize({ width: Number(width), height: 900 })
      const wide = await page.evaluate(() => document.documentElement.scrollWidth)
      await page.screenshot({ path: `${folder}/${name}.png` })
      assert.ok(wide <= Number(width), `the page is ${wide} wide in a window of ${width}`)
    },
    async plain(rest) {
      const [path, ...text] = rest.split(' ')
      const bare = await browser.newPage({ javaScriptEnabled: false })
      await bare.goto(admin + path)
      const shown = await bare.locator('body').innerText()
      assert.ok(shown.includes(text.join(' ')), shown)
      assert.ok(!(await bare.locator('.actions').first().isVisible()), 'an action that does nothing is shown')
      await bare.close()
    },
  }
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [step, ...rest] = line.split(' ')
    await steps[step](rest.join(' ')).catch(async (error) => {
      await page.screenshot({ path: `${folder}/failed.png` })
      throw new Error(`${line}\n${await page.locator('body').innerText()}\n${complaints}`, { cause: error })
    })
    assert.deepStrictEqual(complaints, [])
    console.log(`done ${line}`)
  }
  await browser.close()
  console.log('ok')
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
