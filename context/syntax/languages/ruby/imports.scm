((call method: (identifier) @require arguments: (argument_list . (string (string_content) @module) .)) @import
  (#any-of? @require "require" "require_relative" "load"))
