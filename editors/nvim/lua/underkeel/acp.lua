--- A client of the Agent Client Protocol: a process, and JSON-RPC messages, one on each line.
local M = {}
local H = {}

M.METHOD_NOT_FOUND = -32601
M.NOT_FOUND = -32002

---@class underkeel.Acp
---@field request fun(method: string, params: table, done: fun(err: table?, result: any))
---@field notify fun(method: string, params: table)
---@field stop fun()

--- Start an agent. All callbacks run in the main loop.
---
---@param cmd string[]
---@param on { request: fun(method: string, params: table, reply: fun(result: any, err: table?)),
---   notification: fun(method: string, params: table), exit: fun(code: integer, message: string) }
---@return underkeel.Acp? client nil where the program cannot be started
---@return string? problem
function M.start(cmd, on)
  local pending, next_id, errors, ended = {}, 1, '', false
  local reader = H.lines(H.MOST_BYTES)
  local process

  local function send(message)
    message.jsonrpc = '2.0'
    if not ended then
      pcall(process.write, process, vim.json.encode(message) .. '\n')
    end
  end

  local function receive(line)
    local ok, message = pcall(vim.json.decode, line, { luanil = { object = true, array = true } })
    if not ok or type(message) ~= 'table' then
      return
    elseif message.method and message.id ~= nil then
      local replied = false
      on.request(message.method, message.params or {}, function(result, err)
        if not replied then
          replied = true
          send(err and { id = message.id, error = err } or { id = message.id, result = result })
        end
      end)
    elseif message.method then
      on.notification(message.method, message.params or {})
    elseif pending[message.id] then
      local done = pending[message.id]
      pending[message.id] = nil
      done(message.error, message.result)
    end
  end

  local function exited(result)
    ended = true
    local waiting = pending
    pending = {}
    for _, done in pairs(waiting) do
      done({ code = -32000, message = 'the agent has ended' })
    end
    on.exit(result.code, vim.trim(errors))
  end

  local started, problem = pcall(vim.system, cmd, {
    stdin = true,
    -- Not the project: Python would import modules from there with `python -m`.
    cwd = vim.uv.os_homedir(),
    stdout = function(_, data)
      local lines = data and reader(data) or {}
      if #lines > 0 then
        vim.schedule(function()
          vim.iter(lines):each(receive)
        end)
      end
    end,
    stderr = function(_, data)
      errors = (errors .. (data or '')):sub(-2000)
    end,
  }, vim.schedule_wrap(exited))
  if not started then
    return nil, tostring(problem)
  end
  process = problem

  return {
    request = function(method, params, done)
      local id = next_id
      next_id = next_id + 1
      if ended then
        return done({ code = -32000, message = 'the agent has ended' })
      end
      pending[id] = done
      send({ id = id, method = method, params = params })
    end,
    notify = function(method, params)
      send({ method = method, params = params })
    end,
    stop = function()
      pcall(process.kill, process, 'sigterm')
    end,
  }
end

-- Helpers ---------------------------------------------------------------------------------------

H.MOST_BYTES = 50 * 1024 * 1024

--- A function that takes pieces of output and returns the lines that are complete by then.
---
---@param most_bytes integer longer lines are dropped
function H.lines(most_bytes)
  local parts, size = {}, 0
  return function(data)
    local lines, from = {}, 1
    while true do
      local at = data:find('\n', from, true)
      local part = data:sub(from, at and at - 1 or nil)
      size = size + #part
      parts[#parts + 1] = size <= most_bytes and part or nil
      if not at then
        return lines
      end
      if size <= most_bytes then
        lines[#lines + 1] = table.concat(parts)
      end
      parts, size, from = {}, 0, at + 1
    end
  end
end

return M
