--- Ghost text by Neovim's own |vim.lsp.inline_completion| (0.12 and later).
---
--- Neovim requests, draws and cycles; this module adds the keys, and accepts words and lines through
--- `on_accept`.
local M = {}
local H = {}

local display = require('underkeel.display')
local text = require('underkeel.text')

function M.available()
  return vim.lsp.inline_completion ~= nil
end

--- Enable it for every buffer the server serves.
function M.setup(config)
  H.is_set_up = true
  vim.api.nvim_create_autocmd('LspAttach', {
    group = vim.api.nvim_create_augroup('UnderkeelNative', { clear = true }),
    desc = "Use Neovim's inline completion with the Underkeel server",
    callback = function(args)
      local client = vim.lsp.get_client_by_id(args.data.client_id)
      if client and client.name == require('underkeel.server').NAME then
        M.refresh(args.buf)
        display.map_keys(args.buf, config.mappings, H.ACTIONS, function(key)
          display.press(key, false) -- the mapping stays, and must not run itself
        end)
        vim.schedule(M.retry)
      end
    end,
  })
end

--- Turn it on or off in a buffer, as configured now.
function M.refresh(buf)
  local enabled = require('underkeel').is_enabled(buf)
  vim.lsp.inline_completion.enable(enabled, { bufnr = buf })
end

--- Let Neovim request completion for what was typed while the server was not ready: it does so when
--- the cursor moves.
function M.retry()
  local buf = vim.api.nvim_get_current_buf()
  local inserts = vim.api.nvim_get_mode().mode:sub(1, 1) == 'i'
  if H.is_set_up and inserts and require('underkeel').is_enabled(buf) then
    vim.api.nvim_exec_autocmds('CursorMovedI', { buffer = buf, modeline = false })
  end
end

---@param what 'all' | 'word' | 'line'
---@return boolean accepted
function M.accept(what)
  if what == 'all' then
    return vim.lsp.inline_completion.get() and true or false
  end
  return vim.lsp.inline_completion.get({ on_accept = function(item) H.accept_part(item, what) end })
    and true
    or false
end

---@param step integer
function M.cycle(step)
  vim.lsp.inline_completion.select({ count = step })
  return true
end

-- Helpers ---------------------------------------------------------------------------------------

H.is_set_up = false

--- Insert a word or line. Neovim sends a new request then, which the server answers from its cache.
function H.accept_part(item, what)
  local insert = item.insert_text
  if type(insert) ~= 'string' then
    return
  end
  local typed = vim.api.nvim_win_get_cursor(0)[2] - H.start_column(item)
  local rest = insert:sub(math.max(0, typed) + 1)
  local lines = vim.split(text[what](rest), '\n', { plain = true })
  vim.api.nvim_put(lines, 'c', false, true)
end

--- Start of the item's range; the field's name differs between development versions of 0.12.
function H.start_column(item)
  local range = item.range
  return range and (range.start_col or (range.start and range.start.col))
    or vim.api.nvim_win_get_cursor(0)[2]
end

H.ACTIONS = {
  accept = { 'Accept ghost text', function() return M.accept('all') end },
  accept_word = { 'Accept a word of ghost text', function() return M.accept('word') end },
  accept_line = { 'Accept a line of ghost text', function() return M.accept('line') end },
  next = { 'Next ghost text', function() return M.cycle(1) end },
  previous = { 'Previous ghost text', function() return M.cycle(-1) end },
}

return M
