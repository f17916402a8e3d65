// Checks `rust-version` in Cargo.toml: no dependency on any platform may ask for a newer Rust.
//
//   cargo metadata --locked --format-version 1 >FILE; node tools/rust-version.mjs FILE
//
// Exit status: 0 if that holds; 1 if it does not, with the crates that ask for more; 2 usage.

import { readFileSync } from 'node:fs';

if (process.argv.length !== 3) {
  console.error('usage: node tools/rust-version.mjs FILE (the output of cargo metadata)');
  process.exit(2);
}
const { packages, resolve } = JSON.parse(readFileSync(process.argv[2], 'utf8'));

/** "1.88" and "1.88.0" are the same version. */
const number = (version) => version.split('.').reduce((sum, part, i) => sum + Number(part) * 1000 ** (2 - i), 0);
const list = (crates) => crates.map((crate) => `${crate.name} ${crate.version} (${crate.rust_version})`).join(', ');

const own = packages.find((crate) => crate.id === resolve.root);
const others = packages.filter((crate) => crate.id !== resolve.root && crate.rust_version);
const newer = others.filter((crate) => number(crate.rust_version) > number(own.rust_version));
if (newer.length > 0) {
  console.error(`Cargo.toml says rust-version ${own.rust_version}, but a newer Rust is needed by ${list(newer)}`);
  process.exit(1);
}
const highest = Math.max(...others.map((crate) => number(crate.rust_version)));
const asking = others.filter((crate) => number(crate.rust_version) === highest);
console.log(`rust-version ${own.rust_version}: enough for all ${packages.length - 1} dependencies; most is asked by ${list(asking)}`);
