--- The agent's windows: the conversation as Markdown, the prompt below it, diffs in a tab.
local M = {}
local H = {}

local panel = require('underkeel.panel')

---@class underkeel.Block a part of the conversation; its lines follow those of the blocks before
---@field kind string 'user', 'text', 'thought', 'call', 'plan', 'question', 'note', 'error'
---@field count integer number of lines
---@field call table? the tool call, as in the protocol

--- Show the panel; the cursor moves to the conversation.
---
---@param keys table<string, { [1]: string, [2]: fun() }> of the conversation, in normal mode
---@param prompt_keys { n: table, i: table }
---@param attached { name: string }[]
function M.open(keys, prompt_keys, attached)
  H.create(keys, prompt_keys)
  if #vim.fn.win_findbuf(H.talk) == 0 then
    local config = require('underkeel').config.explain
    local width = config.width < 1 and math.floor(config.width * vim.o.columns) or config.width
    local win = vim.api.nvim_open_win(H.talk, true, { split = 'right', win = -1, width = math.max(width, 30), style = 'minimal' })
    vim.wo[win].wrap, vim.wo[win].linebreak, vim.wo[win].conceallevel = true, true, 2
    vim.wo[win].concealcursor, vim.wo[win].winfixwidth = 'nc', true
  end
  if #vim.fn.win_findbuf(H.prompt) == 0 then
    local below = vim.fn.win_findbuf(H.talk)[1]
    local win = vim.api.nvim_open_win(H.prompt, false, { split = 'below', win = below, height = 4, style = 'minimal' })
    vim.wo[win].wrap, vim.wo[win].linebreak, vim.wo[win].winfixheight = true, true, true
  end
  M.attached(attached)
  M.note(H.note or '')
  M.focus_conversation()
end

--- Close the windows; the conversation is kept.
function M.close()
  for _, buf in ipairs({ H.prompt, H.talk }) do
    for _, win in ipairs(vim.fn.win_findbuf(buf)) do
      if #vim.api.nvim_list_wins() > 1 then
        vim.api.nvim_win_close(win, true)
      end
    end
  end
end

function M.focus_conversation()
  H.focus(H.talk)
end

function M.focus_prompt()
  H.focus(H.prompt)
end

--- The text of the prompt, which is empty afterwards.
---
---@return string
function M.take_prompt()
  local text = table.concat(vim.api.nvim_buf_get_lines(H.prompt, 0, -1, false), '\n')
  vim.api.nvim_buf_set_lines(H.prompt, 0, -1, false, {})
  return vim.trim(text)
end

--- Show a line above the conversation.
function M.note(text)
  H.note = text
  if H.talk then
    panel.set_note(H.talk, text)
  end
end

--- Show above the prompt what is attached.
---
---@param attached { name: string }[]
function M.attached(attached)
  local names = vim.tbl_map(function(one) return one.name end, attached)
  local keys = 'Task · <CR> or <C-s> sends'
  if H.prompt then
    panel.set_note(H.prompt, #names > 0 and keys .. ' · with ' .. table.concat(names, ', ') or keys)
  end
end

-- The conversation ------------------------------------------------------------------------------

--- Remove the whole conversation.
function M.clear()
  H.blocks, H.calls, H.plan_block, H.question = {}, {}, nil, nil
  if H.talk then
    H.change(function() vim.api.nvim_buf_set_lines(H.talk, 0, -1, false, {}) end)
  end
end

--- Add a block of Markdown.
---
---@param kind string
---@param text string
function M.add(kind, text)
  local lines = vim.split(text, '\n', { plain = true })
  if kind == 'user' then
    H.plan_block = nil
    lines = vim.tbl_map(function(line) return '> ' .. line end, lines)
  elseif kind == 'error' then
    lines = { '**' .. text:gsub('\n', ' ') .. '**' }
  elseif kind == 'note' then
    lines = { '*' .. text:gsub('\n', ' ') .. '*' }
  end
  H.put({ kind = kind }, lines)
end

--- Show a question at the end, or remove it where `text` is nil.
---
---@param text string?
function M.ask(text)
  if H.question then
    H.remove(H.question)
  end
  H.question = nil
  if text then
    H.question = { kind = 'question' }
    H.put(H.question, { text })
  end
end

--- Add text to the last block if it is of this kind, or else a new one.
function M.stream(kind, text)
  local last = H.blocks[#H.blocks]
  text = text:gsub('\r\n?', '\n')
  if not last or last.kind ~= kind or kind == 'user' then
    return M.add(kind, kind == 'text' and text:gsub('^\n+', '') or text)
  end
  last.count = last.count + select(2, text:gsub('\n', ''))
  panel.append(H.talk, text)
end

--- Add a tool call.
---
---@param call table as in the protocol's `tool_call`
function M.add_call(call)
  local block = { kind = 'call', call = call }
  H.calls[call.toolCallId] = block
  H.put(block, H.call_lines(call))
end

--- Change a tool call.
---
---@param update table the fields that change
function M.update_call(id, update)
  local block = H.calls[id]
  if block then
    for key, value in pairs(update) do
      block.call[key] = value
    end
    H.put(block, H.call_lines(block.call))
  end
end

---@return table? call
function M.call(id)
  return H.calls[id] and H.calls[id].call
end

--- The tool call under the cursor, or else the last one above it.
---
---@return table? call
function M.call_at_cursor()
  local win = vim.fn.win_findbuf(H.talk)[1]
  local row = win and vim.api.nvim_win_get_cursor(win)[1] or 0
  local at, found = 0, nil
  for _, block in ipairs(H.blocks) do
    if at >= row then
      break
    end
    at, found = at + block.count, block.call or found
  end
  return found
end

--- Show a plan, in place of the one of this turn.
---
---@param entries { content: string, status: string }[]
function M.plan(entries)
  local lines = { '**Plan**' }
  for _, entry in ipairs(entries) do
    local mark = ({ completed = '[x]', in_progress = '[-]' })[entry.status] or '[ ]'
    lines[#lines + 1] = ('- %s %s'):format(mark, entry.content:gsub('\n', ' '))
  end
  H.plan_block = H.plan_block or { kind = 'plan' }
  H.put(H.plan_block, lines)
end

--- Show the keys of the conversation.
function M.help(keys)
  local rows = {}
  for lhs, action in pairs(keys) do
    rows[#rows + 1] = ('%-6s %s'):format(lhs, action[1])
  end
  table.sort(rows)
  H.float('Keys', rows)
end

--- Show what the call under the cursor returned.
function M.result()
  local call = M.call_at_cursor()
  local lines = {}
  for _, one in ipairs(call and call.content or {}) do
    if one.type == 'content' and one.content.type == 'text' then
      vim.list_extend(lines, vim.split(one.content.text, '\n', { plain = true }))
    end
  end
  H.float(call and call.title or 'Result', #lines > 0 and lines or { 'no result yet' })
end

-- Diffs -----------------------------------------------------------------------------------------

---@param call table
function M.has_diff(call)
  return #H.diffs(call) > 0
end

--- Show the first change of a call in a tab of its own, before and after side by side.
---
---@param keys table approval keys
---@return boolean shown
function M.diff(call, keys)
  local diffs = H.diffs(call)
  if #diffs == 0 then
    return false
  end
  M.close_diff()
  for index, diff in ipairs(diffs) do
    vim.cmd('tabnew')
    H.tabs[#H.tabs + 1] = vim.api.nvim_get_current_tabpage()
    local name = vim.fn.fnamemodify(diff.path, ':.')
    H.side(diff.oldText or '', name, 'before', keys)
    vim.cmd('rightbelow vsplit')
    H.side(diff.newText, name, index == #diffs and 'after' or ('after, %d of %d'):format(index, #diffs), keys)
  end
  return true
end

--- Close the tabs of the diff.
function M.close_diff()
  for _, tab in ipairs(H.tabs) do
    if vim.api.nvim_tabpage_is_valid(tab) then
      pcall(vim.cmd.tabclose, vim.api.nvim_tabpage_get_number(tab))
    end
  end
  H.tabs = {}
end

-- Helpers ---------------------------------------------------------------------------------------

H.blocks = {} ---@type underkeel.Block[]
H.calls = {} ---@type table<string, underkeel.Block>
H.tabs = {}

H.STATES = { pending = '○', in_progress = '…', completed = '✓', failed = '✗' }
H.MOST_COMMAND_LINES = 20
H.MOST_DIFF_LINES = 40

function H.create(keys, prompt_keys)
  if H.talk and vim.api.nvim_buf_is_valid(H.talk) and vim.api.nvim_buf_is_valid(H.prompt) then
    return
  end
  H.talk, H.prompt = H.buffer('underkeel://agent'), H.buffer('underkeel://agent/task')
  vim.bo[H.talk].modifiable = false
  panel.map(H.talk, keys)
  for mode, mapped in pairs(prompt_keys) do
    for lhs, action in pairs(mapped) do
      vim.keymap.set(mode, lhs, action[2], { buffer = H.prompt, nowait = true, desc = action[1] })
    end
  end
  M.clear()
end

function H.buffer(name)
  local buf = vim.api.nvim_create_buf(false, true)
  vim.bo[buf].bufhidden = 'hide'
  vim.api.nvim_buf_set_name(buf, name)
  vim.bo[buf].filetype = 'markdown'
  pcall(vim.treesitter.start, buf, 'markdown')
  return buf
end

function H.focus(buf)
  local win = vim.fn.win_findbuf(buf)[1]
  if win then
    vim.api.nvim_set_current_win(win)
  end
end

--- Change the conversation; windows whose cursor is on the last line follow.
function H.change(run)
  local last = vim.api.nvim_buf_line_count(H.talk)
  local following = vim.tbl_filter(function(win)
    return vim.api.nvim_win_get_cursor(win)[1] >= last
  end, vim.fn.win_findbuf(H.talk))
  vim.bo[H.talk].modifiable = true
  run()
  vim.bo[H.talk].modifiable, vim.bo[H.talk].modified = false, false
  for _, win in ipairs(following) do
    vim.api.nvim_win_set_cursor(win, { vim.api.nvim_buf_line_count(H.talk), 0 })
  end
end

--- Show a block's lines: in its place, or at the end if it is new.
function H.put(block, lines)
  local is_first = #H.blocks == 0 or H.blocks[1] == block
  local previous = H.blocks[#H.blocks]
  local from, known = 0, false
  for _, one in ipairs(H.blocks) do
    known = one == block
    if known then
      break
    end
    from = from + one.count
  end
  if not known then
    block.apart = not is_first and not (block.kind == 'call' and previous.kind == 'call')
    H.blocks[#H.blocks + 1] = block
  end
  lines = block.apart and vim.list_extend({ '' }, lines) or lines
  H.change(function()
    local to = known and from + block.count or is_first and -1 or from
    vim.api.nvim_buf_set_lines(H.talk, from, to, false, lines)
  end)
  block.count = #lines
end

function H.remove(block)
  local from = 0
  for index, one in ipairs(H.blocks) do
    if one == block then
      table.remove(H.blocks, index)
      return H.change(function()
        vim.api.nvim_buf_set_lines(H.talk, from, from + block.count, false, {})
      end)
    end
    from = from + one.count
  end
end

function H.call_lines(call)
  local lines = { ('- %s %s'):format(H.STATES[call.status] or '○', (call.title or ''):gsub('\n', ' ')) }
  local waits = call.status == 'pending'
  for _, diff in ipairs(waits and H.diffs(call) or {}) do
    local hunks = vim.diff(diff.oldText or '', diff.newText, { ctxlen = 2 })
    H.fence(lines, 'diff', vim.split(vim.trim(hunks), '\n', { plain = true }), H.MOST_DIFF_LINES)
  end
  local command = waits and type(call.rawInput) == 'table' and call.rawInput.command
  if command then
    H.fence(lines, 'sh', vim.split(command, '\n', { plain = true }), H.MOST_COMMAND_LINES)
  end
  return lines
end

--- Add lines as a fenced block, at most a number of them.
function H.fence(lines, language, body, most)
  lines[#lines + 1] = '  ````' .. language
  for index, line in ipairs(body) do
    if index > most then
      lines[#lines + 1] = ('  [%d more lines]'):format(#body - most)
      break
    end
    lines[#lines + 1] = '  ' .. line
  end
  lines[#lines + 1] = '  ````'
end

function H.diffs(call)
  return vim.tbl_filter(function(one) return one.type == 'diff' end, call.content or {})
end

function H.side(text, name, what, keys)
  local buf = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_win_set_buf(0, buf)
  vim.api.nvim_buf_set_lines(buf, 0, -1, false, vim.split(text:gsub('\n$', ''), '\n', { plain = true }))
  vim.bo[buf].bufhidden, vim.bo[buf].modifiable = 'wipe', false
  vim.bo[buf].filetype = vim.filetype.match({ filename = name }) or ''
  vim.cmd('diffthis')
  panel.map(buf, keys)
  vim.keymap.set('n', 'q', M.close_diff, { buffer = buf, nowait = true, desc = 'Close the diff' })
  panel.set_note(buf, ('%s (%s) · y allow · n reject · q close'):format(name, what))
end

function H.float(title, lines)
  local buf = vim.api.nvim_create_buf(false, true)
  vim.api.nvim_buf_set_lines(buf, 0, -1, false, lines)
  vim.bo[buf].bufhidden, vim.bo[buf].modifiable = 'wipe', false
  local width = math.min(vim.o.columns - 6, math.max(unpack(vim.tbl_map(vim.fn.strdisplaywidth, vim.list_slice(lines, 1, 200)))) + 2)
  vim.api.nvim_open_win(buf, true, {
    relative = 'editor', style = 'minimal', border = 'rounded', row = 2, col = 3,
    width = math.max(width, 20), height = math.max(1, math.min(#lines, vim.o.lines - 6)),
    title = ' ' .. title:sub(1, 60) .. ' ',
  })
  panel.map(buf, {})
end

return M
