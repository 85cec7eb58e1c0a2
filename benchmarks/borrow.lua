-- wrk's script: borrow a tool, return the lease, and so on. Statuses are
-- counted, and printed at the end.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  tools = {}
  for name in string.gmatch(args[1], "[^,]+") do
    table.insert(tools, name)
  end
  turn = 0
  leases = {}
  statuses = {}
  headers = { ["Content-Type"] = "application/json" }
end

function request()
  local lease = table.remove(leases)
  if lease then
    return wrk.format("POST", "/licenses/return", headers, '{"id":"' .. lease .. '"}')
  end
  turn = turn % #tools + 1
  return wrk.format("POST", "/licenses/borrow", headers, '{"tool":"' .. tools[turn] .. '","user":"bench"}')
end

function response(status, _, body)
  statuses[status] = (statuses[status] or 0) + 1
  if status == 200 then
    local lease = string.match(body, '^{"id":"([^"]+)"')
    if lease then
      table.insert(leases, lease)
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
