--- Ghost text: request suggestions as the user types, show one candidate, accept it whole, by word or
--- by line.
---
--- Only a suggestion for the current text and cursor is shown. A response for any other state is
--- dropped; a key that changes the state removes the ghost text, unless it typed its beginning.
local M = {}
local H = {}

local display = require('underkeel.display')
local server = require('underkeel.server')
local text = require('underkeel.text')

M.TRIGGER_INVOKED = 1
M.TRIGGER_AUTOMATIC = 2

--- How long after an empty response the same request is sent once more, in milliseconds.
M.REPEAT_MS = 500

--- Follow the cursor of all buffers. Called once by setup.
function M.setup()
  H.is_set_up = true
  local group = vim.api.nvim_create_augroup('UnderkeelGhost', { clear = true })
  local function on(events, desc, callback)
    vim.api.nvim_create_autocmd(events, { group = group, desc = desc, callback = callback })
  end
  on({ 'CursorMovedI', 'TextChangedI', 'TextChangedP' }, 'Update ghost text', M.update)
  -- At these events the mode or the popup menu is still the old one.
  on({ 'InsertEnter', 'CompleteChanged', 'CompleteDone' }, 'Update ghost text', vim.schedule_wrap(M.update))
  on({ 'InsertLeave', 'BufLeave', 'WinLeave' }, 'Remove ghost text', M.clear)
  on('LspAttach', 'Request ghost text for what was typed before the server started', function(args)
    local client = vim.lsp.get_client_by_id(args.data.client_id)
    if client and client.name == server.NAME then
      vim.schedule(M.retry)
    end
  end)
  on('LspDetach', 'Remove ghost text when the server ends', function(args)
    if H.shown and H.shown.client.id == args.data.client_id then
      M.clear()
    end
  end)
end

--- Make the ghost text fit the cursor: keep it, shorten it, or remove it and send a new request.
function M.update()
  local here = H.here()
  if here and H.seen and H.same(here, H.seen) then
    return
  end
  if here and H.follow(here) then
    return
  end
  M.clear()
  H.seen = here
  if here and H.config().ghost.auto then
    H.request(here, M.TRIGGER_AUTOMATIC)
  end
end

--- Show the longer form of a candidate, if it is still there.
---
---@param update table params of `underkeel/completionUpdate` (editors/PROTOCOL.md)
function M.on_update(update)
  local shown, here = H.shown, H.here({ force = true })
  -- Keys typed ahead reach this before any autocommand: catch up first.
  if not shown or not here or not (H.same(here, shown.at) or H.follow(here)) then
    return
  end
  shown = H.shown
  for index, candidate in ipairs(shown.candidates) do
    local longer = text.longer(candidate, update.item)
    if longer then
      H.reported[longer.item] = H.reported[candidate.item]
      shown.candidates[index] = longer
      if index == shown.index and longer.text ~= candidate.text then
        display.clear(here.buf)
        H.draw(shown)
      end
    end
  end
end

--- Repeat the request that was sent, or could not be sent, while the server was not ready.
function M.retry()
  if H.is_set_up and not H.shown and not H.pending then
    H.seen = nil
    M.update()
  end
end

--- Request several candidates now, even where ghost text does not appear by itself.
function M.trigger()
  local here = H.here({ force = true })
  if here then
    M.clear()
    H.seen, H.repeated = here, nil
    H.request(here, M.TRIGGER_INVOKED)
  end
end

--- Remove the ghost text and cancel the request.
function M.clear()
  if H.pending then
    server.cancel(H.pending.client, H.pending.id)
    H.pending = nil
  end
  H.generation = H.generation + 1
  H.seen = nil
  H.hide()
end

--- Remove the ghost text, and request none until the text or the cursor changes.
---
---@return boolean dismissed
function M.dismiss()
  local was = H.shown ~= nil
  local here = H.here({ force = true })
  M.clear()
  H.seen, H.repeated = here, here
  return was
end

--- Whether ghost text is on the screen.
function M.visible()
  return H.shown ~= nil
end

--- Insert the ghost text, or its first word or line.
---
---@param what 'all' | 'word' | 'line'
---@return boolean accepted false where no valid ghost text is shown
function M.accept(what)
  local here = H.here({ force = true })
  -- Keys typed ahead reach this before any autocommand: catch up first.
  if not here or not H.shown or not (H.same(here, H.shown.at) or H.follow(here)) then
    return false
  end
  local shown = H.shown
  local candidate = shown.candidates[shown.index]
  local piece = candidate.text
  if what ~= 'all' and candidate.replaced == 0 then
    piece = text[what](candidate.text)
  end
  if piece ~= '' and piece ~= candidate.text then
    H.accept_part(shown, candidate, piece)
  else
    H.accept_all(shown, candidate)
  end
  return true
end

--- Show another candidate; where only one is known, request more first.
---
---@param step integer 1 or -1
---@return boolean
function M.cycle(step)
  local shown, here = H.shown, H.here({ force = true })
  if not shown or not here or not H.same(here, shown.at) then
    return false
  end
  if #shown.candidates > 1 or shown.all_requested then
    local count = #shown.candidates
    H.show(shown.client, here, shown.candidates, (shown.index - 1 + step) % count + 1, true)
  else
    H.request(here, M.TRIGGER_INVOKED, { keep = shown.candidates[1], step = step })
  end
  return true
end

-- State -----------------------------------------------------------------------------------------

H.generation = 0
H.is_set_up = false -- stays so where Neovim's own inline completion serves
H.seen = nil -- the state of the last request or dismissal
H.pending = nil -- { client, id } of the open request
H.repeated = nil -- the state whose request was repeated after an empty response
H.shown = nil -- { at, line, lines, candidates, index, client, all_requested, replaced_keys }

function H.config()
  return require('underkeel').config
end

--- The state of text and cursor, or nil where ghost text must not show.
function H.here(opts)
  local buf = vim.api.nvim_get_current_buf()
  if vim.api.nvim_get_mode().mode:sub(1, 1) ~= 'i' or vim.bo[buf].buftype ~= '' then
    return nil
  end
  if not (opts and opts.force) then
    if not require('underkeel').is_enabled(buf) then
      return nil
    end
    if vim.fn.pumvisible() == 1 and not H.config().ghost.beside_menu then
      return nil
    end
  end
  local cursor = vim.api.nvim_win_get_cursor(0)
  if vim.api.nvim_get_current_line():sub(cursor[2], cursor[2]) == '\r' then
    return nil -- to the server this is inside the line end
  end
  return {
    buf = buf,
    tick = vim.api.nvim_buf_get_changedtick(buf),
    row = cursor[1] - 1,
    col = cursor[2],
  }
end

function H.same(a, b)
  return a.buf == b.buf and a.tick == b.tick and a.row == b.row and a.col == b.col
end

function H.line(here)
  return vim.api.nvim_buf_get_lines(here.buf, here.row, here.row + 1, false)[1] or ''
end

-- Requests --------------------------------------------------------------------------------------

---@param more? { keep: underkeel.Candidate, step: integer } show the new candidates after `keep`
function H.request(here, trigger, more)
  local client = server.client(here.buf)
  if not client or not client.server_capabilities.inlineCompletionProvider then
    return
  end
  if H.pending then
    server.cancel(H.pending.client, H.pending.id)
  end
  H.generation = H.generation + 1
  local generation = H.generation
  local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
  params.context = { triggerKind = trigger }
  local id = server.request(client, 'textDocument/inlineCompletion', params, function(err, result)
    if generation ~= H.generation then
      return
    end
    H.pending = nil
    local now = H.here({ force = true })
    if err or not now or not H.same(now, here) then
      return
    end
    H.on_response(client, here, result, trigger, more)
  end, here.buf)
  H.pending = id and { client = client, id = id } or nil
end

function H.on_response(client, here, result, trigger, more)
  local candidates = H.candidates(client, here, result)
  if #candidates == 0 and not more then
    return H.repeat_later(here, trigger)
  end
  local index = 1
  if more then
    candidates = H.merge(more.keep, candidates)
    index = (more.step % #candidates) + 1
  end
  H.show(client, here, candidates, index, trigger == M.TRIGGER_INVOKED)
end

--- Send a request with an empty response once more, if the state is still the same then: the server
--- may have been busy with another text (editors/PROTOCOL.md).
function H.repeat_later(here, trigger)
  vim.defer_fn(function()
    local now = H.here({ force = trigger == M.TRIGGER_INVOKED })
    local unchanged = now and H.same(now, here) and H.seen and H.same(H.seen, here)
    local done = H.repeated and H.same(H.repeated, here)
    if unchanged and not done and not H.shown and not H.pending then
      H.repeated = here
      H.request(here, trigger)
    end
  end, M.REPEAT_MS)
end

--- The candidates of a response that can be drawn here, without duplicates, in the server's order.
function H.candidates(client, here, result)
  if type(result) ~= 'table' then
    return {}
  end
  local line, found, known = H.line(here), {}, {}
  for _, item in ipairs(result.items or result) do
    local from, to = here.col, here.col
    if item.range then
      local start, finish = item.range.start, item.range['end']
      if start.line ~= here.row or finish.line ~= here.row then
        goto continue
      end
      from = server.byte_column(client, line, start.character)
      to = server.byte_column(client, line, finish.character)
    end
    local candidate = text.candidate(item, line, here.col, from, to)
    if candidate and not known[candidate.text] then
      known[candidate.text] = true
      found[#found + 1] = candidate
    end
    ::continue::
  end
  return found
end

--- The kept candidate first, then the others.
function H.merge(keep, candidates)
  local merged = { keep }
  for _, candidate in ipairs(candidates) do
    if candidate.text ~= keep.text then
      merged[#merged + 1] = candidate
    end
  end
  return merged
end

-- Showing ---------------------------------------------------------------------------------------

function H.show(client, here, candidates, index, all_requested)
  H.hide()
  H.seen = here
  local line = H.line(here)
  H.shown = {
    at = here,
    line = line,
    lines = vim.api.nvim_buf_line_count(here.buf),
    candidates = candidates,
    index = index,
    client = client,
    all_requested = all_requested,
    replaced_keys = display.map_keys(here.buf, H.config().mappings, H.ACTIONS, function(key)
      M.clear()
      display.press(key, true)
    end),
  }
  H.draw(H.shown)
  H.report_shown(client, candidates[index])
end

function H.draw(shown)
  local count = #shown.candidates
  local counter = count > 1 and (' %d/%d'):format(shown.index, count)
  display.draw(shown.at, shown.line, shown.candidates[shown.index], counter)
end

function H.hide()
  local shown = H.shown
  H.shown = nil
  if shown and vim.api.nvim_buf_is_valid(shown.at.buf) then
    display.clear(shown.at.buf)
    display.unmap_keys(shown.at.buf, shown.replaced_keys)
  end
end

--- Keep showing the rest of a candidate whose beginning was just typed.
---
---@return boolean followed false where something else was typed
function H.follow(here)
  local shown = H.shown
  if not shown or shown.at.buf ~= here.buf or shown.at.row ~= here.row or here.col <= shown.at.col then
    return false
  end
  local line, from = H.line(here), shown.at.col
  local typed = line:sub(from + 1, here.col)
  local untouched = shown.line:sub(1, from) .. typed .. shown.line:sub(from + 1) == line
  if not untouched or vim.api.nvim_buf_line_count(here.buf) ~= shown.lines then
    return false
  end
  local current = text.advance(shown.candidates[shown.index], typed)
  if not current then
    return false
  end
  local rest, index = {}, 1
  for position, candidate in ipairs(shown.candidates) do
    local left = text.advance(candidate, typed)
    rest[#rest + 1] = left
    index = position == shown.index and #rest or index
  end
  H.show(shown.client, here, rest, index, shown.all_requested)
  return true
end

-- Accepting -------------------------------------------------------------------------------------

--- Insert text at the cursor as a separate undo step, and move the cursor behind it.
---
---@param replaced integer bytes after the cursor that the text replaces
---@param skipped integer bytes after the cursor that the cursor moves over
function H.insert(at, piece, replaced, skipped)
  vim.cmd('let &g:undolevels = &g:undolevels') -- :help undo-break
  if replaced == 0 and not piece:find('\n', 1, true) then
    H.record_for_repeat(piece)
  end
  local lines = vim.split(piece, '\n', { plain = true })
  vim.api.nvim_buf_set_text(at.buf, at.row, at.col, at.row, at.col + replaced, lines)
  local row = at.row + #lines - 1
  local col = #lines[#lines] + skipped + (#lines == 1 and at.col or 0)
  vim.api.nvim_win_set_cursor(0, { row + 1, col })
end

--- Add text to what |.| repeats. |nvim_paste()| records the text, whatever its handler does with it.
--- Text of several lines is left out: a repeated line end would indent the next line once more.
function H.record_for_repeat(piece)
  local paste = vim.paste
  vim.paste = function()
    return true
  end
  pcall(vim.api.nvim_paste, piece, false, -1)
  vim.paste = paste
end

function H.accept_all(shown, candidate)
  M.clear()
  H.insert(shown.at, candidate.text, candidate.replaced, candidate.skipped)
  local command = candidate.item.command
  if command then
    server.execute(shown.client, command.command, command.arguments, nil, shown.at.buf)
  end
end

function H.accept_part(shown, candidate, piece)
  H.hide()
  H.insert(shown.at, piece, 0, 0)
  local rest, index = {}, 1
  for position, other in ipairs(shown.candidates) do
    rest[#rest + 1] = text.advance(other, piece)
    index = position == shown.index and #rest or index
  end
  H.show(shown.client, H.here({ force = true }), rest, index, shown.all_requested)
  if server.speaks_protocol(shown.client) then
    server.notify(shown.client, 'textDocument/didPartiallyAcceptCompletion', {
      item = candidate.item,
      acceptedLength = text.utf16_length(candidate.item.insertText, candidate.taken + #piece),
    })
  end
end

--- Report to the server, once for each item, that the user sees it.
function H.report_shown(client, candidate)
  if server.speaks_protocol(client) and not H.reported[candidate.item] then
    H.reported[candidate.item] = true
    server.notify(client, 'textDocument/didShowCompletion', { item = candidate.item })
  end
end

H.reported = setmetatable({}, { __mode = 'k' })

--- What the keys do; where an action returns false, the key does what it does without ghost text.
H.ACTIONS = {
  accept = { 'Accept ghost text', function() return M.accept('all') end },
  accept_word = { 'Accept a word of ghost text', function() return M.accept('word') end },
  accept_line = { 'Accept a line of ghost text', function() return M.accept('line') end },
  next = { 'Next ghost text', function() return M.cycle(1) end },
  previous = { 'Previous ghost text', function() return M.cycle(-1) end },
  dismiss = { 'Dismiss ghost text', M.dismiss },
}

return M
