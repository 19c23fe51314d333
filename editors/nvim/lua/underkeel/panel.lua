--- Windows for explanations and diffs, and a Markdown buffer to which text is appended.
local M = {}

--- Create a Markdown buffer and show it; the cursor stays in its window.
---
---@param title string
---@param keys table<string, { [1]: string, [2]: fun() }> keys of normal mode: description, function
---@param on_wipeout fun(buf: integer)
---@return integer buf
function M.open(title, keys, on_wipeout)
  local buf = vim.api.nvim_create_buf(false, true)
  vim.bo[buf].bufhidden = 'wipe'
  local win = M.window(buf, title, { enter = false, wide = false })
  vim.wo[win].conceallevel = 2
  vim.bo[buf].filetype = 'markdown'
  pcall(vim.treesitter.start, buf, 'markdown')
  vim.bo[buf].modifiable = false
  M.append(buf, ('# %s\n\n'):format(title))
  M.map(buf, keys)
  vim.api.nvim_create_autocmd('BufWipeout', {
    buffer = buf,
    desc = 'Cancel the explanation whose window was closed',
    callback = function()
      on_wipeout(buf)
    end,
  })
  return buf
end

--- Show a buffer in a split or a floating window, as configured.
---
---@param title string
---@param opts { enter: boolean, wide: boolean } whether the cursor moves there; whether the window
---   takes the full width, as for a diff
---@return integer win
function M.window(buf, title, opts)
  local config = require('underkeel').config.explain
  local share = config.width < 1 and math.floor(config.width * vim.o.columns) or config.width
  local height = math.max(5, math.floor(vim.o.lines * (opts.wide and 0.5 or 0.6)))
  local window = { style = 'minimal', split = 'right', win = -1, width = share }
  if config.window == 'float' then
    window = {
      style = 'minimal', relative = 'editor', anchor = 'NE', row = 1, col = vim.o.columns - 1,
      width = opts.wide and vim.o.columns - 4 or share, height = height,
      border = 'rounded', title = ' ' .. title .. ' ',
    }
  elseif opts.wide then
    height = math.min(height, vim.api.nvim_buf_line_count(buf) + 1)
    window = { style = 'minimal', split = 'below', win = -1, height = height }
  end
  local win = vim.api.nvim_open_win(buf, opts.enter, window)
  vim.wo[win].wrap, vim.wo[win].linebreak = true, true
  if not pcall(vim.api.nvim_buf_set_name, buf, 'underkeel://' .. title) then
    vim.api.nvim_buf_set_name(buf, ('underkeel://%d/%s'):format(buf, title))
  end
  return win
end

--- Map keys of normal mode in a buffer; `q` closes its window.
---
---@param keys table<string, { [1]: string, [2]: fun() }> description, function
function M.map(buf, keys)
  local function map(lhs, run, desc)
    vim.keymap.set('n', lhs, run, { buffer = buf, nowait = true, desc = desc })
  end
  map('q', '<Cmd>close<CR>', 'Close this window')
  for lhs, action in pairs(keys) do
    map(lhs, action[2], action[1])
  end
end

--- Append text; windows whose cursor is on the last line scroll with it.
function M.append(buf, addition)
  if not vim.api.nvim_buf_is_valid(buf) then
    return
  end
  local following = vim.tbl_filter(function(win)
    return vim.api.nvim_win_get_cursor(win)[1] == vim.api.nvim_buf_line_count(buf)
  end, vim.fn.win_findbuf(buf))
  vim.bo[buf].modifiable = true
  local lines = vim.split(addition:gsub('\r\n?', '\n'), '\n', { plain = true })
  local row = vim.api.nvim_buf_line_count(buf) - 1
  local last = vim.api.nvim_buf_get_lines(buf, row, row + 1, false)[1]
  vim.api.nvim_buf_set_text(buf, row, #last, row, #last, lines)
  vim.bo[buf].modifiable = false
  vim.bo[buf].modified = false
  for _, win in ipairs(following) do
    vim.api.nvim_win_set_cursor(win, { vim.api.nvim_buf_line_count(buf), 0 })
  end
end

--- Show a note above the text: the state, and the keys that can be used now.
function M.set_note(buf, note)
  for _, win in ipairs(vim.fn.win_findbuf(buf)) do
    vim.wo[win].winbar = '%#UnderkeelStreaming#' .. note:gsub('%%', '%%%%')
  end
end

return M
