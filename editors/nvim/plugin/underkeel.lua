-- Defines `:Underkeel`; everything else waits for require('underkeel').setup().
if vim.g.loaded_underkeel then
  return
end
vim.g.loaded_underkeel = true

vim.api.nvim_create_user_command('Underkeel', function(args)
  require('underkeel.command').run(args)
end, {
  nargs = '*',
  range = true,
  desc = 'Ghost text, edits and an agent from a model on this machine',
  complete = function(lead, line)
    return require('underkeel.command').complete(lead, line)
  end,
})

vim.api.nvim_create_user_command('UnderkeelAgent', function(args)
  require('underkeel.agent').run(args)
end, {
  nargs = '*',
  range = true,
  bang = true,
  desc = 'Open the agent; with text, send it as a task; with a range, attach the lines',
})
