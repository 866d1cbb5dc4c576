"""Configuration of a command: what flags, the environment and one TOML file say, and which of them counts.

A command's table is its parameters: each `Setting` has a key in the file, an environment variable and, but
for secrets and the like, flags. Everything else is made of that table: what a file may say and what is wrong
with one, the JSON Schema, the example, and what `config` shows. A flag wins over the environment, which wins
over the file, which wins over the default; click decides that, for which the file is its `default_map`.
"""
