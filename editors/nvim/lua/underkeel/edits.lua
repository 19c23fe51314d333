--- Edits by the model, requested as a code action or by an instruction. The preview shows each first.
local M = {}
local H = {}

local server = require('underkeel.server')

--- Kinds of the code actions that have a subcommand; see editors/PROTOCOL.md.
M.KINDS = {
  fix = 'quickfix.underkeel.fix',
  document = 'refactor.rewrite.underkeel.document',
  tests = 'refactor.rewrite.underkeel.tests',
}

--- Request the code actions of a kind for lines of the current buffer, and run the chosen one.
---
---@param name string a key of KINDS
---@param first integer first line, from 1
---@param last integer last line
function M.run(name, first, last)
  local buf = vim.api.nvim_get_current_buf()
  local client = H.client(buf)
  if not client then
    return
  end
  local params = {
    textDocument = vim.lsp.util.make_text_document_params(buf),
    range = H.range(client, buf, first, last),
    context = {
      only = { M.KINDS[name] },
      triggerKind = 1,
      diagnostics = H.diagnostics(buf, first - 1, last - 1),
    },
  }
  server.request(client, 'textDocument/codeAction', params, function(err, actions)
    if err then
      return H.warn(err.message)
    elseif not actions or #actions == 0 then
      return H.warn(('nothing to %s here'):format(H.VERBS[name]))
    elseif #actions == 1 then
      return H.resolve(client, buf, actions[1])
    end
    local options = {
      prompt = 'Underkeel:',
      format_item = function(action)
        return action.title
      end,
    }
    vim.ui.select(actions, options, function(action)
      if action then
        H.resolve(client, buf, action)
      end
    end)
  end, buf)
end

--- Change a range by an instruction; also run for a code action's command.
---
---@param argument table of editors/PROTOCOL.md; without `instruction` the user is asked
---@param context { client_id: integer, bufnr: integer }
function M.edit(argument, context)
  local client = vim.lsp.get_client_by_id(context.client_id)
  if not client then
    return
  end
  local function send(instruction)
    if not instruction or instruction == '' then
      return
    end
    argument.instruction = instruction
    H.start(client, 'writing the edit', 'workspace/executeCommand', {
      command = 'underkeel.edit',
      arguments = { argument },
    }, context.bufnr)
  end
  if argument.instruction then
    send(argument.instruction)
  else
    vim.ui.input({ prompt = 'Edit these lines: ' }, send)
  end
end

--- `M.edit` for lines of the current buffer.
function M.edit_lines(first, last, instruction)
  local buf = vim.api.nvim_get_current_buf()
  local client = H.client(buf)
  if client then
    M.edit({
      textDocument = vim.lsp.util.make_text_document_params(buf),
      range = server.line_range(buf, first, last),
      instruction = instruction ~= '' and instruction or nil,
    }, { client_id = client.id, bufnr = buf })
  end
end

--- Cancel the edit that is being written.
---
---@return boolean cancelled
function M.cancel()
  local pending = H.pending
  H.pending = nil
  if pending then
    server.cancel(pending.client, pending.id)
  end
  return pending ~= nil
end

-- Helpers ---------------------------------------------------------------------------------------

H.VERBS = { fix = 'fix', document = 'document', tests = 'test' }
H.pending = nil -- { client, id } of the edit that is being written

H.warn, H.client = server.warn, server.client_or_warn

--- Resolve an action; the client's guard (preview.lua) shows its edit.
function H.resolve(client, buf, action)
  H.start(client, action.title, 'codeAction/resolve', action, buf)
end

--- Send a request that takes as long as the model writes. It replaces an earlier one.
function H.start(client, what, method, params, buf)
  M.cancel()
  vim.notify(('underkeel: %s; `:Underkeel cancel` cancels it'):format(what))
  local id
  id = server.request(client, method, params, function(err, result)
    local pending = H.pending
    if not pending or pending.id ~= id then
      return
    end
    H.pending = nil
    if err then
      H.warn(err.message)
    elseif type(result) == 'table' and type(result.message) == 'string' and result.message ~= '' then
      H.warn(result.message)
    end
  end, buf)
  H.pending = id and { client = client, id = id } or nil
end

--- An empty range at the cursor if the lines are the cursor's own, else the range of whole lines.
function H.range(client, buf, first, last)
  local cursor = vim.lsp.util.make_position_params(0, client.offset_encoding).position
  if first == last and first - 1 == cursor.line then
    return { start = cursor, ['end'] = cursor }
  end
  return server.line_range(buf, first, last)
end

--- Diagnostics that touch the lines, in LSP's form.
function H.diagnostics(buf, first, last)
  local found = vim.tbl_filter(function(diagnostic)
    return diagnostic.lnum <= last and (diagnostic.end_lnum or diagnostic.lnum) >= first
  end, vim.diagnostic.get(buf))
  return vim.tbl_map(server.diagnostic, found)
end

return M
