--- Pure functions over strings: which part of a suggestion to accept, and how to draw it.
---
--- Columns are byte offsets, 0-based. No function here reads a buffer or a window.
local M = {}
local H = {}

--- What an LSP item adds to the cursor's line.
---
---@class underkeel.Candidate
---@field text string what is inserted at the cursor
---@field replaced integer bytes after the cursor that the text replaces
---@field skipped integer bytes after the cursor that are kept and that a full accept moves over
---@field taken integer bytes of `item.insertText`, line ends as `\n`, that are in the buffer already
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
  insert = insert:gsub('\r\n?', '\n')
  local typed = line:sub(from + 1, col)
  if insert:sub(1, #typed) ~= typed then
    return nil
  end
  local text, after = insert:sub(#typed + 1), line:sub(col + 1, to)
  local skipped = 0
  if after ~= '' and text:sub(-#after) == after then
    text, skipped, after = text:sub(1, -#after - 1), #after, ''
  end
  if text == '' or (after ~= '' and not text:find('\n') and not H.gaps(text, after)) then
    return nil
  end
  return { text = text, replaced = #after, skipped = skipped, taken = #typed, item = item }
end

--- What is left of a candidate once `typed` is in the buffer too.
---
---@return underkeel.Candidate? nil where `typed` is not its beginning, or nothing is left
function M.advance(candidate, typed)
  if candidate.replaced > 0 or candidate.text:sub(1, #typed) ~= typed or candidate.text == typed then
    return nil
  end
  local rest = vim.tbl_extend('force', {}, candidate)
  rest.text, rest.taken = candidate.text:sub(#typed + 1), candidate.taken + #typed
  return rest
end

--- The longer form of a candidate, as the server has updated it.
---
---@param candidate underkeel.Candidate
---@param item table InlineCompletionItem with more text
---@return underkeel.Candidate? nil where it is another item, or does not begin as the old one does
function M.longer(candidate, item)
  local function id(one)
    return vim.tbl_get(one, 'command', 'arguments', 1, 'id')
  end
  local same = id(item) ~= nil and id(item) == id(candidate.item)
  if not same or candidate.replaced > 0 or candidate.skipped > 0 then
    return nil
  end
  local old = candidate.item.insertText:gsub('\r\n?', '\n')
  local new = item.insertText:gsub('\r\n?', '\n')
  if new:sub(1, candidate.taken) ~= old:sub(1, candidate.taken) or #new <= candidate.taken then
    return nil
  end
  local longer = vim.tbl_extend('force', {}, candidate)
  longer.text, longer.item = new:sub(candidate.taken + 1), item
  return longer
end

--- The leading white space and the first word (by 'iskeyword') or run of punctuation.
function M.word(text)
  return vim.fn.matchstr(text, [[^\_s*\%(\k\+\|\%(\k\@!\_s\@!\S\)\+\)\?]])
end

--- Leading empty lines and the first line with text on it, without its line end.
function M.line(text)
  return text:match('^\n*[^\n]*')
end

--- How a candidate looks on a line: pieces between the existing characters, and lines below.
---
---@param candidate underkeel.Candidate
---@param line string
---@param col integer
---@return { pieces: { col: integer, text: string }[], cover: string?, below: string[], tail: string }
---   `cover` is drawn over the line from the cursor on, where the rest of the line moves down;
---   `tail` is that rest, drawn after the last line of `below`
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

--- Replace tabs by spaces, since virtual text does not expand them.
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

--- How many UTF-16 code units of `insert` its first bytes are; combining characters count too.
---
---@param insert string `insertText` of an item, with any line ends
---@param bytes integer counted with line ends as `\n`
---@return integer
function M.utf16_length(insert, bytes)
  local taken = insert:gsub('\r\n?', '\n'):sub(1, bytes)
  return vim.fn.strutf16len(taken, 1)
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
