// Compiles WGSL files with Tint, the strictest of the WGSL compilers: what browsers built on Chromium run.
//
//   node tools/tint.mjs PATH...          files, or directories searched for *.wgsl
//
// Dawn comes from the npm package `webgpu` (tools/setup installs it). Its null backend needs no driver and no GPU; it runs
// WebGPU's whole validation: the module, the uniformity analysis, overrides, workgroup size and memory, bindings against
// the limits. The device has the default limits of WebGPU, so that what passes runs on every WebGPU device, and the
// features shader-f16 and subgroups, which a file must still ask for by `enable`.
//
// Each file is compiled as a module and as a compute pipeline of layout "auto". A file NAME.json beside NAME.wgsl may hold
// {"entry": "main", "constants": {"TILE": 64}}: the entry point (else the module's only one) and the overrides' values.
//
// Exit status: 0 all passed; 1 a file failed, or there was none; 2 usage, or Dawn is not there.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

const FEATURES = ['shader-f16', 'subgroups'];

// These must fail. They run first, because a validator that does nothing would pass everything.
const CANARIES = [
  {
    name: 'a barrier in non-uniform control flow',
    code: `@compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { if i < 7u { workgroupBarrier(); } }`,
  },
  {
    name: 'more workgroup memory than the limit, through an override',
    code: `override N: u32 = 4; var<workgroup> t: array<f32, N>;
           @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) { t[i % N] = 1.0; }`,
    constants: { N: 4097 },
  },
  {
    name: 'an override that the module does not declare',
    code: `override N: u32 = 4; @compute @workgroup_size(N) fn main() {}`,
    constants: { M: 4 },
  },
  { name: 'f16 without `enable f16;`', code: `@compute @workgroup_size(1) fn main() { var x: f16 = 1.0h; x += x; }` },
];

/** Every .wgsl file the arguments name, sorted. */
function filesOf(paths) {
  const found = [];
  const walk = (path) => {
    if (statSync(path).isDirectory()) {
      for (const name of readdirSync(path)) {
        const inner = join(path, name);
        if (name.endsWith('.wgsl') || statSync(inner).isDirectory()) walk(inner);
      }
    } else {
      found.push(path);
    }
  };
  paths.forEach(walk);
  return found.sort();
}

/** The module and its sidecar. */
function load(path) {
  const code = readFileSync(path, 'utf8');
  const sidecar = path.replace(/\.wgsl$/, '.json');
  if (sidecar === path || !existsSync(sidecar)) return { code };
  const { entry, constants = {} } = JSON.parse(readFileSync(sidecar, 'utf8'));
  for (const [name, value] of Object.entries(constants)) {
    if (typeof value !== 'number' && typeof value !== 'boolean') throw new Error(`${sidecar}: ${name} is not a number`);
    constants[name] = Number(value);
  }
  return { code, entry, constants };
}

/** Compiles one module and its pipeline: what Tint said, one string each. */
async function compile(device, { code, entry, constants }) {
  const lines = code.split('\n');
  const errors = [];
  const warnings = [];
  const say = (m) => {
    const where = m.lineNum ? `line ${m.lineNum}:${m.linePos}: ` : '';
    const source = m.lineNum ? `\n      ${(lines[m.lineNum - 1] ?? '').trim()}` : '';
    return `${m.type}: ${where}${m.message.trim()}${source}`;
  };

  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  for (const message of (await module.getCompilationInfo()).messages) {
    (message.type === 'error' ? errors : warnings).push(say(message));
  }
  const invalid = await device.popErrorScope();
  if (invalid && errors.length === 0) errors.push(`error: ${invalid.message.trim()}`);
  if (errors.length > 0) return { errors, warnings };

  const compute = { module, constants };
  if (entry !== undefined) compute.entryPoint = entry;
  try {
    await device.createComputePipelineAsync({ layout: 'auto', compute });
  } catch (e) {
    errors.push(`error: no pipeline${entry ? ` for ${entry}` : ''}: ${String(e?.message ?? e).trim()}`);
  }
  return { errors, warnings };
}

function giveUp(message) {
  console.error(`tint: ${message}`);
  process.exit(2);
}

/** Dawn's null backend with all of FEATURES, or the end: nothing is skipped for want of a feature. */
async function open() {
  let dawn;
  try {
    dawn = await import('webgpu');
  } catch (e) {
    giveUp(`the npm package webgpu does not load (run tools/setup): ${e.message}`);
  }
  Object.assign(globalThis, dawn.globals);
  const gpu = dawn.create(['backend=null']);
  const adapter = await gpu.requestAdapter();
  if (!adapter) giveUp('Dawn has no null adapter');
  const missing = FEATURES.filter((f) => !adapter.features.has(f));
  if (missing.length > 0) giveUp(`Dawn's null adapter lacks ${missing.join(', ')}`);
  const device = await adapter.requestDevice({ requiredFeatures: FEATURES });
  return { gpu, device };
}

async function main(args) {
  if (args.length === 0 || args[0].startsWith('-')) giveUp('usage: node tools/tint.mjs PATH...');
  const absent = args.filter((path) => !existsSync(path));
  if (absent.length > 0) giveUp(`no such file or directory: ${absent.join(', ')}`);
  const files = filesOf(args);
  if (files.length === 0) {
    console.error(`tint: no .wgsl file under ${args.join(', ')}`);
    return 1;
  }

  const { gpu, device } = await open();
  for (const canary of CANARIES) {
    const { errors } = await compile(device, canary);
    if (errors.length === 0) giveUp(`this Dawn accepts ${canary.name}: it judges nothing`);
  }

  let failed = 0;
  for (const path of files) {
    let said;
    try {
      said = await compile(device, load(path));
    } catch (e) {
      said = { errors: [`error: ${e.message}`], warnings: [] };
    }
    if (said.errors.length > 0) failed += 1;
    if (said.errors.length + said.warnings.length > 0) {
      console.log(`${said.errors.length > 0 ? 'FAIL' : 'warn'} ${path}`);
      for (const line of [...said.errors, ...said.warnings]) console.log(`    ${line}`);
    }
  }
  device.destroy();
  void gpu; // Dawn lives as long as this object

  if (failed > 0) {
    console.log(`${failed} of ${files.length} shaders failed Tint`);
    return 1;
  }
  console.log(`${files.length} shaders passed Tint`);
  return 0;
}

process.exit(await main(process.argv.slice(2)));
