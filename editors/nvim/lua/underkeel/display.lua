--- Ghost text on the screen: extmarks that draw one candidate, and the keys that act on it.
local M = {}
local H = {}

local text = require('underkeel.text')

H.namespace = vim.api.nvim_create_namespace('underkeel.ghost')

--- Draw a candidate at the cursor.
---
---@param at { buf: integer, row: integer, col: integer } cursor, 0-based
---@param line string the cursor's line
---@param candidate underkeel.Candidate
---@param counter string|false text at the end of the line, such as ' 1/3'
function M.draw(at, line, candidate, counter)
  local layout = text.layout(candidate, line, at.col)
  local tabstop = vim.bo[at.buf].tabstop
  local column = vim.fn.strdisplaywidth(line:sub(1, at.col))
  local below = {}
  for _, ghost in ipairs(layout.below) do
    below[#below + 1] = { { text.expand_tabs(ghost, 0, tabstop), 'UnderkeelGhost' } }
  end
  if layout.tail ~= '' then
    local width = vim.fn.strdisplaywidth(layout.below[#layout.below])
    table.insert(below[#below], { text.expand_tabs(layout.tail, width, tabstop), 'UnderkeelMoved' })
  end
  if layout.cover then
    local first = text.expand_tabs(layout.cover, column, tabstop)
    local covered = vim.fn.strdisplaywidth(line:sub(at.col + 1), column)
    local blank = math.max(0, covered - vim.fn.strdisplaywidth(first, column))
    H.mark(at, at.col, 'overlay', { { first, 'UnderkeelGhost' }, { (' '):rep(blank), 'Normal' } })
  end
  for _, piece in ipairs(layout.pieces) do
    local from = vim.fn.strdisplaywidth(line:sub(1, piece.col))
    H.mark(at, piece.col, 'inline', { { text.expand_tabs(piece.text, from, tabstop), 'UnderkeelGhost' } })
  end
  if #below > 0 then
    vim.api.nvim_buf_set_extmark(at.buf, H.namespace, at.row, at.col, { virt_lines = below })
  end
  if counter then
    H.mark(at, at.col, 'eol', { { counter, 'UnderkeelCounter' } })
  end
end

--- Remove everything that was drawn in a buffer.
function M.clear(buf)
  vim.api.nvim_buf_clear_namespace(buf, H.namespace, 0, -1)
end

--- Map keys of insert mode in a buffer. Where an action returns false, the key does what it does
--- without the mapping.
---
---@param buf integer
---@param mappings table<string, string> key by action; an empty string maps nothing
---@param actions table<string, { [1]: string, [2]: fun(): boolean }> description, function
---@param decline fun(key: string) called where an action returned false; must press the key
---@return table<string, table> replaced buffer-local mappings by key; an empty table for none
function M.map_keys(buf, mappings, actions, decline)
  local replaced = {}
  for action, known in pairs(actions) do
    local key = mappings[action]
    if key ~= '' then
      local old = vim.fn.maparg(key, 'i', false, true)
      replaced[key] = old.buffer == 1 and old or {}
      vim.keymap.set('i', key, function()
        if not known[2]() then
          decline(key)
        end
      end, { buffer = buf, desc = known[1] .. ' (Underkeel)' })
    end
  end
  return replaced
end

--- Remove the mappings and restore those that they replaced.
---
---@param replaced table<string, table> what `map_keys` returned
function M.unmap_keys(buf, replaced)
  for key, old in pairs(replaced) do
    pcall(vim.keymap.del, 'i', key, { buffer = buf })
    if next(old) then
      vim.api.nvim_buf_call(buf, function()
        vim.fn.mapset('i', false, old)
      end)
    end
  end
end

--- Press a key as the user would.
---
---@param remap boolean whether mappings apply
function M.press(key, remap)
  local codes = vim.api.nvim_replace_termcodes(key, true, true, true)
  vim.api.nvim_feedkeys(codes, remap and 'mi' or 'ni', false)
end

-- Helpers ---------------------------------------------------------------------------------------

function H.mark(at, col, position, chunks)
  vim.api.nvim_buf_set_extmark(at.buf, H.namespace, at.row, col, {
    virt_text = chunks,
    virt_text_pos = position,
    hl_mode = 'combine',
  })
end

return M
