--- The server's last status, for statuslines and `:Underkeel status`.
local M = {}
local H = {}

--- Listen to work-done progress, which reports loading before `underkeel/status` does.
function M.setup()
  local group = vim.api.nvim_create_augroup('UnderkeelStatus', { clear = true })
  vim.api.nvim_create_autocmd('LspAttach', {
    group = group,
    desc = 'Show in the statusline that the language server runs',
    callback = function(args)
      local client = vim.lsp.get_client_by_id(args.data.client_id)
      if client and client.name == require('underkeel.server').NAME then
        H.on_start()
      end
    end,
  })
  vim.api.nvim_create_autocmd('LspProgress', {
    group = group,
    desc = 'Show the progress of loading the model in the statusline',
    callback = function(args)
      local client = vim.lsp.get_client_by_id(args.data.client_id)
      local value = (args.data.params or args.data.result or {}).value
      if client and client.name == require('underkeel.server').NAME and type(value) == 'table' then
        H.on_progress(value)
      end
    end,
  })
end

--- Store a `Status` and redraw statuslines.
function M.set(status)
  H.told = true
  H.change(status)
end

function H.change(status)
  local waited = H.status.state == 'loading' or H.status.state == 'starting'
  H.status = H.without_null(status)
  vim.schedule(function()
    if waited and (H.status.state == 'ready' or H.status.state == 'busy') then
      require('underkeel.ghost').retry()
      require('underkeel.native').retry()
    end
    vim.api.nvim_exec_autocmds('User', { pattern = 'UnderkeelStatus', modeline = false })
    vim.cmd('redrawstatus!')
  end)
end

---@return table `Status` of editors/PROTOCOL.md
function M.get()
  return vim.deepcopy(H.status)
end

function M.on_exit(code, signal)
  local failed = code ~= 0 or signal ~= 0
  H.told = false
  H.change({
    state = failed and 'error' or 'off',
    message = failed and ('the language server exited (code %d, signal %d)'):format(code, signal) or '',
  })
end

--- A few characters for a statusline.
---
---@param enabled boolean whether ghost text is on in the current buffer
function M.line(enabled)
  local status = H.status
  if status.state == 'error' then
    return 'underkeel: error'
  elseif status.state == 'loading' or status.state == 'starting' then
    -- No percent sign: statusline plugins would read it as the start of an item.
    local part = status.progress and (' %d/100'):format(status.progress * 100) or ''
    return 'underkeel: ' .. status.state .. part
  elseif not enabled or status.state == 'off' then
    return 'underkeel: off'
  elseif status.state == 'idle' then
    return 'underkeel: idle'
  end
  local budget = status.budget
  if type(budget) == 'table' and budget.level > 0 then
    return ('underkeel: %d tokens'):format(budget.tokens)
  end
  return 'underkeel'
end

--- The whole status as lines of text.
---
---@return string[]
function M.lines()
  local status = H.status
  local lines = { 'state    ' .. status.state }
  local function add(name, value, format, ...)
    if value ~= nil and value ~= '' then
      -- Names, reasons and errors come from files and servers: a buffer's line may hold no line end.
      lines[#lines + 1] = ('%-8s '):format(name) .. (format:format(...):gsub('%c+', ' '))
    end
  end
  local gib = function(bytes)
    return (bytes or 0) / 2 ^ 30
  end
  local budget, vram, kv = status.budget or {}, status.vram or {}, status.kv or {}
  add('message', status.message, '%s', status.message)
  add('model', status.model, '%s', status.model)
  add('budget', status.budget, '%s tokens, level %s', budget.tokens, budget.level)
  add('reason', budget.reason, '%s', budget.reason)
  local prompt, ladder = status.prompt or {}, status.ladder or {}
  add('prompt', status.prompt, '%s of %s tokens', prompt.tokens, prompt.budgetTokens)
  if prompt.cut and #prompt.cut > 0 then
    add('omitted', prompt.cut, '%s', table.concat(prompt.cut, ', '))
  end
  add('reduced', status.ladder, '%s: %s', ladder.gaveUp, ladder.reason)
  add('VRAM', status.vram, '%.1f GiB used, %.1f GiB free', gib(vram.usedBytes), gib(vram.freeBytes))
  add('KV', status.kv, '%s of %s tokens', kv.usedTokens, kv.totalTokens)
  add('cache', status.cacheHits, '%.0f %% of prompt tokens', (status.cacheHits or 0) * 100)
  add('speed', status.tokensPerSecond, '%.1f tokens/s', status.tokensPerSecond)
  return lines
end

-- Helpers ---------------------------------------------------------------------------------------

H.status = { state = 'off', message = '' }
H.told = false -- whether the running server has sent a status

--- A copy without JSON's null, at any depth.
function H.without_null(value)
  if type(value) ~= 'table' then
    return value ~= vim.NIL and value or nil
  end
  local out = {}
  for key, item in pairs(value) do
    out[key] = H.without_null(item)
  end
  return out
end

--- The language server runs; it sends a status once it is connected to the daemon.
function H.on_start()
  if not H.told then
    H.change({ state = 'idle', message = 'the model is loaded with the first request' })
  end
end

function H.on_progress(value)
  local state = H.status.state
  if value.kind == 'end' then
    if state == 'loading' or state == 'starting' then
      M.set(vim.tbl_extend('force', H.status, { state = 'ready', progress = vim.NIL, message = '' }))
    end
  elseif state ~= 'ready' and state ~= 'busy' then
    M.set({
      state = 'loading',
      message = value.message or value.title or '',
      progress = value.percentage and value.percentage / 100 or nil,
    })
  end
end

return M
