"""A predictor as a tool of other programs: MCP clients, LangChain agents, smolagents.

Each module needs one extra package; importing it without that package is a ``ConfigError`` which
names the line that installs it.
"""
