-- wrk's script: one request again and again, and how it was answered.
-- Arguments: method, path, body (# becomes the request's number), headers as "Name: value".

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  method, path, body = args[1], args[2], args[3]
  headers = {}
  for number = 4, #args do
    local name, value = string.match(args[number], "^([^:]+): (.*)$")
    headers[name] = value
  end
  turn = math.random(0, 1000000) * 100000
  statuses = {}
end

function request()
  turn = turn + 1
  local numbered = string.gsub(body, "#", string.format("%d", turn))
  return wrk.format(method, path, headers, numbered ~= "" and numbered or nil)
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done()
  local all = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      all[status] = (all[status] or 0) + count
    end
  end
  for status, count in pairs(all) do
    io.write(string.format("status %d %d\n", status, count))
  end
end
