-- Prints what wrk counted as one line of JSON. Given a word, adds users whose addresses begin with it.

local function add_users_called(word)
   local added = 0
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   request = function()
      added = added + 1
      return wrk.format(nil, nil, nil, string.format('{"username":"%s","email":"%s-%d@example.org"}', word, word, added))
   end
end

function init(arguments)
   if arguments[1] then add_users_called(arguments[1]) end
end

function done(summary, latency, requests)
   local wrong = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p50_ms": %f, "p99_ms": %f}\n',
      summary.requests, summary.duration / 1e6, wrong.status, wrong.connect + wrong.read + wrong.write + wrong.timeout,
      latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
