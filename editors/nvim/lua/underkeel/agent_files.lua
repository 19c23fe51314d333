--- Files and diagnostics for the agent: it sees unsaved buffers and makes its changes in them.
local M = {}
local H = {}

local acp = require('underkeel.acp')

--- Answer a request of the agent for a file.
---
---@param method string
---@param params table
---@return any result
---@return table? err
function M.answer(method, params)
  local run = H.METHODS[method]
  if not run then
    return nil, { code = acp.METHOD_NOT_FOUND, message = 'this client has no ' .. method }
  end
  local ok, result, err = pcall(run, params)
  if not ok then
    return nil, { code = -32603, message = tostring(result) }
  end
  return result, err
end

--- The loaded buffer of a file, or nil.
---
---@param path string
function M.buffer(path)
  local wanted = vim.uv.fs_realpath(path) or path
  for _, buf in ipairs(vim.api.nvim_list_bufs()) do
    local name = vim.api.nvim_buf_get_name(buf)
    if name ~= '' and vim.api.nvim_buf_is_loaded(buf) and vim.bo[buf].buftype == '' then
      if (vim.uv.fs_realpath(name) or name) == wanted then
        return buf
      end
    end
  end
end

-- Helpers ---------------------------------------------------------------------------------------

H.MOST_DIAGNOSTICS = 100
H.NOT_TEXT = -32003

function H.read(params)
  local buf = M.buffer(params.path)
  -- Saved text is on disk, where another program may have changed it since.
  if not buf or not vim.bo[buf].modified then
    return nil, { code = acp.NOT_FOUND, message = 'no buffer has unsaved text of this file' }
  end
  local lines = vim.api.nvim_buf_get_lines(buf, 0, -1, false)
  local text = table.concat(lines, '\n')
  if select(2, text:gsub('\n', '')) ~= #lines - 1 or vim.fn.iconv(text, 'utf-8', 'utf-8') ~= text then
    return nil, { code = H.NOT_TEXT, message = 'the buffer holds no plain text' }
  end
  if params.line or params.limit then
    local first = math.max(params.line or 1, 1)
    lines = vim.list_slice(lines, first, params.limit and first + params.limit - 1 or #lines)
    return { content = table.concat(lines, '\n') }
  end
  local is_empty = #lines == 1 and lines[1] == ''
  local ends = not is_empty and (vim.bo[buf].endofline or vim.bo[buf].fixendofline)
  return { content = text .. (ends and '\n' or '') }
end

--- Change the lines that differ, as one step of undo, and save the buffer.
function H.write(params)
  local buf = M.buffer(params.path)
  if not buf then
    return nil, { code = acp.NOT_FOUND, message = 'no buffer has this file' }
  elseif vim.bo[buf].readonly or not vim.bo[buf].modifiable then
    error('the buffer is read-only', 0)
  end
  local text = params.content
  if vim.bo[buf].fileformat == 'dos' then
    text = text:gsub('\r\n', '\n')
  end
  local ends = text:sub(-1) == '\n'
  local new = vim.split(ends and text:sub(1, -2) or text, '\n', { plain = true })
  H.replace(buf, new)
  if ends ~= vim.bo[buf].endofline then
    vim.bo[buf].endofline = ends
  end
  if not ends then
    vim.bo[buf].fixendofline = false
  end
  vim.api.nvim_buf_call(buf, function()
    vim.cmd('silent lockmarks write!')
  end)
  return vim.empty_dict()
end

function H.replace(buf, new)
  local old = vim.api.nvim_buf_get_lines(buf, 0, -1, false)
  local first, last = 0, 0
  local shorter = math.min(#old, #new)
  while first < shorter and old[first + 1] == new[first + 1] do
    first = first + 1
  end
  while last < shorter - first and old[#old - last] == new[#new - last] do
    last = last + 1
  end
  if first == #old and first == #new then
    return
  end
  -- Setting 'undolevels' ends the step of undo that the user may be typing in.
  vim.bo[buf].undolevels = vim.bo[buf].undolevels
  vim.api.nvim_buf_set_lines(buf, first, #old - last, true, vim.list_slice(new, first + 1, #new - last))
  vim.bo[buf].undolevels = vim.bo[buf].undolevels
end

function H.unsaved()
  local paths = {}
  for _, buf in ipairs(vim.api.nvim_list_bufs()) do
    local name = vim.api.nvim_buf_get_name(buf)
    if vim.api.nvim_buf_is_loaded(buf) and vim.bo[buf].modified and vim.bo[buf].buftype == '' and name ~= '' then
      paths[#paths + 1] = name
    end
  end
  return { paths = paths }
end

function H.diagnostics(params)
  local buf = params.path and M.buffer(params.path)
  if params.path and not buf then
    return vim.empty_dict()
  end
  local rows = {}
  for _, one in ipairs(vim.diagnostic.get(buf)) do
    local name = vim.fn.fnamemodify(vim.api.nvim_buf_get_name(one.bufnr), ':.')
    local severity = vim.diagnostic.severity[one.severity]:lower()
    local message = one.message:gsub('%s*\n%s*', ' ')
    rows[#rows + 1] = ('%s:%d: %s: %s'):format(name, one.lnum + 1, severity, message)
    if #rows == H.MOST_DIAGNOSTICS then
      break
    end
  end
  return { text = #rows > 0 and table.concat(rows, '\n') or 'No diagnostics.' }
end

H.METHODS = {
  ['fs/read_text_file'] = H.read,
  ['fs/write_text_file'] = H.write,
  ['_underkeel/unsaved'] = H.unsaved,
  ['_underkeel/diagnostics'] = H.diagnostics,
}

return M
