// Keep seats until the end of the job: `node keep.js FOLDER` is the command of `license run`. With
// the command line of `license run` behind FOLDER it starts that, and writes down how it ended.
"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const [folder, program, ...command] = process.argv.slice(2);

// In one step, so that nobody reads half of it.
function write(name, text) {
  fs.writeFileSync(path.join(folder, `${name}.new`), text);
  fs.renameSync(path.join(folder, `${name}.new`), path.join(folder, name));
}

if (program) {
  const client = spawn(program, command, { stdio: "inherit" });
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => client.kill(signal));
  client.on("error", (error) => {
    console.error(`${program}: ${error.message}`);
    write("code", "127");
    process.exit(127);
  });
  client.on("exit", (code) => {
    write("code", String(code ?? 1));
    process.exit(code ?? 1);
  });
} else {
  const names = ["LICENSE_LEASE_ID", "LICENSE_TOOL", "LICENSE_FENCE"];
  write("held.json", JSON.stringify(Object.fromEntries(names.map((name) => [name, process.env[name] || ""]))));
  setInterval(() => {
    if (fs.existsSync(path.join(folder, "end"))) process.exit(0);
  }, 200);
}
