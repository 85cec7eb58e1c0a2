-- wrk's script: borrow and return, or renew, or get. Statuses are counted, and printed at the end.
-- Arguments: what to do, with what (names or paths, separated by commas), the callers as
-- user=token (the token may be empty), and how each Idempotency-Key begins (or nothing).

local threads = {}
local KEY, LEASE = "KEY-00000000", "00000000-0000-0000-0000-000000000000"

function setup(thread)
  table.insert(threads, thread)
end

local function split(text)
  local parts = {}
  for part in string.gmatch(text, "[^,]+") do
    table.insert(parts, part)
  end
  return parts
end

-- The text before and after a mark, so that a request is made once and then only filled in.
local function around(text, mark)
  local first, last = string.find(text, mark, 1, true)
  return string.sub(text, 1, first - 1), string.sub(text, last + 1)
end

local function headers_of(caller)
  local headers = { ["Content-Type"] = "application/json" }
  if caller.token ~= "" then
    headers["Authorization"] = "Bearer " .. caller.token
  end
  return headers
end

function init(args)
  what, things, callers, key = args[1], split(args[2]), {}, args[4] or ""
  by_user, leases, statuses, turn = {}, {}, {}, 0
  for _, pair in ipairs(split(args[3])) do
    local user, token = string.match(pair, "^([^=]*)=(.*)$")
    local caller = { user = user, token = token, borrows = {} }
    local body = '{"id":"' .. LEASE .. '"}'
    caller.before, caller.after = around(wrk.format("POST", "/licenses/return", headers_of(caller), body), LEASE)
    table.insert(callers, caller)
    by_user[user] = caller
  end
  if what == "renew" or what == "get" then
    requests = {}
    for number, thing in ipairs(things) do
      local headers = headers_of(callers[(number - 1) % #callers + 1])
      if what == "get" then
        requests[number] = wrk.format("GET", thing, headers)
      else
        requests[number] = wrk.format("POST", "/licenses/renew", headers, '{"id":"' .. thing .. '"}')
      end
    end
  end
end

local function borrow(tool, caller)
  local made = caller.borrows[tool]
  if not made then
    local headers = headers_of(caller)
    if key ~= "" then
      headers["Idempotency-Key"] = KEY
    end
    local text = wrk.format("POST", "/licenses/borrow", headers, '{"tool":"' .. tool .. '","user":"' .. caller.user .. '"}')
    made = key == "" and { text } or { around(text, KEY) }
    caller.borrows[tool] = made
  end
  if key == "" then
    return made[1]
  end
  return made[1] .. key .. string.format("%08d", turn) .. made[2]
end

function request()
  if requests then
    turn = turn % #requests + 1
    return requests[turn]
  end
  local lease = table.remove(leases)
  if lease then
    return lease.caller.before .. lease.id .. lease.caller.after
  end
  turn = turn + 1
  return borrow(things[turn % #things + 1], callers[turn % #callers + 1])
end

function response(status, _, body)
  statuses[status] = (statuses[status] or 0) + 1
  if status == 200 and not requests then
    local id = string.match(body, '^{"id": ?"([^"]+)"')
    if id then
      local caller = #callers == 1 and callers[1] or by_user[string.match(body, '"user": ?"([^"]*)"')]
      table.insert(leases, { id = id, caller = caller })
    end
  end
end

function done()
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      print("status " .. status .. " " .. count)
    end
  end
end
