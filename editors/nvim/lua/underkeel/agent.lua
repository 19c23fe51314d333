--- The agent's panel: a conversation, a prompt below it, approvals by key, diffs in a tab.
---
--- A client of `underkeel acp`; agent_view.lua draws, agent_files.lua gives it the buffers.
local M = {}
local H = {}

local files = require('underkeel.agent_files')
local server = require('underkeel.server')
local view = require('underkeel.agent_view')

--- Run `:UnderkeelAgent`.
---
---@param args table see |nvim_create_user_command()|
function M.run(args)
  if args.range > 0 then
    M.attach_lines(vim.api.nvim_get_current_buf(), args.line1, args.line2)
  end
  M.open()
  if args.bang then
    H.new_session()
  end
  if vim.trim(args.args) ~= '' then
    M.send(args.args)
  else
    H.edit_prompt()
  end
end

--- Show the panel, and start the agent where none runs.
function M.open()
  H.folder = H.folder or vim.fs.root(0, require('underkeel').config.root_markers) or vim.fn.getcwd()
  view.open(H.conversation_keys(), H.prompt_keys(), H.attached)
  H.start()
end

--- Send a task, as soon as the session is open.
---
---@param text string
function M.send(text)
  if vim.trim(text) == '' then
    return
  elseif H.is_working then
    return server.warn('the agent is at work; <C-c> stops it')
  end
  local blocks = { { type = 'text', text = text } }
  local names = vim.tbl_map(function(one) return '@' .. one.name end, H.attached)
  for _, one in ipairs(H.attached) do
    blocks[#blocks + 1] = one.block
  end
  H.attached = {}
  view.attached(H.attached)
  view.add('user', #names > 0 and ('%s\n%s'):format(text, table.concat(names, ' ')) or text)
  H.is_working = true
  H.note()
  H.when_ready(function()
    H.client.request('session/prompt', { sessionId = H.session, prompt = blocks }, function(err, result)
      H.is_working, H.asked = false, nil
      view.ask(nil)
      if err then
        view.add('error', err.message)
      elseif result.stopReason ~= 'end_turn' then
        view.add('note', 'Stopped: ' .. result.stopReason:gsub('_', ' ') .. '.')
      end
      vim.cmd('silent! checktime')
      H.note()
    end)
  end)
end

--- Attach lines of a buffer to the next task.
---
---@param first integer from 1
---@param last integer
function M.attach_lines(buf, first, last)
  local path = vim.api.nvim_buf_get_name(buf)
  local text = table.concat(vim.api.nvim_buf_get_lines(buf, first - 1, last, false), '\n')
  local uri = ('%s#L%d-L%d'):format(vim.uri_from_fname(path), first, last)
  H.attach(('%s:%d-%d'):format(vim.fs.basename(path), first, last), {
    type = 'resource',
    resource = { uri = uri, text = text, mimeType = 'text/plain' },
  })
end

--- Attach a file to the next task; without a path, choose an open one.
---
---@param path string?
function M.attach_file(path)
  if path then
    local name = vim.fs.basename(path)
    return H.attach(name, { type = 'resource_link', uri = vim.uri_from_fname(path), name = name })
  end
  local open = vim.iter(vim.api.nvim_list_bufs())
    :filter(function(buf) return vim.bo[buf].buflisted and vim.bo[buf].buftype == '' end)
    :map(vim.api.nvim_buf_get_name)
    :filter(function(name) return name ~= '' end)
    :totable()
  H.select(open, 'Attach:', function(name) return vim.fn.fnamemodify(name, ':.') end, M.attach_file)
end

--- Stop the turn that runs.
function M.stop()
  if H.asked then
    H.asked.reply({ outcome = { outcome = 'cancelled' } })
    H.asked = nil
    view.ask(nil)
  end
  if H.client and H.session and H.is_working then
    H.client.notify('session/cancel', { sessionId = H.session })
  end
end

--- Answer the open request for permission: 'once', 'always' or 'reject'.
---
---@return boolean answered
function M.answer(option)
  local asked = H.asked
  if not asked or not asked.options[option] then
    return false
  end
  H.asked = nil
  asked.reply({ outcome = { outcome = 'selected', optionId = option } })
  view.ask(nil)
  view.close_diff()
  view.update_call(asked.call.toolCallId, { status = option == 'reject' and 'failed' or 'in_progress' })
  H.note()
  return true
end

--- Show the changes of the call that waits for permission, or of the one under the cursor.
function M.diff()
  local call = H.asked and H.asked.call or view.call_at_cursor()
  if not call or not view.diff(call, H.approval_keys()) then
    server.warn('there are no changes to show here')
  end
end

--- Choose an earlier session of this folder, and show it.
function M.history()
  H.when_ready(function()
    H.client.request('session/list', { cwd = H.folder }, function(err, result)
      if err then
        return server.warn(err.message)
      end
      local others = vim.tbl_filter(function(one) return one.sessionId ~= H.session end, result.sessions)
      H.select(others, 'Sessions:', H.session_title, function(chosen)
        M.stop()
        view.clear()
        H.open_session('session/load', { sessionId = chosen.sessionId })
      end)
    end)
  end)
end

--- Choose what is changed without a question.
function M.choose_mode()
  H.select(H.modes or {}, 'Mode:', function(mode)
    return ('%s: %s'):format(mode.id, mode.description)
  end, function(mode)
    H.client.request('session/set_mode', { sessionId = H.session, modeId = mode.id }, function(err)
      if err then
        return server.warn(err.message)
      end
      H.mode = mode.id
      H.note()
    end)
  end)
end

--- Undo all changes of the session.
function M.undo()
  H.when_ready(function()
    H.client.request('_underkeel/undo', { sessionId = H.session }, function(err, result)
      view.add(err and 'error' or 'note', err and err.message or result.message)
      vim.cmd('silent! checktime')
    end)
  end)
end

-- The client ------------------------------------------------------------------------------------

H.attached = {} ---@type { name: string, block: table }[]
H.waiting = {} ---@type fun()[] run once the session is open
H.is_working = false

function H.start()
  if H.client then
    return
  end
  local cmd = vim.list_extend(server.program(), { 'acp' })
  local client, problem = require('underkeel.acp').start(cmd, {
    request = H.on_request,
    notification = H.on_notification,
    exit = H.on_exit,
  })
  if not client then
    return view.add('error', ('Cannot run %s: %s'):format(cmd[1], problem))
  end
  H.client = client
  vim.api.nvim_create_autocmd('VimLeavePre', {
    group = vim.api.nvim_create_augroup('UnderkeelAgent', { clear = true }),
    desc = 'Stop the agent; its sessions are kept',
    callback = client.stop,
  })
  H.note('starting')
  client.request('initialize', {
    protocolVersion = 1,
    clientCapabilities = {
      fs = { readTextFile = true, writeTextFile = true },
      _meta = { underkeel = { diagnostics = true, unsaved = true } },
    },
    clientInfo = { name = 'underkeel.nvim', title = 'Neovim', version = '1' },
  }, function(err)
    if err then
      return view.add('error', err.message)
    elseif H.session then
      H.open_session('session/resume', { sessionId = H.session })
    else
      H.open_session('session/new', {})
    end
  end)
end

function H.new_session()
  M.stop()
  view.clear()
  H.session, H.plan = nil, nil
  if H.client and H.is_initialized then
    H.open_session('session/new', {})
  end
end

function H.open_session(method, params)
  H.is_initialized, H.is_open = true, false
  if params.sessionId then
    H.session = params.sessionId
  end
  local sent = vim.tbl_extend('force', params, { cwd = H.folder, mcpServers = H.mcp_servers() })
  H.client.request(method, sent, function(err, result)
    if err then
      H.is_working, H.session = false, nil
      view.add('error', err.message)
      return H.note()
    end
    H.session, H.is_open = result.sessionId or H.session, true
    H.modes, H.mode = result.modes.availableModes, result.modes.currentModeId
    H.note()
    local waiting = H.waiting
    H.waiting = {}
    vim.iter(waiting):each(function(run) run() end)
  end)
end

--- The configured MCP servers as the protocol has them.
function H.mcp_servers()
  local function pairs_of(values)
    local made = {}
    for name, value in vim.spairs(values or {}) do
      made[#made + 1] = { name = name, value = tostring(value) }
    end
    return made
  end
  local made = {}
  for name, one in vim.spairs(require('underkeel').config.agent.mcp_servers) do
    made[#made + 1] = one.url
        and { type = 'http', name = name, url = one.url, headers = pairs_of(one.headers) }
      or { name = name, command = one.command, args = one.args or {}, env = pairs_of(one.env) }
  end
  return made
end

function H.when_ready(run)
  H.start()
  if H.client and H.is_open then
    return run()
  end
  H.waiting[#H.waiting + 1] = run
end

function H.on_exit(code, message)
  H.client, H.is_open, H.is_initialized, H.is_working, H.asked = nil, false, false, false, nil
  if code ~= 0 and vim.v.exiting == vim.NIL then
    local why = message ~= '' and ': ' .. message:match('[^\n]*$') or ''
    view.add('error', ('The agent ended (%d)%s. The next task continues the session.'):format(code, why))
  end
  H.note()
end

function H.on_request(method, params, reply)
  if method ~= 'session/request_permission' then
    return reply(files.answer(method, params))
  end
  local options = {}
  for _, option in ipairs(params.options) do
    options[option.optionId] = option.name
  end
  view.update_call(params.toolCall.toolCallId, params.toolCall)
  H.asked = { reply = reply, options = options, call = view.call(params.toolCall.toolCallId) or params.toolCall }
  view.ask(H.question())
  H.note()
end

function H.on_notification(method, params)
  if method ~= 'session/update' or params.sessionId ~= H.session then
    return
  end
  local update = params.update
  local run = H.UPDATES[update.sessionUpdate]
  if run then
    run(update)
  end
end

local function text_of(kind)
  return function(update)
    if update.content.type == 'text' then
      view.stream(kind, update.content.text)
    end
  end
end

H.UPDATES = {
  user_message_chunk = text_of('user'),
  agent_message_chunk = text_of('text'),
  agent_thought_chunk = text_of('thought'),
  tool_call = function(update) view.add_call(update) end,
  tool_call_update = function(update)
    view.update_call(update.toolCallId, update)
    if update.status == 'completed' then
      vim.cmd('silent! checktime')
    end
  end,
  plan = function(update) view.plan(update.entries) end,
  usage_update = function(update)
    H.usage = update
    H.note()
  end,
  current_mode_update = function(update)
    H.mode = update.currentModeId
    H.note()
  end,
}

-- Keys and notes --------------------------------------------------------------------------------

--- The line above the conversation: state, mode, tokens, and the keys that can be used now.
function H.note(state)
  local asked = H.asked
  state = state or (asked and 'waiting for you') or (H.is_working and 'working') or (H.is_open and 'ready') or 'ended'
  local parts = { state, H.mode and 'mode ' .. H.mode }
  if H.usage and H.usage.size > 0 then
    local share = math.floor(100 * H.usage.used / H.usage.size + 0.5)
    parts[#parts + 1] = ('%d of %d tokens (%d%%)'):format(H.usage.used, H.usage.size, share)
  end
  parts[#parts + 1] = asked and H.answers() or (H.is_working and '<C-c> stops') or 'g? keys'
  view.note(table.concat(parts, ' · '))
end

function H.answers()
  local has_diff = view.has_diff(H.asked.call)
  local always = H.asked.options.always and ' A always ·' or ''
  return ('y allow ·%s n reject%s'):format(always, has_diff and ' · d diff' or '')
end

function H.question()
  local always = H.asked.options.always
  return ('Allow this? `y` yes, `n` no%s%s'):format(
    always and (', `A` %s'):format(always:gsub('^%u', string.lower)) or '',
    view.has_diff(H.asked.call) and ', `d` shows the change' or ''
  )
end

function H.approval_keys()
  return {
    y = { 'Allow this call', function() M.answer('once') end },
    A = { 'Allow such calls from now on', function() M.answer('always') end },
    n = { 'Reject this call', function() M.answer('reject') end },
  }
end

function H.conversation_keys()
  return vim.tbl_extend('force', H.approval_keys(), {
    i = { 'Write a task', H.edit_prompt },
    d = { 'Show the changes of a call as a diff', M.diff },
    o = { 'Show the result of the call under the cursor', view.result },
    ['<C-c>'] = { 'Stop the turn', M.stop },
    ['@'] = { 'Attach a file', function() M.attach_file() end },
    H = { 'Earlier sessions', M.history },
    N = { 'New session', H.new_session },
    m = { 'Choose the mode', M.choose_mode },
    U = { 'Undo all changes of the session', M.undo },
    q = { 'Close the panel', view.close },
    ['g?'] = { 'Show these keys', function() view.help(H.conversation_keys()) end },
  })
end

function H.prompt_keys()
  local function send()
    local text = view.take_prompt()
    vim.cmd.stopinsert()
    view.focus_conversation()
    M.send(text)
  end
  return {
    n = { ['<CR>'] = { 'Send the task', send }, ['<C-c>'] = { 'Stop the turn', M.stop }, q = { 'Close the panel', view.close } },
    i = { ['<C-s>'] = { 'Send the task', send } },
  }
end

function H.edit_prompt()
  view.focus_prompt()
  vim.cmd.startinsert()
end

function H.attach(name, block)
  H.attached[#H.attached + 1] = { name = name, block = block }
  view.attached(H.attached)
end

function H.session_title(one)
  local day = (one.updatedAt or ''):gsub('T(%d+:%d+).*', ' %1')
  return ('%s  %s'):format(day, one.title or 'untitled')
end

--- |vim.ui.select()|, with a word where there is nothing to choose from.
function H.select(items, prompt, format_item, run)
  if #items == 0 then
    return server.warn('there is nothing to choose from')
  end
  vim.ui.select(items, { prompt = prompt, format_item = format_item }, function(item)
    if item then
      run(item)
    end
  end)
end

return M
