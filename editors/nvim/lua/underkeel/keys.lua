--- Keys of insert mode that exist only while ghost text shows, and only in its buffer.
local M = {}
local H = {}

--- Map the keys in a buffer.
---
---@param buf integer
---@param mappings table<string, string> key by action; an empty key is left out
---@param actions table<string, { [1]: string, [2]: fun(): boolean }> description and function
---@return table<string, table> what was there before, by key; an empty table for nothing
function M.map(buf, mappings, actions)
  local before = {}
  for action, known in pairs(actions) do
    local lhs = mappings[action]
    if lhs ~= '' then
      local old = vim.fn.maparg(lhs, 'i', false, true)
      before[lhs] = old.buffer == 1 and old or {}
      vim.keymap.set('i', lhs, function()
        if not known[2]() then
          H.pass_on(lhs)
        end
      end, { buffer = buf, desc = known[1] .. ' (Underkeel)' })
    end
  end
  return before
end

--- Take the keys away and put back what was there.
function M.unmap(buf, before)
  for lhs, old in pairs(before) do
    pcall(vim.keymap.del, 'i', lhs, { buffer = buf })
    if next(old) then
      vim.api.nvim_buf_call(buf, function()
        vim.fn.mapset('i', false, old)
      end)
    end
  end
end

-- Helpers ---------------------------------------------------------------------------------------

--- Let the key do what it does without ghost text.
function H.pass_on(lhs)
  require('underkeel.ghost').clear()
  local codes = vim.api.nvim_replace_termcodes(lhs, true, true, true)
  vim.api.nvim_feedkeys(codes, 'mi', false)
end

return M
