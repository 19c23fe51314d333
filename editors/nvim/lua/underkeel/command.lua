--- `:Underkeel`: a table of subcommands, with completion.
local M = {}
local H = {}

--- Run `:Underkeel`.
---
---@param args table see |nvim_create_user_command()|
function M.run(args)
  local name = args.fargs[1] or 'status'
  local subcommand = H.SUBCOMMANDS[name]
  if not subcommand then
    local message = "underkeel: unknown subcommand '%s'; the subcommands are %s"
    return vim.notify(message:format(name, table.concat(H.names(), ', ')), vim.log.levels.ERROR)
  end
  subcommand.run(vim.list_slice(args.fargs, 2), args)
end

--- Completions of the word at the cursor.
function M.complete(lead, line)
  local words = vim.split(vim.trim(line:gsub('^.-Underkeel!?', '', 1)), '%s+', { trimempty = true })
  local first = words[1]
  local choices = H.names()
  if first and not (#words == 1 and lead ~= '') then
    local subcommand = H.SUBCOMMANDS[first]
    choices = subcommand and subcommand.choices and subcommand.choices() or {}
  end
  return vim.tbl_filter(function(choice)
    return vim.startswith(choice, lead)
  end, choices)
end

--- Each subcommand and what it does, for the tests of the help file.
---
---@return { name: string, description: string }[]
function M.list()
  return vim.tbl_map(function(name)
    return { name = name, description = H.SUBCOMMANDS[name].description }
  end, H.names())
end

-- Helpers ---------------------------------------------------------------------------------------

function H.names()
  local names = vim.tbl_keys(H.SUBCOMMANDS)
  table.sort(names)
  return names
end

function H.filetypes()
  return vim.fn.getcompletion('', 'filetype')
end

--- Show lines in a scratch split that q closes.
function H.show(title, lines)
  vim.cmd('botright new')
  local buf = vim.api.nvim_get_current_buf()
  vim.bo[buf].buftype, vim.bo[buf].bufhidden, vim.bo[buf].swapfile = 'nofile', 'wipe', false
  vim.api.nvim_buf_set_lines(buf, 0, -1, false, lines)
  vim.bo[buf].modifiable = false
  pcall(vim.api.nvim_buf_set_name, buf, 'underkeel://' .. title)
  vim.api.nvim_win_set_height(0, math.max(3, math.min(#lines, math.floor(vim.o.lines / 2))))
  vim.keymap.set('n', 'q', '<Cmd>close<CR>', { buffer = buf, nowait = true, desc = 'Close' })
end

--- Run the command line program and show its output.
function H.cli(...)
  local words = { ... }
  local cmd = vim.list_extend(require('underkeel.server').program(), words)
  local options = { text = true, cwd = vim.uv.os_homedir(), env = { NO_COLOR = '1', COLUMNS = tostring(vim.o.columns - 2) } }
  local started, problem = pcall(vim.system, cmd, options, vim.schedule_wrap(function(done)
    local output = vim.trim(vim.trim(done.stdout or '') .. '\n' .. vim.trim(done.stderr or ''))
    H.show(table.concat(words, ' '), vim.split(output, '\n', { plain = true }))
  end))
  if not started then
    vim.notify(('underkeel: cannot run %s: %s'):format(cmd[1], problem), vim.log.levels.ERROR)
  end
end

--- A subcommand that shows the output of the command line program.
function H.output(command, description)
  return {
    description = description,
    run = function(words)
      H.cli(unpack(vim.list_extend(vim.split(command, ' '), words)))
    end,
  }
end

--- A subcommand that runs a code action on the range or at the cursor.
function H.action(name, description)
  return {
    description = description,
    run = function(_, args)
      require('underkeel.edits').run(name, args.line1, args.line2)
    end,
  }
end

H.SUBCOMMANDS = {
  enable = {
    description = 'turn ghost text on, everywhere or for one file type',
    choices = H.filetypes,
    run = function(words)
      require('underkeel').enable(words[1])
    end,
  },
  disable = {
    description = 'turn ghost text off, everywhere or for one file type',
    choices = H.filetypes,
    run = function(words)
      require('underkeel').disable(words[1])
    end,
  },
  toggle = {
    description = 'turn ghost text on or off',
    run = function()
      vim.notify('underkeel: ghost text is ' .. (require('underkeel').toggle() and 'on' or 'off'))
    end,
  },
  status = {
    description = 'show model, budget, memory, and what a prompt left out',
    run = function()
      H.show('status', require('underkeel.status').lines())
    end,
  },
  restart = {
    description = 'restart the language server',
    run = function()
      require('underkeel').restart()
    end,
  },
  explain = {
    description = 'explain the range, or: symbol (default), file, diagnostic',
    choices = function()
      return { 'diagnostic', 'file', 'symbol' }
    end,
    run = function(words, args)
      if args.range > 0 then
        require('underkeel').explain({ kind = 'selection', first = args.line1, last = args.line2 })
      else
        require('underkeel').explain({ kind = words[1] or 'symbol' })
      end
    end,
  },
  ask = {
    description = 'ask about the explanation in this window',
    run = function(words)
      require('underkeel.explain').follow_up(table.concat(words, ' '))
    end,
  },
  cancel = {
    description = 'cancel the explanation or edit that is being written',
    run = function()
      require('underkeel.edits').cancel()
      require('underkeel.explain').cancel()
    end,
  },
  edit = {
    description = 'change the range or the line by an instruction',
    run = function(words, args)
      require('underkeel.edits').edit_lines(args.line1, args.line2, table.concat(words, ' '))
    end,
  },
  log = {
    description = "show the daemon's log",
    run = function()
      H.cli('logs')
    end,
  },
  lsplog = {
    description = "show Neovim's log of language servers",
    run = function()
      vim.cmd.split(vim.fn.fnameescape(require('underkeel.server').log_path()))
    end,
  },
  health = {
    description = 'run :checkhealth underkeel',
    run = function()
      vim.cmd.checkhealth('underkeel')
    end,
  },
  fix = H.action('fix', 'fix the problem at the cursor or in the range'),
  document = H.action('document', 'document the symbol at the cursor or the range'),
  tests = H.action('tests', 'write tests for the symbol at the cursor or the range'),
  models = H.output('models list', 'list the models'),
  plan = H.output('plan', 'show what is placed in GPU memory and in RAM, and why'),
  stats = H.output('stats', 'show how many suggestions were shown and accepted'),
}

return M
