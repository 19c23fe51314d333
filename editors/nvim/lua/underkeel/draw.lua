--- Puts one candidate on the screen as extmarks, and takes it off again.
local M = {}
local H = {}

local text = require('underkeel.text')

H.namespace = vim.api.nvim_create_namespace('underkeel.ghost')

--- Draw a candidate at the cursor.
---
---@param here { buf: integer, row: integer, col: integer }
---@param line string the cursor's line
---@param candidate underkeel.Candidate
---@param counter string|false what to say at the end of the line
function M.show(here, line, candidate, counter)
  local layout = text.layout(candidate, line, here.col)
  local tabstop = vim.bo[here.buf].tabstop
  local column = vim.fn.strdisplaywidth(line:sub(1, here.col))
  local below = {}
  for _, ghost in ipairs(layout.below) do
    below[#below + 1] = { { text.expand_tabs(ghost, 0, tabstop), 'UnderkeelGhost' } }
  end
  if layout.tail ~= '' then
    local width = vim.fn.strdisplaywidth(layout.below[#layout.below])
    table.insert(below[#below], { text.expand_tabs(layout.tail, width, tabstop), 'UnderkeelMoved' })
  end
  local first = text.expand_tabs(layout.cover or '', column, tabstop)
  if layout.cover then
    local covered = vim.fn.strdisplaywidth(line:sub(here.col + 1), column)
    local blank = math.max(0, covered - vim.fn.strdisplaywidth(first, column))
    H.mark(here, here.col, 'overlay', { { first, 'UnderkeelGhost' }, { (' '):rep(blank), 'Normal' } })
  end
  for _, piece in ipairs(layout.pieces) do
    local at = vim.fn.strdisplaywidth(line:sub(1, piece.col))
    H.mark(here, piece.col, 'inline', { { text.expand_tabs(piece.text, at, tabstop), 'UnderkeelGhost' } })
  end
  if #below > 0 then
    vim.api.nvim_buf_set_extmark(here.buf, H.namespace, here.row, here.col, { virt_lines = below })
  end
  if counter then
    H.mark(here, here.col, 'eol', { { counter, 'UnderkeelCounter' } })
  end
end

--- Remove everything that was drawn in a buffer.
function M.clear(buf)
  vim.api.nvim_buf_clear_namespace(buf, H.namespace, 0, -1)
end

-- Helpers ---------------------------------------------------------------------------------------

function H.mark(here, col, position, chunks)
  vim.api.nvim_buf_set_extmark(here.buf, H.namespace, here.row, col, {
    virt_text = chunks,
    virt_text_pos = position,
    hl_mode = 'combine',
  })
end

return M
