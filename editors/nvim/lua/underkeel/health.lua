--- `:checkhealth underkeel`.
local M = {}
local H = {}

function M.check()
  local health = vim.health
  health.start('underkeel: Neovim')
  H.neovim(health)
  health.start('underkeel: program')
  H.program(health)
  health.start('underkeel: language server')
  H.server(health)
  health.start('underkeel: keys')
  H.keys(health)
end

-- Helpers ---------------------------------------------------------------------------------------

function H.neovim(health)
  if vim.fn.has('nvim-0.10') == 1 then
    health.ok('Neovim ' .. tostring(vim.version()))
  else
    health.error('Neovim is older than 0.10', { 'Install Neovim 0.10 or later' })
  end
  local native = require('underkeel.native').available()
  local wanted = require('underkeel').config.ghost.native
  if native and wanted then
    health.info("Ghost text is drawn by Neovim's own inline completion (ghost.native = true)")
  else
    health.info('Ghost text is drawn by Underkeel')
  end
  if not pcall(vim.treesitter.language.add, 'markdown') then
    health.warn('No tree-sitter parser for Markdown', { 'Explanations are shown without highlighting' })
  end
end

function H.program(health)
  local cmd = require('underkeel').config.cmd
  local path = vim.fn.exepath(cmd[1])
  if path == '' then
    return health.error(("The program '%s' was not found on the PATH"):format(cmd[1]), {
      'Install it from a checkout of Underkeel: uv tool install PATH, or pip install PATH',
      "Or set its path: require('underkeel').setup({ cmd = { '/path/to/underkeel', 'lsp' } })",
    })
  end
  health.ok(('%s is %s'):format(cmd[1], path))
  if cmd[#cmd] ~= 'lsp' then
    return
  end
  cmd = require('underkeel.server').command(require('underkeel').config)
  local status = vim.list_extend(vim.list_slice(cmd, 1, #cmd - 1), { 'status' })
  local started, done = pcall(function()
    return vim.system(status, { text = true, cwd = vim.uv.os_homedir(), env = { NO_COLOR = '1' } }):wait(5000)
  end)
  if started and done.code == 0 then
    health.ok('The daemon is running:\n' .. vim.trim(done.stdout))
  else
    local output = started and vim.trim((done.stderr or '') .. (done.stdout or '')) or tostring(done)
    health.info('The daemon is not running; the first suggestion starts it. ' .. output)
  end
end

function H.server(health)
  local server = require('underkeel.server')
  local clients = vim.lsp.get_clients({ name = server.NAME })
  if #clients == 0 then
    return health.warn('No language server is running', {
      "Call require('underkeel').setup() and open a file",
      ':Underkeel lsplog shows its errors',
    })
  end
  for _, client in ipairs(clients) do
    local version = vim.tbl_get(client, 'server_info', 'version') or 'of an unknown version'
    health.ok(('Client %d, server %s, positions in %s'):format(client.id, version, client.offset_encoding))
    if not client.server_capabilities.inlineCompletionProvider then
      health.error('This server has no inline completion', { 'Update Underkeel' })
    end
  end
  for _, buf in ipairs(vim.api.nvim_list_bufs()) do
    local reason = vim.bo[buf].buflisted and vim.bo[buf].filetype ~= '' and server.why_not_served(buf)
    if reason then
      health.info(('Buffer %d is not served: %s'):format(buf, reason))
    end
  end
  for _, line in ipairs(require('underkeel.status').lines()) do
    health.info(line)
  end
end

function H.keys(health)
  for action, lhs in vim.spairs(require('underkeel').config.mappings) do
    local other = lhs ~= '' and vim.fn.maparg(lhs, 'i', false, true) or {}
    if lhs == '' then
      health.info(action .. ': not mapped')
    elseif action ~= 'trigger' and other.rhs and other.buffer == 1 then
      health.info(('%s: %s (replaces a mapping of this buffer while ghost text shows)'):format(action, lhs))
    else
      health.ok(('%s: %s'):format(action, lhs))
    end
  end
end

return M
