((command name: (command_name (word) @source) argument: (_) @module) @import
  (#any-of? @source "source" "."))
