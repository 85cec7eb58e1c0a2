// Borrow seats with the client that lies in this repository, so that the action and the client
// have one version and nothing is downloaded. Only Node's own library is used.
//
// A keeper (keep.js) holds the seats after this step: it runs `license run`, which sends the
// heartbeats and returns the seats. Runners end it with the job, if post.js has not done so.
"use strict";

const { spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const windows = process.platform === "win32";

function input(name) {
  return (process.env[`INPUT_${name.toUpperCase()}`] || "").trim();
}

// The runner reads these files after the step.
function append(file, name, value) {
  const end = `end-${process.hrtime.bigint()}`;
  fs.appendFileSync(process.env[file], `${name}<<${end}${os.EOL}${value}${os.EOL}${end}${os.EOL}`);
}

function fail(message, code) {
  // A line end or a percent sign would end the command to the runner.
  const text = message.replace(/%/g, "%25").replace(/\r/g, "%0D").replace(/\n/g, "%0A");
  console.log(`::error::${text}`);
  process.exit(code);
}

// Make the command `license`, for this step and the next ones.
function install(folder) {
  const source = path.resolve(__dirname, "..", "..", "..", "client", "src");
  const python = process.env.LICENSE_PYTHON || (windows ? "python" : "python3");
  const starter = path.join(folder, "license.py");
  fs.writeFileSync(
    starter,
    `import sys\nsys.path.insert(0, ${JSON.stringify(source)})\n` +
      "from license_client.cli import main\nsys.exit(main())\n",
  );
  if (windows) {
    fs.writeFileSync(path.join(folder, "license.cmd"), `@"${python}" "${starter}" %*\r\n`);
  } else {
    const program = path.join(folder, "license");
    fs.writeFileSync(program, `#!/bin/sh\nexec "${python}" "${starter}" "$@"\n`, { mode: 0o755 });
  }
  fs.appendFileSync(process.env.GITHUB_PATH, folder + os.EOL);
  return [python, starter];
}

// `simulation:2 cad_tool` and lines with `or` become --tool and --or.
function wanted(text) {
  const options = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    if (word === "or") options.push("--or");
    else options.push("--tool", word);
  }
  return options;
}

function settings() {
  const values = {
    LICENSE_SERVER: input("server"),
    LICENSE_TOKEN: input("token"),
    LICENSE_USER: input("user") || process.env.GITHUB_REPOSITORY || "",
    LICENSE_TEAM: input("team"),
    LICENSE_PROJECT: input("project"),
  };
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value));
}

function main() {
  if (!input("server")) fail("Set the input server to the address of the license server.", 64);
  // GitHub masks its own secrets; the token may come from elsewhere.
  if (input("token")) console.log(`::add-mask::${input("token")}`);
  const folder = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP || os.tmpdir(), "license-"));
  const [python, starter] = install(folder);
  const variables = settings();
  const tools = wanted(input("tools"));
  const options = ["--wait", input("wait") || "30m", "--ttl", input("ttl") || "5m", "--on-lost", "kill"];
  const run = input("run");
  if (!tools.length) {
    if (run) fail("Set the input tools to the seats that the command needs.", 64);
    for (const [name, value] of Object.entries(variables)) {
      // The token stays out of the environment of other steps.
      if (name !== "LICENSE_TOKEN") append("GITHUB_ENV", name, value);
    }
    return;
  }
  const environment = { ...process.env, ...variables };
  const command = [starter, "run", ...tools, ...options, "--"];
  if (run) {
    const shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", run];
    const child = spawn(python, [...command, ...shell], { env: environment, stdio: "inherit" });
    // A canceled job gets SIGINT, then SIGTERM; the client passes them to the command and returns the seats.
    for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
    child.on("error", (error) => fail(`${python}: ${error.message}`, 127));
    child.on("exit", (code) => process.exit(code ?? 1));
    return;
  }
  hold(folder, python, command, environment);
}

// Start the keeper, and wait until it has the seats.
function hold(folder, python, command, environment) {
  const log = path.join(folder, "log");
  const out = fs.openSync(log, "a");
  const keep = [path.join(__dirname, "keep.js"), folder];
  const client = [python, ...command, process.execPath, ...keep];
  const keeper = spawn(process.execPath, [...keep, ...client], {
    env: environment,
    stdio: ["ignore", out, out],
    detached: true,
  });
  append("GITHUB_STATE", "folder", folder);
  append("GITHUB_STATE", "keeper", keeper.pid);
  let shown = 0;
  let over = null;
  keeper.on("exit", (code) => (over = code ?? 1));
  // The wait may be long: a canceled job leaves the queue.
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => keeper.kill(signal));
  const timer = setInterval(() => {
    const text = fs.readFileSync(log, "utf8");
    process.stdout.write(text.slice(shown));
    shown = text.length;
    const held = path.join(folder, "held.json");
    if (fs.existsSync(held)) {
      clearInterval(timer);
      append("GITHUB_STATE", "shown", shown);
      const lease = JSON.parse(fs.readFileSync(held, "utf8"));
      for (const [name, value] of Object.entries(lease)) append("GITHUB_ENV", name, value);
      append("GITHUB_OUTPUT", "lease", lease.LICENSE_LEASE_ID);
      console.log(`Holding lease ${lease.LICENSE_LEASE_ID} until the end of the job.`);
      keeper.unref();
      process.exit(0);
    } else if (over !== null) {
      clearInterval(timer);
      fail(text.trim() || "The license client ended without a lease.", over || 1);
    }
  }, 100);
}

main();
