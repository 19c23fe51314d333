--- The language server: how it is started, attached to buffers, called and stopped.
---
--- This module alone knows what differs between Neovim 0.10, 0.11 and later.
local M = {}
local H = {}

local languages = require('underkeel.languages')

M.NAME = 'underkeel'

--- The client configuration, for `lsp/underkeel.lua` and for |vim.lsp.start()|.
---
---@param config table the checked plugin configuration
function M.config(config)
  local capabilities = vim.lsp.protocol.make_client_capabilities()
  capabilities = vim.tbl_deep_extend('force', capabilities, {
    textDocument = { inlineCompletion = { dynamicRegistration = false } },
    -- preview.lua keeps both promises; Neovim itself only the first.
    workspace = {
      workspaceEdit = {
        documentChanges = true,
        changeAnnotationSupport = { groupsOnLabel = false },
      },
    },
    experimental = { underkeel = { status = true, explanation = true, completionUpdate = true } },
  })
  return {
    name = M.NAME,
    cmd = M.command(config),
    -- Not the project: Python would import modules from there with `python -m`.
    cmd_cwd = vim.uv.os_homedir(),
    root_markers = config.root_markers,
    root_dir = H.has_native_config() and function(buf, on_dir)
      if not M.why_not_served(buf) then
        on_dir(vim.fs.root(buf, config.root_markers))
      end
    end or nil,
    capabilities = capabilities,
    get_language_id = function(_, filetype)
      return languages.id(filetype)
    end,
    init_options = { underkeel = next(config.settings) and config.settings or vim.empty_dict() },
    before_init = function(params)
      params.capabilities.general.positionEncodings = H.position_encodings()
    end,
    on_init = function(client)
      require('underkeel.preview').guard(client)
    end,
    handlers = {
      ['workspace/applyEdit'] = function(...)
        return require('underkeel.preview').on_apply_edit(...)
      end,
      ['underkeel/status'] = function(_, status)
        require('underkeel.status').set(status)
      end,
      ['underkeel/completionUpdate'] = function(_, update)
        require('underkeel.ghost').on_update(update)
      end,
      ['underkeel/explanation'] = function(_, event)
        require('underkeel.explain').on_event(event)
      end,
    },
    commands = {
      ['underkeel.explain'] = function(command, context)
        require('underkeel.explain').run((command.arguments or {})[1] or {}, context)
      end,
      ['underkeel.edit'] = function(command, context)
        require('underkeel.edits').edit((command.arguments or {})[1] or {}, context)
      end,
    },
    on_exit = vim.schedule_wrap(function(code, signal)
      require('underkeel.status').on_exit(code, signal)
    end),
  }
end

--- The server's command line, its program with the full path: it does not start in Neovim's folder.
---
---@param config table the checked plugin configuration
---@return string[]
function M.command(config)
  local cmd = vim.deepcopy(config.cmd)
  local path = vim.fn.exepath(cmd[1])
  cmd[1] = path ~= '' and vim.fn.fnamemodify(path, ':p') or cmd[1]
  return cmd
end

--- The command line program: what config.cmd names before `lsp`, so that both are one installation.
---
---@return string[]
function M.program()
  local cmd = M.command(require('underkeel').config)
  if cmd[#cmd] == 'lsp' then
    table.remove(cmd)
    return cmd
  end
  return { 'underkeel' }
end

--- Start the server for every file buffer from now on.
---
---@return boolean started false where the program does not exist; says so once
function M.enable(config)
  if vim.fn.executable(config.cmd[1]) == 0 then
    local message = "underkeel: the program '%s' was not found. Install it from a checkout of Underkeel"
      .. " (uv tool install PATH) or set config.cmd; see ':checkhealth underkeel'."
    vim.notify_once(message:format(config.cmd[1]), vim.log.levels.WARN)
    return false
  end
  H.current = config
  H.create_autocommands()
  if H.has_native_config() then
    vim.lsp.config(M.NAME, M.config(config))
    vim.lsp.enable(M.NAME)
  else
    for _, buf in ipairs(vim.api.nvim_list_bufs()) do
      H.attach(buf)
    end
  end
  return true
end

--- Stop every running server and start none.
function M.disable()
  if H.has_native_config() then
    vim.lsp.enable(M.NAME, false)
  end
  H.current = nil
  pcall(vim.api.nvim_del_augroup_by_name, H.GROUP)
  for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
    H.call(client, 'stop')
  end
end

--- Stop the server, wait until it has ended, and start it again.
function M.restart(config)
  M.disable()
  local tries = 50
  local function start()
    tries = tries - 1
    if tries > 0 and #vim.lsp.get_clients({ name = M.NAME }) > 0 then
      return vim.defer_fn(start, 100)
    end
    for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
      H.call(client, 'stop', true)
    end
    M.enable(config)
  end
  start()
end

-- Buffers ---------------------------------------------------------------------------------------

--- Why the server does not serve a buffer, as the end of a sentence; nil where it can.
---
--- A buffer without a name has the URI `file://`, like every other one, so two of them would be one
--- document. A carriage return or line feed inside a line is a line end in LSP but not in Neovim: every
--- position below it would be wrong.
---
---@param buf integer
---@return string?
function M.why_not_served(buf)
  if vim.bo[buf].buftype ~= '' then
    return 'it is not a file'
  elseif vim.api.nvim_buf_get_name(buf) == '' then
    return 'it has no name yet; save it first'
  elseif H.has_foreign_line_ends(buf, vim.api.nvim_buf_get_lines(buf, 0, -1, false)) then
    return 'it has carriage returns or line feeds inside lines'
  end
end

--- The client that serves a buffer, or nil.
function M.client(buf)
  return vim.lsp.get_clients({ bufnr = buf, name = M.NAME })[1]
end

--- The client that serves a buffer; if there is none, the user sees why.
function M.client_or_warn(buf)
  local client = M.client(buf)
  if not client then
    local reason = M.why_not_served(buf)
    M.warn(
      reason and ('this buffer is not served: ' .. reason)
        or "no language server runs for this buffer; see ':checkhealth underkeel'"
    )
  end
  return client
end

-- Messages --------------------------------------------------------------------------------------

--- Tell the user what is not possible.
function M.warn(message)
  vim.notify('underkeel: ' .. message, vim.log.levels.WARN)
end

--- Does this server speak editors/PROTOCOL.md?
function M.speaks_protocol(client)
  return vim.tbl_get(client.server_capabilities, 'experimental', 'underkeel') ~= nil
end

---@return integer? id nil where the server has ended
function M.request(client, method, params, handler, buf)
  local ok, id = H.call(client, 'request', method, params, handler, buf)
  return ok and id or nil
end

function M.notify(client, method, params)
  H.call(client, 'notify', method, params)
end

function M.cancel(client, id)
  H.call(client, 'cancel_request', id)
end

--- Run a command on the server, even if the client has a command of the same name.
---
---@return integer? id of the request
function M.execute(client, command, arguments, handler, buf)
  local params = { command = command, arguments = arguments }
  return M.request(client, 'workspace/executeCommand', params, handler or function() end, buf)
end

--- Byte column of a position's character on a line.
function M.byte_column(client, line, character)
  if vim.fn.has('nvim-0.11') == 1 then
    return vim.str_byteindex(line, client.offset_encoding, character, false)
  end
  if client.offset_encoding == 'utf-8' then
    return math.min(character, #line)
  end
  local ok, column = pcall(vim.str_byteindex, line, character, client.offset_encoding == 'utf-16')
  return ok and column or #line
end

--- The LSP range of whole lines, counted from 1.
function M.line_range(buf, first, last)
  last = math.min(last, vim.api.nvim_buf_line_count(buf))
  return { start = { line = first - 1, character = 0 }, ['end'] = { line = last, character = 0 } }
end

--- A diagnostic in LSP's form: the server's own where it sent one.
---
---@param diagnostic vim.Diagnostic
---@return table
function M.diagnostic(diagnostic)
  return vim.tbl_get(diagnostic, 'user_data', 'lsp')
    or {
      range = {
        start = { line = diagnostic.lnum, character = diagnostic.col },
        ['end'] = {
          line = diagnostic.end_lnum or diagnostic.lnum,
          character = diagnostic.end_col or diagnostic.col,
        },
      },
      message = diagnostic.message,
      severity = diagnostic.severity,
      source = diagnostic.source,
    }
end

--- Neovim's log of all language servers.
function M.log_path()
  return vim.lsp.get_log_path and vim.lsp.get_log_path() or vim.lsp.log.get_filename()
end

-- Helpers ---------------------------------------------------------------------------------------

H.GROUP = 'UnderkeelServer'
H.current = nil -- the plugin configuration while the server is enabled
H.watched = {} -- buffers whose changes are watched for foreign line ends

function H.has_native_config()
  return vim.fn.has('nvim-0.11') == 1
end

--- Client functions became methods in Neovim 0.11.
function H.call(client, name, ...)
  if vim.fn.has('nvim-0.11') == 1 then
    return client[name](client, ...)
  end
  return client[name](...)
end

function H.create_autocommands()
  local group = vim.api.nvim_create_augroup(H.GROUP, { clear = true })
  local function on(events, desc, callback)
    vim.api.nvim_create_autocmd(events, { group = group, desc = desc, callback = callback })
  end
  if not H.has_native_config() then
    on('FileType', 'Start the Underkeel language server for files', function(args)
      H.attach(args.buf)
    end)
  end
  -- Neovim sends changes of a renamed buffer under its new name, which the server has never opened.
  on('BufFilePre', 'Close the document of the old name', function(args)
    H.detach(args.buf)
  end)
  on({ 'BufFilePost', 'BufWritePost' }, 'Open the document of the new name', function(args)
    H.attach(args.buf)
  end)
  on('OptionSet', 'Serve only buffers whose line ends are clear', function(args)
    if args.match == 'fileformat' then
      H.review(vim.api.nvim_get_current_buf())
    end
  end)
  on('LspAttach', 'Watch a served buffer; use the position encoding of its other servers', function(args)
    local client = vim.lsp.get_client_by_id(args.data.client_id)
    if client and client.name == M.NAME then
      H.watch(args.buf)
    elseif client and M.client(args.buf) then
      H.agree_on_encoding(M.client(args.buf))
    end
  end)
end

--- Attach the server to a buffer that has a file type and can be served.
function H.attach(buf)
  if
    not H.current
    or not vim.api.nvim_buf_is_loaded(buf)
    or vim.bo[buf].filetype == ''
    or M.client(buf)
    or M.why_not_served(buf)
  then
    return
  end
  local config = H.has_native_config() and vim.deepcopy(vim.lsp.config[M.NAME]) or M.config(H.current)
  config.root_dir = vim.fs.root(buf, config.root_markers)
  vim.lsp.start(config, { bufnr = buf })
end

function H.detach(buf)
  local client = M.client(buf)
  if client then
    vim.lsp.buf_detach_client(buf, client.id)
  end
end

--- Attach or detach the server as the text of a buffer allows now.
function H.review(buf)
  if not vim.api.nvim_buf_is_valid(buf) then
    return
  elseif M.why_not_served(buf) then
    H.detach(buf)
  else
    H.attach(buf)
  end
end

--- Review a buffer when a change brings a foreign line end, or may have removed the last one.
function H.watch(buf)
  if H.watched[buf] then
    return
  end
  H.watched[buf] = true
  local pending = false
  local review = function()
    if not pending then
      pending = true
      vim.schedule(function()
        pending = false
        H.review(buf)
      end)
    end
  end
  vim.api.nvim_buf_attach(buf, false, {
    on_lines = function(_, _, _, first, _, last)
      if not M.client(buf) or H.has_foreign_line_ends(buf, vim.api.nvim_buf_get_lines(buf, first, last, false)) then
        review()
      end
    end,
    on_reload = review,
    on_detach = function()
      H.watched[buf] = nil
    end,
  })
end

--- Whether lines hold what LSP takes for a line end and Neovim does not. A carriage return at the
--- end of a line is part of its line end where lines end in a line feed.
function H.has_foreign_line_ends(buf, lines)
  local final = vim.bo[buf].fileformat == 'unix' and '\r.' or '\r'
  for _, line in ipairs(lines) do
    if line:find('\n', 1, true) or line:find(final) then
      return true
    end
  end
  return false
end

--- Position encodings to offer, the preferred one first. Neovim warns where two servers of a buffer
--- use different ones; UTF-16 is the one that every server knows.
---
---@return string[]
function H.position_encodings()
  local chosen = H.has_native_config()
    and vim.tbl_get(vim.lsp.config['*'] or {}, 'capabilities', 'general', 'positionEncodings')
  if chosen then
    return chosen
  end
  local used = { ['utf-16'] = 0 }
  for _, client in ipairs(vim.lsp.get_clients()) do
    if client.name ~= M.NAME then
      used[client.offset_encoding] = (used[client.offset_encoding] or 0) + 1
    end
  end
  local best = 'utf-16'
  for encoding, count in pairs(used) do
    best = count > used[best] and encoding or best
  end
  return best == 'utf-16' and { 'utf-16', 'utf-8', 'utf-32' } or { best, 'utf-16' }
end

--- Restart where the other servers, which started later, use another encoding.
function H.agree_on_encoding(client)
  local offered = vim.tbl_get(client, 'capabilities', 'general', 'positionEncodings')
  if offered and H.position_encodings()[1] ~= offered[1] then
    vim.schedule(function()
      if H.current and not H.call(client, 'is_stopped') then
        M.restart(H.current)
      end
    end)
  end
end

return M
