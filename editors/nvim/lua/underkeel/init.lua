--- *underkeel* Ghost text, edits and an agent from a model on this machine.
---
--- Call `require('underkeel').setup()` once; see `:help underkeel`. This module is the public interface:
--- configuration, switches, ghost text, explanations, status. It delegates to ghost (or native on
--- Neovim 0.12), explain, status and server.
local Underkeel = {}
local H = {}

-- Setup -----------------------------------------------------------------------------------------

--- Check the configuration, define highlights, keys and autocommands, and start the server.
---
---@param config table? overrides parts of |underkeel.config|; a wrong value raises an error
function Underkeel.setup(config)
  Underkeel.config = H.checked(config or {})
  vim.api.nvim_create_augroup('Underkeel', { clear = true })
  H.highlight()
  vim.api.nvim_create_autocmd('ColorScheme', {
    group = 'Underkeel',
    desc = "Define Underkeel's highlight groups again",
    callback = H.highlight,
  })
  H.engine().setup(Underkeel.config)
  require('underkeel.status').setup()
  require('underkeel.next_edit').setup()
  H.map_trigger()
  H.is_set_up = true
  if Underkeel.config.enabled then
    Underkeel.enable()
  end
end

--- Defaults. Every field can be changed in setup.
Underkeel.config = {
  -- The language server's command. Only your own configuration can change it.
  cmd = { 'underkeel', 'lsp' },

  -- Whether ghost text is on at the start. `:Underkeel enable` and `disable` switch it.
  enabled = true,

  -- Ghost text by file type; it is on for file types that are not listed.
  filetypes = { help = false, gitcommit = false },

  -- A project is the nearest parent folder that contains one of these.
  root_markers = { '.git', '.hg', 'pyproject.toml', 'package.json', 'go.mod', 'Cargo.toml' },

  -- Settings for the server, as in its config.toml: { completion = { max_tokens = 32 } }.
  settings = {},

  agent = {
    -- MCP servers whose tools the agent may use, by name: { command = 'program', args = { ... },
    -- env = { NAME = 'value' } } or { url = 'https://...', headers = { ... } }. Each is approved once.
    mcp_servers = {},
  },

  ghost = {
    -- Request suggestions as you type; otherwise only with the `trigger` key.
    auto = true,
    -- Show ghost text while the popup menu is open too.
    beside_menu = false,
    -- Use Neovim's own inline completion where it exists (0.12). It does not cancel outdated
    -- requests, and typing the suggested text requests a new suggestion.
    native = true,
  },

  -- Insert mode keys. All but `trigger` are mapped only while ghost text shows, and only in its
  -- buffer. An empty string maps nothing.
  mappings = {
    accept = '<Tab>',
    accept_word = '<M-Right>',
    accept_line = '<M-Down>',
    next = '<M-]>',
    previous = '<M-[>',
    dismiss = '<C-]>',
    trigger = '<M-Bslash>',
  },

  explain = {
    -- 'split' (on the right) or 'float'.
    window = 'split',
    -- Width in columns; a value below 1 is a fraction of the screen.
    width = 0.4,
  },

  edit = {
    -- Show an edit as a diff before it changes the buffer.
    preview = true,
  },
}

-- Switches --------------------------------------------------------------------------------------

--- Turn ghost text on, everywhere or for a file type, and start the server if it is not running.
---
---@param filetype string?
function Underkeel.enable(filetype)
  if filetype then
    Underkeel.config.filetypes[filetype] = true
  else
    H.is_on = true
  end
  if not H.is_started then
    H.is_started = require('underkeel.server').enable(Underkeel.config)
  end
  H.refresh()
end

--- Turn ghost text off, everywhere or for a file type. The server keeps running for code actions.
---
---@param filetype string?
function Underkeel.disable(filetype)
  if filetype then
    Underkeel.config.filetypes[filetype] = false
  else
    H.is_on = false
  end
  H.refresh()
end

--- Turn ghost text on or off everywhere.
---
---@return boolean enabled
function Underkeel.toggle()
  if H.is_on then
    Underkeel.disable()
  else
    Underkeel.enable()
  end
  return H.is_on
end

--- Whether ghost text is on in a buffer. `vim.b.underkeel_disable = true` turns it off in one.
---
---@param buf integer? default: the current buffer
function Underkeel.is_enabled(buf)
  buf = buf or vim.api.nvim_get_current_buf()
  return H.is_on
    and not vim.b[buf].underkeel_disable
    and Underkeel.config.filetypes[vim.bo[buf].filetype] ~= false
end

--- Restart the language server.
function Underkeel.restart()
  require('underkeel.server').restart(Underkeel.config)
end

-- Ghost text ------------------------------------------------------------------------------------

--- Accept ghost text: 'all' (default), 'word' or 'line'.
---
---@param what string?
---@return boolean accepted
function Underkeel.accept(what)
  return H.engine().accept(what or 'all')
end

--- Show the next candidate.
function Underkeel.next()
  return H.engine().cycle(1)
end

--- Show the previous candidate.
function Underkeel.previous()
  return H.engine().cycle(-1)
end

--- Remove the ghost text until the text changes.
function Underkeel.dismiss()
  return require('underkeel.ghost').dismiss()
end

--- Request several candidates now.
function Underkeel.trigger()
  if H.engine() == require('underkeel.ghost') then
    require('underkeel.ghost').trigger()
  else
    vim.lsp.inline_completion.get()
  end
end

--- Whether ghost text drawn by Underkeel is on the screen.
function Underkeel.is_visible()
  return require('underkeel.ghost').visible()
end

-- Explanations ----------------------------------------------------------------------------------

--- Explain lines, the symbol under the cursor, a diagnostic or the whole file in a new window.
---
---@param what { kind: 'selection'|'symbol'|'file'|'diagnostic', first: integer?, last: integer? }?
---   lines counted from 1
function Underkeel.explain(what)
  require('underkeel.explain').explain(what or { kind = 'symbol' })
end

-- Status ----------------------------------------------------------------------------------------

--- The server's last status: `Status` in editors/PROTOCOL.md.
---
---@return table
function Underkeel.status()
  return require('underkeel.status').get()
end

--- A short text for a statusline: `%{v:lua.require'underkeel'.statusline()}`.
---
---@return string
function Underkeel.statusline()
  return require('underkeel.status').line(H.is_on and Underkeel.is_enabled())
end

-- Helpers ---------------------------------------------------------------------------------------

H.defaults = vim.deepcopy(Underkeel.config)
H.is_set_up = false
H.is_started = false
H.is_on = false

H.SHAPE = {
  cmd = 'table',
  enabled = 'boolean',
  filetypes = 'table',
  root_markers = 'table',
  settings = 'table',
  agent = { mcp_servers = 'table' },
  ghost = { auto = 'boolean', beside_menu = 'boolean', native = 'boolean' },
  mappings = {
    accept = 'string',
    accept_word = 'string',
    accept_line = 'string',
    next = 'string',
    previous = 'string',
    dismiss = 'string',
    trigger = 'string',
  },
  explain = { window = 'string', width = 'number' },
  edit = { preview = 'boolean' },
}

--- The defaults with the user's changes.
function H.checked(config)
  H.check('config', config, H.SHAPE)
  local merged = vim.tbl_deep_extend('force', vim.deepcopy(H.defaults), config)
  if type(merged.cmd[1]) ~= 'string' then
    H.fail('config.cmd', 'a list of strings, the program first')
  end
  if merged.explain.window ~= 'split' and merged.explain.window ~= 'float' then
    H.fail('config.explain.window', "'split' or 'float'")
  end
  for name, one in pairs(merged.agent.mcp_servers) do
    if type(one) ~= 'table' or type(one.command or one.url) ~= 'string' then
      H.fail('config.agent.mcp_servers.' .. name, 'a table with command or url')
    end
  end
  return merged
end

function H.check(path, value, shape)
  if type(shape) == 'string' then
    return type(value) == shape or H.fail(path, 'a ' .. shape)
  end
  if type(value) ~= 'table' then
    H.fail(path, 'a table')
  end
  for key, item in pairs(value) do
    local at = ('%s.%s'):format(path, key)
    if shape[key] == nil then
      local known = vim.tbl_keys(shape)
      table.sort(known)
      error(('underkeel: unknown field %s; the fields are %s'):format(at, table.concat(known, ', ')), 0)
    end
    H.check(at, item, shape[key])
  end
end

function H.fail(path, expected)
  error(('underkeel: %s must be %s'):format(path, expected), 0)
end

function H.highlight()
  local links = {
    UnderkeelGhost = 'NonText', -- the suggestion
    UnderkeelMoved = 'Normal', -- text after the cursor, drawn where it would move to
    UnderkeelCounter = 'MoreMsg', -- number of the candidate
    UnderkeelStreaming = 'Comment', -- state of an explanation
    UnderkeelEditNew = 'DiffAdd', -- what it puts there
  }
  for group, link in pairs(links) do
    vim.api.nvim_set_hl(0, group, { default = true, link = link })
  end
  -- What a next edit replaces: in many themes only its colour would tell it from what it becomes.
  local old = vim.api.nvim_get_hl(0, { name = 'DiffDelete', link = false })
  vim.api.nvim_set_hl(0, 'UnderkeelEditOld', vim.tbl_extend('force', old, { default = true, strikethrough = true }))
end

--- The module that requests and draws ghost text: this plugin's, or Neovim's own.
function H.engine()
  local native = require('underkeel.native')
  return Underkeel.config.ghost.native and native.available() and native or require('underkeel.ghost')
end

function H.map_trigger()
  local lhs = Underkeel.config.mappings.trigger
  if lhs ~= '' then
    vim.keymap.set('i', lhs, Underkeel.trigger, { desc = 'Request ghost text (Underkeel)' })
  end
end

--- Show or remove ghost text as the switches say now.
function H.refresh()
  local engine = H.engine()
  if engine.refresh then
    for _, client in ipairs(vim.lsp.get_clients({ name = require('underkeel.server').NAME })) do
      for buf in pairs(client.attached_buffers or {}) do
        engine.refresh(buf)
      end
    end
  else
    engine.clear()
    vim.schedule(engine.update)
  end
end

return Underkeel
