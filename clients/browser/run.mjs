// Opens a page of this folder in headless Chromium and saves the mask that it computes.
//
// node run.mjs litertjs|mediapipe MODEL.tflite PICTURE.png MASK.bin
//
// Nothing is fetched from outside: a server on this machine gives the page, the packages,
// the model and the picture.

import { readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import puppeteer from 'puppeteer-core';

import { browserPath } from './browser.mjs';

const FOLDER = path.dirname(fileURLToPath(import.meta.url));
const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.png': 'image/png',
};
const TIME_LIMIT_MS = 120_000;

function serve(special) {
  const server = createServer(async (request, response) => {
    const name = new URL(request.url, 'http://localhost').pathname;
    const file = special[name] ?? path.join(FOLDER, path.normalize(name));
    try {
      const content = await readFile(file);
      response.setHeader('Content-Type', TYPES[path.extname(file)] ?? 'application/octet-stream');
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
      response.end(content);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

const [client, model, picture, mask] = process.argv.slice(2);
const server = await serve({ '/model.tflite': model, '/picture.png': picture });
const browser = await puppeteer.launch({
  executablePath: browserPath(),
  args: ['--no-sandbox', '--use-angle=swiftshader', '--enable-unsafe-swiftshader'],
  protocolTimeout: TIME_LIMIT_MS,
});
try {
  const page = await browser.newPage();
  page.on('pageerror', (error) => console.error(String(error)));
  await page.goto(`http://127.0.0.1:${server.address().port}/${client}.html`);
  await page.waitForFunction('window.finished !== undefined', { timeout: TIME_LIMIT_MS });
  const values = await page.evaluate('window.finished');
  await writeFile(mask, Uint8Array.from(values));
} finally {
  await browser.close();
  server.close();
}
