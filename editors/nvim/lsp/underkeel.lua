-- Found on the runtimepath by |vim.lsp.config()| (Neovim 0.11 and later).
return require('underkeel.server').config(require('underkeel').config)
