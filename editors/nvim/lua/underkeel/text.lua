--- Pure functions over strings: which part of a suggestion to take, and how to draw it.
---
--- Columns are byte offsets, 0-based. No function here reads a buffer or a window.
local M = {}
local H = {}

--- What a suggestion adds to a line.
---
---@class underkeel.Candidate
---@field text string what is inserted at the cursor
---@field replaced integer bytes after the cursor that the text replaces
---@field hop integer bytes after the cursor that stay and that a full accept jumps over
---@field taken integer bytes of `item.insertText` that stand in the buffer already
---@field item table the LSP item

--- Read one LSP item against the line the cursor is on.
---
---@param item table InlineCompletionItem
---@param line string
---@param col integer cursor column
---@param from integer start column of the item's range, `col` where it has none
---@param to integer end column of the item's range
---@return underkeel.Candidate? nil where the item cannot be drawn as an addition to the line
function M.candidate(item, line, col, from, to)
  local insert = item.insertText
  if type(insert) ~= 'string' or from > col or to < col then
    return nil
  end
  local typed = line:sub(from + 1, col)
  if insert:sub(1, #typed) ~= typed then
    return nil
  end
  local text, after = insert:sub(#typed + 1):gsub('\r\n?', '\n'), line:sub(col + 1, to)
  local hop = 0
  if after ~= '' and text:sub(-#after) == after then
    text, hop, after = text:sub(1, -#after - 1), #after, ''
  end
  if text == '' or (after ~= '' and not text:find('\n') and not H.gaps(text, after)) then
    return nil
  end
  return { text = text, replaced = #after, hop = hop, taken = #typed, item = item }
end

--- What is left of a candidate once `typed` more bytes of it stand in the buffer.
---
---@return underkeel.Candidate? nil where the typed text is not its beginning, or nothing is left
function M.advance(candidate, typed)
  if candidate.replaced > 0 or candidate.text:sub(1, #typed) ~= typed or candidate.text == typed then
    return nil
  end
  local rest = vim.tbl_extend('force', {}, candidate)
  rest.text, rest.taken = candidate.text:sub(#typed + 1), candidate.taken + #typed
  return rest
end

--- The leading white space and the first word (by 'iskeyword') or run of punctuation.
function M.word(text)
  return vim.fn.matchstr(text, [[^\_s*\%(\k\+\|\%(\k\@!\S\)\+\)\?]])
end

--- The first line with text on it, without its line end; leading empty lines come with it.
function M.line(text)
  return text:match('^\n*[^\n]*')
end

--- How a candidate looks on a line: pieces between the characters that are there, and lines below.
---
---@param candidate underkeel.Candidate
---@param line string
---@param col integer
---@return { pieces: { col: integer, text: string }[], cover: string?, below: string[], tail: string }
---   `cover` is text to lay over the line from the cursor, where the rest of the line moves down;
---   `tail` is that rest, to be drawn after the last line of `below`
function M.layout(candidate, line, col)
  local lines = vim.split(candidate.text, '\n', { plain = true })
  local first = table.remove(lines, 1)
  local replaced = line:sub(col + 1, col + candidate.replaced)
  if #lines == 0 then
    local pieces = { { col = col, text = first } }
    if replaced ~= '' then
      pieces = H.gaps(first, replaced)
      for _, piece in ipairs(pieces) do
        piece.col = piece.col + col
      end
    end
    return { pieces = pieces, below = {}, tail = '' }
  end
  local tail = line:sub(col + candidate.replaced + 1)
  if replaced .. tail == '' then
    return { pieces = { { col = col, text = first } }, below = lines, tail = '' }
  end
  return { pieces = {}, cover = first, below = lines, tail = tail }
end

--- Tabs as spaces, since virtual text does not expand them.
---
---@param text string one line
---@param column integer screen column (0-based) at which the text starts
---@param tabstop integer
function M.expand_tabs(text, column, tabstop)
  if not text:find('\t', 1, true) then
    return text
  end
  local out, at = {}, column
  for char in text:gmatch(H.CHAR) do
    if char == '\t' then
      char = (' '):rep(tabstop - at % tabstop)
    end
    at = at + vim.fn.strdisplaywidth(char, at)
    out[#out + 1] = char
  end
  return table.concat(out)
end

-- Helpers ---------------------------------------------------------------------------------------

H.CHAR = '[%z\1-\127\194-\244][\128-\191]*'

--- The pieces of `text` around the characters of `kept`, in order.
---
---@return { col: integer, text: string }[]? nil where `kept` is no subsequence of `text`
function H.gaps(text, kept)
  local pieces, gap, at = {}, {}, 0
  local waiting = vim.iter(kept:gmatch(H.CHAR)):totable()
  local index = 1
  for char in text:gmatch(H.CHAR) do
    if char == waiting[index] then
      if #gap > 0 then
        pieces[#pieces + 1] = { col = at, text = table.concat(gap) }
        gap = {}
      end
      at, index = at + #char, index + 1
    else
      gap[#gap + 1] = char
    end
  end
  if index <= #waiting then
    return nil
  end
  if #gap > 0 then
    pieces[#pieces + 1] = { col = at, text = table.concat(gap) }
  end
  return pieces
end

return M
