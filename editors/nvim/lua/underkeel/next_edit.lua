--- Next edits: request the change that follows, show it, jump to it, accept or reject it.
---
--- Requested when the user pauses and no ghost text shows. Nothing moves by itself: <Tab> jumps to an
--- edit that is off the screen or in another file, and accepts one that is visible.
local M = {}
local H = {}

local display = require('underkeel.display')
local server = require('underkeel.server')

M.METHOD = 'textDocument/copilotInlineEdit'
M.ACCEPT = 'underkeel.acceptNextEdit'
M.REJECT = 'underkeel.rejectNextEdit'

--- Wait this long after the last change, in milliseconds.
M.PAUSE_MS = 300

--- Send diagnostics of so many lines before and after the cursor.
M.NEAR_LINES = 40

--- Follow the changes of all buffers. Called once by setup.
function M.setup()
  local group = vim.api.nvim_create_augroup('UnderkeelNextEdit', { clear = true })
  local function on(events, desc, callback)
    vim.api.nvim_create_autocmd(events, { group = group, desc = desc, callback = callback })
  end
  on({ 'TextChanged', 'TextChangedI', 'TextChangedP' }, 'Request a next edit after a pause', M.changed)
  on({ 'BufLeave' }, 'Remove the next edit', M.clear)
  on({ 'CompleteChanged' }, 'Remove the next edit beside the popup menu', vim.schedule_wrap(M.clear))
end

--- The text has changed: the edit on the screen no longer fits, and another may follow.
function M.changed()
  if H.shown and H.shown.tick == vim.api.nvim_buf_get_changedtick(H.shown.buf) then
    return
  end
  M.clear()
  H.generation = H.generation + 1
  local generation = H.generation
  vim.defer_fn(function()
    if generation == H.generation then
      H.request(generation)
    end
  end, M.PAUSE_MS)
end

--- Whether a next edit is on the screen.
function M.visible()
  return H.shown ~= nil
end

--- Remove the next edit and its keys.
function M.clear()
  local shown = H.shown
  H.shown = nil
  if not shown then
    return
  end
  for _, buf in ipairs({ shown.buf, shown.origin }) do
    if vim.api.nvim_buf_is_valid(buf) then
      vim.api.nvim_buf_clear_namespace(buf, H.namespace, 0, -1)
    end
  end
  for _, mode in ipairs({ 'n', 'i' }) do
    for key, old in pairs(shown.keys[mode]) do
      pcall(vim.keymap.del, mode, key, { buffer = shown.origin })
      if not vim.tbl_isempty(old) and vim.api.nvim_buf_is_valid(shown.origin) then
        vim.api.nvim_buf_call(shown.origin, function()
          vim.fn.mapset(mode, false, old)
        end)
      end
    end
  end
end

--- Jump to an edit that is not visible; apply one that is, as one undo step.
---
---@return boolean done false where no edit is shown
function M.accept()
  local shown = H.shown
  if not shown or vim.api.nvim_buf_get_changedtick(shown.buf) ~= shown.tick then
    return false
  end
  if not H.is_visible(shown) then
    H.jump(shown)
    return true
  end
  if not vim.bo[shown.buf].modifiable then
    return false
  end
  M.clear()
  if vim.fn.mode():sub(1, 1) == 'i' then
    vim.cmd('let &g:undolevels = &g:undolevels') -- what was typed before is an undo step of its own
  end
  local edit = { range = shown.edit.range, newText = shown.edit.text }
  vim.lsp.util.apply_text_edits({ edit }, shown.buf, shown.client.offset_encoding)
  local command = shown.edit.command
  if command then
    server.execute(shown.client, command.command, command.arguments, nil, shown.buf)
  end
  return true
end

--- Remove the edit; the server does not offer it again.
---
---@return boolean done false where no edit is shown
function M.reject()
  local shown = H.shown
  M.clear()
  if shown and shown.edit.command then
    server.execute(shown.client, M.REJECT, shown.edit.command.arguments, nil, shown.buf)
  end
  return shown ~= nil
end

-- State -----------------------------------------------------------------------------------------

H.namespace = vim.api.nvim_create_namespace('underkeel.next_edit')
H.generation = 0
H.shown = nil -- { edit, client, buf, origin, tick, keys }

-- Requests --------------------------------------------------------------------------------------

--- Whether a next edit may show now: it gives way to ghost text, completion menus and snippets.
function H.may_show(buf)
  local mode = vim.api.nvim_get_mode().mode
  return (mode == 'n' or mode == 'i')
    and vim.bo[buf].buftype == ''
    and vim.bo[buf].modifiable
    and require('underkeel').is_enabled(buf)
    and vim.fn.pumvisible() == 0
    and not require('underkeel').is_visible()
    and not (vim.snippet and vim.snippet.active())
end

--- What is shown as wrong near the cursor, as hints for a model.
function H.diagnostics(buf)
  local row = vim.api.nvim_win_get_cursor(0)[1] - 1
  local found = vim.tbl_filter(function(one)
    return math.abs(one.lnum - row) <= M.NEAR_LINES
  end, vim.diagnostic.get(buf))
  return vim.tbl_map(function(one)
    local at = { line = one.lnum, character = one.col }
    return { range = { start = at, ['end'] = at }, message = one.message, severity = one.severity }
  end, vim.list_slice(found, 1, 20))
end

function H.request(generation)
  local buf = vim.api.nvim_get_current_buf()
  local client = H.may_show(buf) and server.client(buf) or nil
  local provider = client and client.server_capabilities.executeCommandProvider
  if not provider or not vim.tbl_contains(provider.commands or {}, M.ACCEPT) then
    return
  end
  local tick = vim.api.nvim_buf_get_changedtick(buf)
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.textDocument.version = vim.lsp.util.buf_versions[buf]
  params.context = { diagnostics = H.diagnostics(buf) }
  server.request(client, M.METHOD, params, function(err, result)
    local edit = not err and type(result) == 'table' and (result.edits or {})[1]
    local same = vim.api.nvim_get_current_buf() == buf and vim.api.nvim_buf_get_changedtick(buf) == tick
    if edit and same and generation == H.generation and H.may_show(buf) then
      H.show(client, buf, edit)
    end
  end, buf)
end

-- Showing ---------------------------------------------------------------------------------------

function H.show(client, origin, edit)
  local buf = vim.uri_to_bufnr(edit.textDocument.uri)
  vim.fn.bufload(buf)
  M.clear()
  H.shown = {
    edit = edit,
    client = client,
    buf = buf,
    origin = origin,
    tick = vim.api.nvim_buf_get_changedtick(buf),
    keys = H.map(origin),
  }
  H.draw(H.shown)
  server.notify(client, 'textDocument/didShowInlineEdit', { item = { command = edit.command } })
end

function H.map(buf)
  local function action(run)
    return function(key)
      if not run() then
        M.clear()
        display.press(key, true)
      end
    end
  end
  local config = require('underkeel').config.mappings
  local wanted = {
    n = { [config.accept] = { M.accept, 'Jump to or accept the next edit' }, ['<Esc>'] = { M.reject, 'Reject the next edit' } },
    i = { [config.accept] = { M.accept, 'Jump to or accept the next edit' }, [config.dismiss] = { M.reject, 'Reject the next edit' } },
  }
  local replaced = { n = {}, i = {} }
  for mode, keys in pairs(wanted) do
    for key, known in pairs(keys) do
      if key ~= '' then
        local old = vim.fn.maparg(key, mode, false, true)
        replaced[mode][key] = old.buffer == 1 and old or {}
        local run = action(known[1])
        vim.keymap.set(mode, key, function()
          run(key)
        end, { buffer = buf, desc = known[2] .. ' (Underkeel)' })
      end
    end
  end
  return replaced
end

function H.is_visible(shown)
  local line = shown.edit.range.start.line + 1
  return vim.api.nvim_get_current_buf() == shown.buf and line >= vim.fn.line('w0') and line <= vim.fn.line('w$')
end

--- Go to the edit, with the old position in the jump list, and show it there.
function H.jump(shown)
  M.clear()
  vim.cmd("normal! m'")
  if vim.api.nvim_get_current_buf() ~= shown.buf then
    vim.api.nvim_set_current_buf(shown.buf)
  end
  vim.api.nvim_win_set_cursor(0, { shown.edit.range.start.line + 1, H.column(shown, 'start') })
  H.shown = vim.tbl_extend('force', shown, { origin = shown.buf, keys = H.map(shown.buf) })
  H.draw(H.shown)
end

function H.column(shown, side)
  local position = shown.edit.range[side]
  local line = vim.api.nvim_buf_get_lines(shown.buf, position.line, position.line + 1, false)[1] or ''
  return server.byte_column(shown.client, line, position.character)
end

--- A short replacement inside its line; several lines below it; a hint where it is off the screen.
function H.draw(shown)
  local first, last = shown.edit.range.start.line, shown.edit.range['end'].line
  if not H.is_visible(shown) then
    local name = shown.buf ~= shown.origin and vim.fs.basename(vim.api.nvim_buf_get_name(shown.buf)) .. ':' or 'line '
    local row = vim.api.nvim_win_get_cursor(0)[1] - 1
    local hint = (' %s next edit: %s%d'):format(require('underkeel').config.mappings.accept, name, first + 1)
    vim.api.nvim_buf_set_extmark(shown.origin, H.namespace, row, 0, {
      virt_text = { { hint, 'UnderkeelCounter' } },
      virt_text_pos = 'eol',
    })
    return
  end
  local from, to = H.column(shown, 'start'), H.column(shown, 'end')
  if first ~= last or from ~= to then
    local count = vim.api.nvim_buf_line_count(shown.buf)
    vim.api.nvim_buf_set_extmark(shown.buf, H.namespace, first, from, {
      end_row = math.min(last, count - 1),
      end_col = last < count and to or 0,
      hl_group = 'UnderkeelEditOld',
    })
  end
  local new = vim.split(shown.edit.text, '\r?\n')
  if #new == 1 then
    if new[1] ~= '' then
      vim.api.nvim_buf_set_extmark(shown.buf, H.namespace, first == last and last or first, to, {
        virt_text = { { new[1], 'UnderkeelEditNew' } },
        virt_text_pos = 'inline',
      })
    end
    return
  end
  local below = {}
  for _, line in ipairs(H.result_lines(shown, new, from, to)) do
    below[#below + 1] = { { line, 'UnderkeelEditNew' } }
  end
  local whole = from == 0 and to == 0 and first == last
  local row = math.min(last, vim.api.nvim_buf_line_count(shown.buf) - 1)
  if to == 0 and last > first then
    row = last - 1 -- the range ends where the line after it begins
  end
  vim.api.nvim_buf_set_extmark(shown.buf, H.namespace, row, 0, { virt_lines = below, virt_lines_above = whole and first > 0 })
end

--- The lines that the edit touches as they will be, without those that it leaves alone.
function H.result_lines(shown, new, from, to)
  local range = shown.edit.range
  local function line_at(row)
    return vim.api.nvim_buf_get_lines(shown.buf, row, row + 1, false)[1] or ''
  end
  local old = line_at(range.start.line)
  local result = vim.deepcopy(new)
  result[1] = old:sub(1, from) .. result[1]
  if to == 0 and result[#result] == '' then
    table.remove(result)
  else
    result[#result] = result[#result] .. line_at(range['end'].line):sub(to + 1)
  end
  if #result > 1 and result[1] == old then
    table.remove(result, 1)
  end
  return vim.tbl_map(function(line)
    return (line:gsub('\t', (' '):rep(vim.bo[shown.buf].tabstop)))
  end, result)
end

return M
