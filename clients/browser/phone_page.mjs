// Uses a page of tflite_tools.phone_page as a person with a phone does, in headless Chromium.
//
// node phone_page.mjs PAGE.html|http://127.0.0.1:PORT/ PHOTO.png OUTPUT_FOLDER [BUILD] [gpu] [brief]
//
// Writes OUTPUT_FOLDER/result.json (what the page saves), seen.json (what a reader and a screen
// reader get, what was requested), start.png, light.png and dark.png.

import { createServer } from 'node:http';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import puppeteer from 'puppeteer-core';

import { browserPath } from './browser.mjs';

const TIME_LIMIT_MS = 540_000; // a software GPU takes seconds a run
const PHONE = { width: 390, height: 844, deviceScaleFactor: 2, isMobile: true, hasTouch: true };

const [place, photo, output, ...options] = process.argv.slice(2);
const gpu = options.includes('gpu'); // a software one, seconds a run
const brief = options.includes('brief'); // one photo, and its result
const [build] = options.filter((option) => !['gpu', 'brief'].includes(option));
const address = place.startsWith('http') ? place : pathToFileURL(path.resolve(place)).href;

// A host that the page must not reach: what arrives here has left the device.
let received = 0;
const outside = createServer((request, response) => {
  received += 1;
  response.setHeader('Access-Control-Allow-Origin', '*');
  response.end('received');
});
await new Promise((resolve) => outside.listen(0, '127.0.0.1', resolve));

const browser = await puppeteer.launch({
  executablePath: browserPath(),
  args: [
    '--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader',
    ...(gpu ? ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'] : []),
    '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream',
  ],
  protocolTimeout: TIME_LIMIT_MS,
});
const seen = { requests: [], console: [], said: [] };
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(TIME_LIMIT_MS);
  await page.setViewport(PHONE);
  page.on('console', (message) => seen.console.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => seen.console.push(`pageerror: ${error}`));
  page.on('request', (request) => seen.requests.push(request.url().slice(0, 120)));
  const session = await browser.target().createCDPSession();
  await session.send('Browser.setDownloadBehavior', {
    behavior: 'allow', downloadPath: path.resolve(output), eventsEnabled: true,
  });
  const saved = new Promise((resolve, reject) => {
    session.on('Browser.downloadProgress', ({ state }) => {
      if (state === 'completed') resolve();
      if (state === 'canceled') reject(new Error('the download was canceled'));
    });
  });
  const status = () => page.$eval('#status', (element) => element.textContent);
  const said = async (words) => {
    await page.waitForFunction(
      (text) => {
        const { textContent, className } = document.getElementById('status');
        return textContent.includes(text) || className === 'failed';
      }, {}, words);
    seen.said.push(await status());
  };

  const useControls = async () => {
    // The keyboard alone: from the top to every control, then the button that measures.
    seen.focused = [];
    await page.evaluate(() => document.activeElement?.blur());
    for (let step = 0; step < 40; step++) {
      await page.keyboard.press('Tab');
      const name = await page.evaluate(() => {
        const { activeElement: element } = document;
        return element === document.body ? null : element.id || element.name || element.tagName;
      });
      if (name === null) break;
      seen.focused.push(name);
    }
    await page.focus('#measure');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#progress:not([hidden])');
    await page.waitForSelector('#progress[hidden]');
    seen.said.push(await status());

    await page.focus('#opacity');
    await page.keyboard.press('ArrowLeft');
    seen.opacity = await page.$eval('#mask', (mask) => mask.style.opacity);
    seen.legend = await page.$$eval('#legend label', (lines) => lines.map((line) => line.textContent));
    seen.times = await page.$$eval('#times tbody tr', (rows) =>
      rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
    seen.mask_label = await page.$eval('#mask', (mask) => mask.getAttribute('aria-label'));
    const tree = await page.accessibility.snapshot();
    seen.controls = [];
    const collect = (node) => {
      const roles = ['button', 'checkbox', 'radio', 'slider', 'textbox', 'combobox', 'img', 'image'];
      if (roles.includes(node.role)) seen.controls.push([node.role, node.name ?? '']);
      (node.children ?? []).forEach(collect);
    };
    collect(tree);
  };

  const look = async () => {
    seen.wide = {};
    seen.contrast = {};
    for (const scheme of ['light', 'dark']) {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      seen.wide[scheme] = await page.evaluate('document.documentElement.scrollWidth');
      seen.contrast[scheme] = await page.evaluate(() => {
        const light = (color) => {
          const parts = color.match(/\d+/g).slice(0, 3).map((part) => {
            const share = part / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
          });
          return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const ratio = (one, other) => {
          const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
          return (high + 0.05) / (low + 0.05);
        };
        const paper = getComputedStyle(document.body).backgroundColor;
        const button = getComputedStyle(document.getElementById('measure'));
        return {
          text: ratio(getComputedStyle(document.body).color, paper),
          note: ratio(getComputedStyle(document.querySelector('.note')).color, paper),
          button: ratio(button.color, button.backgroundColor),
        };
      });
      await page.screenshot({ path: path.join(output, `${scheme}.png`), fullPage: true });
    }
  };

  const tryToSend = async () => {
    // The page cannot send anything, even if a script of it tried.
    page.removeAllListeners('console');
    page.removeAllListeners('request');
    const host = `http://127.0.0.1:${outside.address().port}/`;
    seen.sent = await page.evaluate(async (url) => {
      const attempts = {
        fetch: () => fetch(url, { mode: 'no-cors' }),
        beacon: async () => { // its answer only says that it was queued
          navigator.sendBeacon(url, 'x');
          throw new Error('unknown');
        },
        picture: () => new Promise((resolve, reject) => {
          const picture = new Image();
          picture.onload = resolve;
          picture.onerror = reject;
          picture.src = url;
        }),
        worker: () => new Promise((resolve, reject) => {
          const source = `fetch(${JSON.stringify(url)}, {mode: 'no-cors'}).then(
            () => postMessage(true), () => postMessage(false))`;
          const worker = new Worker(URL.createObjectURL(new Blob([source])));
          worker.onmessage = ({ data }) => (data ? resolve() : reject(new Error('refused')));
          worker.onerror = reject;
        }),
      };
      const worked = [];
      for (const [name, attempt] of Object.entries(attempts)) {
        await attempt().then(() => worked.push(name), () => {});
      }
      return worked;
    }, host);
    await new Promise((resolve) => setTimeout(resolve, 500));
    seen.received = received;
  };

  const useCamera = async () => {
    await page.click('#camera');
    await said('pictures a second');
    await page.click('#camera');
    await page.waitForSelector('#camera[aria-pressed=false]');
  };

  await page.goto(address);
  if (build) {
    await page.$eval('#build', (select) => { select.closest('details').open = true; });
    await page.select('#build', build);
  }
  seen.isolated = await page.evaluate('crossOriginIsolated');
  await page.screenshot({ path: path.join(output, 'start.png') });
  await (await page.$('#choose')).uploadFile(photo);
  await said('first run');
  if (!brief) await useControls();
  await page.type('#device', 'headless');
  await page.click('#save');
  await saved;
  if (!brief) {
    await look();
    await tryToSend();
    await useCamera();
  }
} finally {
  await writeFile(path.join(output, 'seen.json'), JSON.stringify(seen, null, 1));
  await browser.close();
  outside.close();
}
