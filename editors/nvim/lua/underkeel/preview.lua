--- Shows the model's edits as a diff. Nothing changes before the user accepts.
local M = {}
local H = {}

local panel = require('underkeel.panel')
local server = require('underkeel.server')

--- Show an edit as a diff in a window: `y` applies it, closing the window discards it.
---
---@param edit table WorkspaceEdit
---@param client table the client that sent it
---@param title string
---@param done fun(applied: boolean, reason: string?) called once; `reason` says why it was not applied
function M.offer(edit, client, title, done)
  edit = H.for_buffers(edit)
  local outdated = H.outdated(edit)
  local lines = outdated and {} or H.diff(edit, client)
  if #lines == 0 then
    local reason = outdated or 'the model proposes no change'
    server.warn(reason)
    return done(false, reason)
  end
  if not require('underkeel').config.edit.preview then
    return done(H.apply(edit, client))
  end
  local answered = false
  local function answer(applied, reason)
    if not answered then
      answered = true
      done(applied, reason)
    end
  end
  local buf = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buf, 0, -1, false, vim.list_extend(H.notes(edit), lines))
  vim.bo[buf].bufhidden, vim.bo[buf].filetype, vim.bo[buf].modifiable = 'wipe', 'diff', false
  panel.window(buf, title, { enter = true, wide = true })
  panel.set_note(buf, 'y applies this edit, q discards it')
  panel.map(buf, {
    y = { 'Apply the edit', function()
      answer(H.apply(edit, client))
      vim.api.nvim_buf_delete(buf, { force = true })
    end },
    n = { 'Discard the edit', function() vim.cmd.close() end },
  })
  vim.api.nvim_create_autocmd('BufWipeout', {
    buffer = buf,
    desc = 'Discard the edit whose window was closed',
    callback = function()
      answer(false, 'discarded')
    end,
  })
end

--- Handler of `workspace/applyEdit`; responds when the user has decided.
function M.on_apply_edit(_, params, context)
  local client = vim.lsp.get_client_by_id(context.client_id)
  local co = coroutine.running()
  local result
  local function done(applied, reason)
    result = { applied = applied, failureReason = reason }
    if coroutine.status(co) == 'suspended' then
      coroutine.resume(co)
    end
  end
  M.offer(params.edit, client, params.label or 'Edit', done)
  if not result then
    coroutine.yield()
  end
  return result
end

--- Show the edit of every resolved code action in the preview, where Neovim would apply it at once.
function M.guard(client)
  local request = client.request
  client.request = function(...)
    local args, count = { ... }, select('#', ...)
    local first = type(args[1]) == 'table' and 2 or 1 -- a method since Neovim 0.11
    if args[first] == 'codeAction/resolve' then
      local handler = args[first + 2]
      args[first + 2] = function(err, action, ...)
        if not err and action and action.edit then
          M.offer(action.edit, client, action.title, function() end)
          action = vim.tbl_extend('force', {}, action)
          action.edit = nil
        end
        return handler(err, action, ...)
      end
    end
    return request(unpack(args, 1, count))
  end
end

-- Helpers ---------------------------------------------------------------------------------------

--- Each changed document: edits, buffer, and whether the edit creates the file.
---
---@return { uri: string, edits: table[], version: integer?, new: boolean }[]
function H.changes(edit)
  local changes, new = {}, {}
  for _, change in ipairs(edit.documentChanges or {}) do
    if change.kind == 'create' then
      new[change.uri] = vim.fn.filereadable(vim.uri_to_fname(change.uri)) == 0
    elseif change.textDocument then
      local uri, version = change.textDocument.uri, change.textDocument.version
      changes[#changes + 1] = {
        uri = uri,
        edits = change.edits,
        version = version ~= vim.NIL and version or nil,
        new = new[uri] or false,
      }
    end
  end
  for uri, edits in pairs(edit.changes or {}) do
    changes[#changes + 1] = { uri = uri, edits = edits, new = false }
  end
  return changes
end

--- The edit without the last line end of new files, which a buffer adds by itself.
function H.for_buffers(edit)
  edit = vim.deepcopy(edit)
  for _, change in ipairs(H.changes(edit)) do
    local last = change.edits[#change.edits]
    if change.new and last then
      last.newText = last.newText:gsub('\n$', '')
    end
  end
  return edit
end

--- Why the edit no longer fits the text, or nil where it fits.
function H.outdated(edit)
  for _, change in ipairs(H.changes(edit)) do
    local buf = vim.uri_to_bufnr(change.uri)
    local now = not change.new and rawget(vim.lsp.util.buf_versions, buf) or nil
    if change.version and now and now ~= change.version then
      local name = vim.fs.basename(vim.uri_to_fname(change.uri))
      return ('%s has changed since the edit was written; request it again'):format(name)
    end
  end
end

--- A unified diff of everything that the edit changes.
---
---@return string[]
function H.diff(edit, client)
  local lines = {}
  for _, change in ipairs(H.changes(edit)) do
    local old = {}
    if not change.new then
      local buf = vim.uri_to_bufnr(change.uri)
      vim.fn.bufload(buf)
      old = vim.api.nvim_buf_get_lines(buf, 0, -1, false)
    end
    local new = H.edited(old, change.edits, client)
    local hunks = vim.diff(H.joined(old), H.joined(new), { ctxlen = 3 })
    if hunks ~= '' then
      local name = vim.fn.fnamemodify(vim.uri_to_fname(change.uri), ':.')
      lines[#lines + 1] = '--- ' .. (change.new and '/dev/null' or name)
      lines[#lines + 1] = '+++ ' .. name
      vim.list_extend(lines, vim.split(vim.trim(hunks), '\n', { plain = true }))
    end
  end
  return lines
end

function H.joined(lines)
  return #lines > 0 and table.concat(lines, '\n') .. '\n' or ''
end

--- Lines with the edits applied, by Neovim's own function.
function H.edited(lines, edits, client)
  local scratch = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(scratch, 0, -1, false, lines)
  vim.lsp.util.apply_text_edits(vim.deepcopy(edits), scratch, client.offset_encoding)
  local edited = vim.api.nvim_buf_get_lines(scratch, 0, -1, false)
  vim.api.nvim_buf_delete(scratch, { force = true })
  return edited
end

--- The server's notes on the edit, such as that it breaks the syntax.
function H.notes(edit)
  local notes = {}
  for _, annotation in pairs(edit.changeAnnotations or {}) do
    if type(annotation.description) == 'string' and annotation.description ~= '' then
      notes[#notes + 1] = ('This %s.'):format(annotation.description:gsub('%s*\n%s*', ' '))
    end
  end
  return #notes > 0 and vim.list_extend(notes, { '' }) or notes
end

---@return boolean applied, string? reason
function H.apply(edit, client)
  local outdated = H.outdated(edit)
  if outdated then
    server.warn(outdated)
    return false, outdated
  end
  local ok, problem = pcall(vim.lsp.util.apply_workspace_edit, edit, client.offset_encoding)
  if not ok then
    vim.notify('underkeel: cannot apply the edit: ' .. tostring(problem), vim.log.levels.ERROR)
    return false, tostring(problem)
  end
  return true
end

return M
