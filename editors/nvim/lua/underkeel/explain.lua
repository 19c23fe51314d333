--- Explanations, streamed as Markdown into a window.
local M = {}
local H = {}

local panel = require('underkeel.panel')
local server = require('underkeel.server')

---@class underkeel.Session one explanation and its follow-ups, in one buffer
---@field buf integer
---@field client table
---@field id string of the last answer
---@field request integer? id of the open request
---@field title string
---@field stopped string? why the last answer ended: 'end', 'limit', 'cancelled', 'error'

--- Explain something in the current buffer.
---
---@param what { kind: string, first: integer?, last: integer? } lines counted from 1
function M.explain(what)
  local buf = vim.api.nvim_get_current_buf()
  local client = H.client(buf)
  if not client then
    return
  end
  local argument = {
    textDocument = vim.lsp.util.make_text_document_params(buf),
    kind = what.kind,
    range = H.range(client, buf, what),
  }
  if what.kind == 'diagnostic' then
    argument.diagnostic = H.diagnostic(buf)
    if not argument.diagnostic then
      return H.warn('there is no diagnostic on this line')
    end
    argument.range = argument.diagnostic.range
  end
  M.run(argument, { client_id = client.id, bufnr = buf })
end

--- Open a window and send `underkeel.explain`; also run for a code action's command.
---
---@param argument table of editors/PROTOCOL.md, without `id`
---@param context { client_id: integer, bufnr: integer }
function M.run(argument, context)
  local client = vim.lsp.get_client_by_id(context.client_id)
  if not client then
    return
  end
  local session = { client = client, title = H.title(argument) }
  session.buf = panel.open(session.title, H.KEYS, H.on_wipeout)
  H.sessions[session.buf] = session
  H.ask(session, argument)
end

--- Ask about the explanation in the current buffer.
---
---@param question string? without it, the user is asked for one
function M.follow_up(question)
  local session = H.current()
  if not session then
    return
  end
  if not question or question == '' then
    return vim.ui.input({ prompt = 'Ask about this: ' }, function(answer)
      if answer and answer ~= '' then
        M.follow_up(answer)
      end
    end)
  end
  panel.append(session.buf, ('\n\n---\n\n> %s\n\n'):format(question))
  H.ask(session, { followUp = { of = session.id, question = question } })
end

--- Continue the explanation in the current buffer, which ended at the length limit.
function M.continue()
  local session = H.current()
  if session then
    H.ask(session, { continue = session.id })
  end
end

--- Cancel the explanation in the current buffer, or else every open one.
function M.cancel()
  local one = H.sessions[vim.api.nvim_get_current_buf()]
  for _, session in pairs(one and { one } or H.sessions) do
    H.cancel(session)
  end
end

--- Handle an `underkeel/explanation` notification.
function M.on_event(event)
  local session = H.by_id(event.id)
  if not session then
    return
  end
  if event.kind == 'delta' then
    panel.append(session.buf, event.text)
  elseif event.kind == 'error' then
    panel.append(session.buf, ('\n\n**%s**\n'):format(event.text))
    H.finish(session, 'error')
  else
    H.finish(session, event.stopReason or 'end')
  end
end

-- Sessions --------------------------------------------------------------------------------------

---@type table<integer, underkeel.Session> by buffer
H.sessions = {}
H.count = 0

function H.by_id(id)
  for _, session in pairs(H.sessions) do
    if session.id == id then
      return session
    end
  end
end

function H.current()
  local session = H.sessions[vim.api.nvim_get_current_buf()]
  if not session then
    H.warn('this window shows no explanation')
  elseif session.request then
    H.warn('an answer is still being written; wait or cancel it')
    return nil
  end
  return session
end

function H.ask(session, argument)
  H.count = H.count + 1
  session.id = ('%x-%d'):format(vim.uv.hrtime(), H.count)
  session.stopped = nil
  argument.id = session.id
  local id = session.id
  panel.set_note(session.buf, 'writing, <C-c> cancels')
  session.request = server.execute(session.client, 'underkeel.explain', { argument }, function(err, result)
    if session.id ~= id or session.stopped then
      return
    end
    if err then
      panel.append(session.buf, ('\n\n**%s**\n'):format(err.message or 'The request failed.'))
      H.finish(session, 'error')
    else
      H.finish(session, type(result) == 'table' and result.stopReason or 'end')
    end
  end)
  if not session.request then
    panel.append(session.buf, '**The language server is not running.** Start it with `:Underkeel restart`.\n')
    H.finish(session, 'error')
  end
end

function H.cancel(session)
  if session.request then
    server.cancel(session.client, session.request)
    H.finish(session, 'cancelled')
  end
end

H.ENDINGS = {
  ['end'] = 'a asks, q closes',
  limit = 'length limit: c continues, a asks, q closes',
  cancelled = 'cancelled: a asks, q closes',
  error = 'q closes',
}

--- Cancel the answer of a window that was closed.
function H.on_wipeout(buf)
  local session = H.sessions[buf]
  H.sessions[buf] = nil
  if session and session.request then
    server.cancel(session.client, session.request)
  end
end

H.KEYS = {
  a = { 'Ask about the explanation', function() M.follow_up() end },
  c = { 'Continue the explanation', M.continue },
  ['<C-c>'] = { 'Cancel the explanation', M.cancel },
}

function H.finish(session, how)
  session.stopped, session.request = how, nil
  panel.set_note(session.buf, H.ENDINGS[how] or H.ENDINGS['end'])
end

-- Helpers ---------------------------------------------------------------------------------------

H.warn, H.client = server.warn, server.client_or_warn

--- The LSP range of the selected lines, or an empty one at the cursor.
function H.range(client, buf, what)
  if what.kind ~= 'selection' then
    local position = vim.lsp.util.make_position_params(0, client.offset_encoding).position
    return { start = position, ['end'] = position }
  end
  return server.line_range(buf, what.first, what.last)
end

--- The LSP form of the first diagnostic on the cursor's line.
function H.diagnostic(buf)
  local row = vim.api.nvim_win_get_cursor(0)[1] - 1
  local found = vim.diagnostic.get(buf, { lnum = row })[1]
  return found and server.diagnostic(found)
end

function H.title(argument)
  local name = argument.textDocument and vim.fs.basename(vim.uri_to_fname(argument.textDocument.uri))
  local range = argument.range
  if not name then
    return 'Explanation'
  elseif argument.kind == 'file' or not range then
    return name
  end
  local first, last = range.start.line + 1, range['end'].line + 1
  if range['end'].character == 0 and last > first then
    last = last - 1
  end
  return first == last and ('%s:%d'):format(name, first) or ('%s:%d-%d'):format(name, first, last)
end

return M
