// Validate a GLB with the Khronos validator: node tools/validate_glb.mjs model.glb [folder of node_modules]
// Prints the validator's report as JSON; exit code 1 on any error or warning, 2 when it cannot run.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [file, packages = ".cache/node"] = process.argv.slice(2);
let validator;
try {
  validator = createRequire(resolve(packages, "package.json"))("gltf-validator");
} catch {
  console.error(`gltf-validator is not installed in ${packages}: run npm install --prefix ${packages} gltf-validator.`);
  process.exit(2);
}
const report = await validator.validateBytes(new Uint8Array(await readFile(file)));
console.log(JSON.stringify(report, null, 2));
process.exit(report.issues.numErrors + report.issues.numWarnings > 0 ? 1 : 0);
