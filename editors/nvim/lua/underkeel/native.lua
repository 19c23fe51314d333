--- Ghost text by Neovim's own |vim.lsp.inline_completion| (0.12 and later).
---
--- Neovim asks, draws and cycles; this adds the keys, and word and line accepts through `on_accept`.
local M = {}
local H = {}

local text = require('underkeel.text')

function M.available()
  return vim.lsp.inline_completion ~= nil
end

--- Enable it for every buffer the server serves.
function M.setup(config)
  vim.api.nvim_create_autocmd('LspAttach', {
    group = vim.api.nvim_create_augroup('UnderkeelNative', { clear = true }),
    desc = "Let Neovim's inline completion ask the Underkeel server",
    callback = function(args)
      local client = vim.lsp.get_client_by_id(args.data.client_id)
      if client and client.name == require('underkeel.server').NAME then
        M.refresh(args.buf)
        H.map(config.mappings, args.buf)
      end
    end,
  })
end

--- Turn it on or off in a buffer, as the configuration says now.
function M.refresh(buf)
  local enabled = require('underkeel').is_enabled(buf)
  vim.lsp.inline_completion.enable(enabled, { bufnr = buf })
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

--- Insert a word or line; Neovim asks again after it, and the server answers from what it knows.
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

function H.map(mappings, buf)
  local actions = {
    accept = function() return M.accept('all') end,
    accept_word = function() return M.accept('word') end,
    accept_line = function() return M.accept('line') end,
    next = function() return M.cycle(1) end,
    previous = function() return M.cycle(-1) end,
  }
  for action, run in pairs(actions) do
    local lhs = mappings[action]
    if lhs and lhs ~= '' then
      vim.keymap.set('i', lhs, function()
        if not run() then
          local keys = vim.api.nvim_replace_termcodes(lhs, true, true, true)
          vim.api.nvim_feedkeys(keys, 'ni', false)
        end
      end, { buffer = buf, desc = 'Underkeel ' .. action:gsub('_', ' ') })
    end
  end
end

return M
