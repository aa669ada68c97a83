// What the programs of this folder share: where Chromium is.

import { execFileSync } from 'node:child_process';

export function browserPath() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
    try {
      return execFileSync('which', [name], { encoding: 'utf8' }).trim();
    } catch {
      // not installed under this name
    }
  }
  throw new Error('no Chromium on the PATH; install it or set CHROMIUM');
}
