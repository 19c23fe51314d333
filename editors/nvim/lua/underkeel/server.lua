--- The language server: how it is started, found, asked and stopped.
---
--- One place knows what differs between Neovim 0.10, 0.11 and later.
local M = {}
local H = {}

M.NAME = 'underkeel'

--- The client configuration, for `lsp/underkeel.lua` and for |vim.lsp.start()|.
---
---@param config table the checked plugin configuration
function M.config(config)
  local capabilities = vim.lsp.protocol.make_client_capabilities()
  capabilities = vim.tbl_deep_extend('force', capabilities, {
    textDocument = { inlineCompletion = { dynamicRegistration = false } },
    -- The preview keeps these two promises; Neovim itself makes only the first come true.
    workspace = {
      workspaceEdit = {
        documentChanges = true,
        changeAnnotationSupport = { groupsOnLabel = false },
      },
    },
    experimental = { underkeel = { status = true, explanation = true } },
  })
  return {
    name = M.NAME,
    cmd = config.cmd,
    root_markers = config.root_markers,
    capabilities = capabilities,
    init_options = { underkeel = next(config.settings) and config.settings or vim.empty_dict() },
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

--- Start the server for every file buffer from now on.
---
---@return boolean started false where the command is not there; says so once
function M.enable(config)
  if vim.fn.executable(config.cmd[1]) == 0 then
    local message = "underkeel: there is no program '%s'. Install it (pip install underkeel) or set"
      .. " config.cmd; ':checkhealth underkeel' says more."
    vim.notify_once(message:format(config.cmd[1]), vim.log.levels.WARN)
    return false
  end
  if H.has_native_config() then
    vim.lsp.config(M.NAME, M.config(config))
    vim.lsp.enable(M.NAME)
  else
    H.enable_by_autocmd(M.config(config))
  end
  return true
end

--- Stop every running server and start none.
function M.disable()
  if H.has_native_config() then
    vim.lsp.enable(M.NAME, false)
  end
  pcall(vim.api.nvim_del_augroup_by_name, H.GROUP)
  for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
    H.call(client, 'stop')
  end
end

--- Stop, wait for the end, start again.
function M.restart(config)
  M.disable()
  local left = 50
  local function again()
    left = left - 1
    if left > 0 and #vim.lsp.get_clients({ name = M.NAME }) > 0 then
      return vim.defer_fn(again, 100)
    end
    for _, client in ipairs(vim.lsp.get_clients({ name = M.NAME })) do
      H.call(client, 'stop', true)
    end
    M.enable(config)
  end
  again()
end

--- Tell the user what cannot be done.
function M.say(message)
  vim.notify('underkeel: ' .. message, vim.log.levels.WARN)
end

--- The client of a buffer; where there is none, the user is told.
function M.client_or_say(buf)
  local client = M.client(buf)
  if not client then
    M.say("no language server here; ':checkhealth underkeel' tells why")
  end
  return client
end

--- The client that serves a buffer, or nil.
function M.client(buf)
  return vim.lsp.get_clients({ bufnr = buf, name = M.NAME })[1]
end

--- Does this server speak editors/PROTOCOL.md?
function M.speaks_protocol(client)
  return vim.tbl_get(client.server_capabilities, 'experimental', 'underkeel') ~= nil
end

---@return integer? id nil where the server is gone
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

--- Run a server command without looking at client-side commands of the same name.
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

--- The LSP range of whole lines that count from 1.
function M.lines(buf, first, last)
  last = math.min(last, vim.api.nvim_buf_line_count(buf))
  return { start = { line = first - 1, character = 0 }, ['end'] = { line = last, character = 0 } }
end

--- A diagnostic as LSP has it; Neovim keeps the server's own where one sent it.
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

--- Where the server writes; Neovim's own log of the protocol.
function M.log_path()
  return vim.lsp.get_log_path and vim.lsp.get_log_path() or vim.lsp.log.get_filename()
end

-- Helpers ---------------------------------------------------------------------------------------

H.GROUP = 'UnderkeelServer'

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

function H.enable_by_autocmd(config)
  local start = function(buf)
    if vim.bo[buf].buftype ~= '' then
      return
    end
    local root = vim.fs.root(buf, config.root_markers)
    vim.lsp.start(vim.tbl_extend('force', config, { root_dir = root }), { bufnr = buf })
  end
  vim.api.nvim_create_autocmd('FileType', {
    group = vim.api.nvim_create_augroup(H.GROUP, { clear = true }),
    desc = 'Start the Underkeel language server for files',
    callback = function(args)
      start(args.buf)
    end,
  })
  for _, buf in ipairs(vim.api.nvim_list_bufs()) do
    if vim.api.nvim_buf_is_loaded(buf) and vim.bo[buf].filetype ~= '' then
      start(buf)
    end
  end
end

return M
