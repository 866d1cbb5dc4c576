"""How models write: raw text to reasoning, answer and tool calls."""
